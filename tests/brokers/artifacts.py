"""What Apache Kafka needs to run without containers: a Java, and Kafka's jars from Maven Central, fetched once.

Debian and Ubuntu machines get Java and Maven installed by package name when they are missing and this user may do so.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KAFKA_VERSION", "ArtifactsError", "cache_directory", "find_java", "install_packages", "kafka_jars"]

KAFKA_VERSION = "4.3.1"
_SCALA = "2.13"
_LOG4J_VERSION = "2.25.4"
_DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
# Brokers of the 4.x line need Java 17: https://kafka.apache.org/documentation/#java (KIP-1013).
_OLDEST_JAVA = 17
_MAVEN_TIMEOUT_S = 600.0
_OWN_CLUSTER = "Or point REVOKER_TEST_BOOTSTRAP at a cluster that already runs."

# kafka_2.13 alone has the broker and the storage tool (45 jars, 44 MB). Without an slf4j binding it hides its errors.
_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>revoker</groupId><artifactId>test-broker</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_{_SCALA}</artifactId><version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>{_LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""


class ArtifactsError(RuntimeError):
    """Apache Kafka cannot be run on this machine as it is; the message says what is missing and how to get it."""


def cache_directory() -> Path:
    """Where the jars are kept between runs: below ``$XDG_CACHE_HOME`` (by default ``~/.cache``) in ``revoker``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "revoker" / f"kafka-{KAFKA_VERSION}"


def find_java() -> str:
    """The path of a ``java`` of at least version 17; installed by Debian package name when there is none.

    Looked for in ``$JAVA_HOME``, on ``$PATH``, then where Debian puts every version.

    Raises:
        ArtifactsError: there is none and it cannot be installed.
    """
    found = _installed_java()
    if found is None:
        install_packages("default-jre-headless", missing=f"Java {_OLDEST_JAVA} or newer")
        found = _installed_java()
    if found is None:  # Debian 11's default is 11, with 17 beside it
        install_packages("openjdk-17-jre-headless", missing=f"Java {_OLDEST_JAVA} or newer")
        found = _installed_java()
    if found is None:
        message = f"Java {_OLDEST_JAVA} or newer was installed but is not found; name its directory with JAVA_HOME"
        raise ArtifactsError(message)
    return found


def kafka_jars(*, java: str) -> Path:
    """The directory with Kafka's jars, complete. Fetched from Maven on first use (44 MB), then never again.

    Parallel callers wait for the first. A fetch that is cut short leaves nothing that looks complete.

    Args:
        java: runs Maven.

    Raises:
        ArtifactsError: Maven is missing and cannot be installed, or it failed; with its output.
    """
    libs = cache_directory() / "libs"
    if libs.is_dir():
        return libs
    libs.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(libs.parent / "lock"):
        if not libs.is_dir():
            _fetch(libs, java=java)
    return libs


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(libs: Path, *, java: str) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        install_packages("maven", missing="Maven")
        maven = shutil.which("mvn")
    if maven is None:
        message = "Maven was installed but `mvn` is not on the PATH"
        raise ArtifactsError(message)
    _say(f"fetching Apache Kafka {KAFKA_VERSION} from Maven into {libs}")
    with tempfile.TemporaryDirectory(dir=libs.parent, prefix="fetch-") as work:
        pom = Path(work) / "pom.xml"
        pom.write_text(_POM, encoding="utf-8")
        command = [maven, "-q", "-B", "--strict-checksums", "-f", str(pom), f"{_DEPENDENCY_PLUGIN}:copy-dependencies"]
        command += ["-DincludeScope=runtime", f"-DoutputDirectory={work}/libs"]
        environment = dict(os.environ)
        # Maven follows JAVA_HOME before PATH: a stale one must not undo what find_java found. A version manager's
        # shim has no home of its own; then Maven finds the same shim on the PATH.
        environment.pop("JAVA_HOME", None)
        home = Path(java).resolve().parent.parent
        if (home / "lib" / "modules").is_file():
            environment["JAVA_HOME"] = str(home)
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_MAVEN_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            message = f"Maven did not fetch Kafka's jars within {_MAVEN_TIMEOUT_S:g} s"
            raise ArtifactsError(message) from error
        if done.returncode != 0:
            message = f"Maven could not fetch Kafka's jars, exit code {done.returncode}:\n{done.stdout}{done.stderr}"
            raise ArtifactsError(message)
        (Path(work) / "libs").rename(libs)


def _installed_java() -> str | None:
    candidates = [Path(os.environ["JAVA_HOME"]) / "bin" / "java"] if os.environ.get("JAVA_HOME") else []
    on_path = shutil.which("java")
    if on_path is not None:
        candidates.append(Path(on_path))
    candidates += sorted(Path("/usr/lib/jvm").glob("*/bin/java"))
    for candidate in candidates:
        version = _java_version(candidate)
        if version is not None and version >= _OLDEST_JAVA:
            return str(candidate)
    return None


def _java_version(java: Path) -> int | None:
    try:
        done = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):  # absent or broken: as good as none
        return None
    match = re.search(r'version "(\d+)', done.stderr)
    return int(match.group(1)) if match else None


def install_packages(*packages: str, missing: str, elsewhere: str = _OWN_CLUSTER) -> None:
    """Install Debian packages as root or through a sudo that asks nothing.

    ``missing`` and ``elsewhere``: what the packages bring, and what to do without them, for the message of the error.

    Raises:
        ArtifactsError: this machine has no apt-get, this user may not install, or the installation failed.
    """
    by_hand = f"apt-get update && apt-get install {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        message = f"{missing} is missing, and this is no Debian or Ubuntu: install it by hand. {elsewhere}"
        raise ArtifactsError(message)
    as_root: list[str] = []
    if os.geteuid() != 0:
        if shutil.which("sudo") is None or subprocess.run(["sudo", "-n", "true"], check=False).returncode != 0:
            message = f"{missing} is missing, and this user may not install it. As root, run: {by_hand}. {elsewhere}"
            raise ArtifactsError(message)
        as_root = ["sudo", "-n"]
    _say(f"{missing} is missing: installing by Debian package name: {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    commands = (["apt-get", "update", "-q"], ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages])
    for command in commands:
        done = subprocess.run([*as_root, *command], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            message = f"`{' '.join(command)}` failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            raise ArtifactsError(message)


def _say(text: str) -> None:
    print(f"brokers: {text}", file=sys.stderr, flush=True)
