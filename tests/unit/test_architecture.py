"""The layout is the pipeline: who may import what, who owns which library, and what no module may do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("revoker", "consumers")

#: Where each library may be imported: modules, or rooms with all modules in them. One owner, one place to change.
OWNERS = {
    "jwt": {"revoker.tokens", "revoker.compact", "revoker.keys"},
    "cryptography": {
        "revoker.tokens",
        "revoker.keys",
        "revoker.algorithms",
        "revoker.pem",
        "revoker.signature",
        "revoker.secured",
        "revoker.cli",
    },
    "cachetools": {"consumers.denylist.memory"},
    "aiokafka": {
        "revoker.kafka",
        "revoker.cluster",
        "revoker.topic",
        "revoker.diagnosis",
        "revoker.ends",
        "revoker.heartbeat",
        "revoker.sender",
        "revoker.oauth",
        "revoker.rights",
        "consumers.follower",
        "consumers.slices",
        "consumers.starting",
        "consumers.bulk",
        "consumers.watch",
    },
    "aiohttp": {"revoker.service", "revoker.cli", "revoker.oauth", "consumers.aiohttp"},
    "fastapi": {"consumers.fastapi"},
    "starlette": {"consumers.fastapi"},
    "click": {"revoker.cli"},
    "prometheus_client": {"revoker.health"},
    "sqlite3": {"revoker.outbox"},
    "numpy": {
        "consumers.denylist.filing",
        "consumers.denylist.table",
        "consumers.denylist.rebuild",
        "consumers.denylist.writer",
    },
    "xxhash": {f"consumers.denylist.{name}" for name in ("fingerprint", "table", "screen", "snapshot")},
}

#: What an API node may use of the publishing side.
SHARED = {
    f"revoker.{name}"
    for name in (
        "bearer",
        "errors",
        "settings",
        "events",
        "record",
        "expiry",
        "tokens",
        "keys",
        "kafka",
        "cluster",
        "topic",
        "health",
        "ends",
        "signature",
        "trust",
        "trustfile",
    )
} | {"revoker.diagnosis", "revoker.contract"}

#: Modules that may be longer than the limit, each with its reason.
LONG: dict[str, str] = {}
LONGEST = 400

CLOCKS = {
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.monotonic_ns",
    "time.perf_counter",
    "datetime.now",
    "datetime.utcnow",
    "datetime.datetime.now",
    "datetime.date.today",
    "date.today",
}


@dataclass(frozen=True)
class Import:
    """One import. ``target`` is the module; ``eager``: it runs when the importing module does."""

    target: str
    name: str | None
    line: int
    eager: bool


def _module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
EACH = pytest.mark.parametrize("module", MODULES)


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


def _walk(node: ast.AST, *, eager: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        runs = eager and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            runs = False
        yield child, runs
        yield from _walk(child, eager=runs)


@cache
def imports(module: str) -> tuple[Import, ...]:
    found = []
    for node, eager in _walk(tree(module), eager=True):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, None, node.lineno, eager) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                if submodule in MODULES:
                    found.append(Import(submodule, None, node.lineno, eager))
                else:
                    found.append(Import(node.module, alias.name, node.lineno, eager))
    return tuple(found)


def within(module: str, rooms: set[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


@EACH
def test_the_publishing_side_does_not_know_the_consuming_one(module: str) -> None:
    """revoker imports consumers nowhere but in its command line, the composition root, not even inside a function."""
    if module.startswith("revoker") and not within(module, {"revoker.cli"}):
        assert [one for one in imports(module) if within(one.target, {"consumers"})] == []


@EACH
def test_a_node_uses_only_what_is_shared(module: str) -> None:
    """consumers uses events, tokens, Kafka and settings of revoker, never its publisher, service or command line."""
    if module.startswith("consumers"):
        ours = {one.target for one in imports(module) if within(one.target, {"revoker"})}
        assert ours - SHARED == set()


def test_modules_import_each_other_in_one_direction() -> None:
    """No module imports itself, however far round, when it is imported."""
    graph = {
        module: {one.target for one in imports(module) if one.eager and one.target in MODULES} for module in MODULES
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@EACH
def test_each_library_has_its_owners(module: str) -> None:
    """A library is imported only by the modules that own it, for types and inside functions alike."""
    for one in imports(module):
        library = one.target.partition(".")[0]
        if library in OWNERS:
            assert within(module, OWNERS[library]), f"line {one.line}: {library} belongs to {sorted(OWNERS[library])}"


@EACH
def test_only_the_table_of_settings_reads_the_environment(module: str) -> None:
    """os.environ and os.getenv stand in revoker/settings.py alone, or a setting would not be in the table."""
    if module != "revoker.settings":
        names = {"environ", "environb", "getenv"}
        reads = [node for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute) and node.attr in names]
        assert [f"line {read.lineno}" for read in reads if ast.unparse(read.value) == "os"] == []
        assert [one for one in imports(module) if one.target == "os" and one.name in names] == []


@EACH
def test_clocks_are_handed_in(module: str) -> None:
    """Only the command line asks a clock by itself; elsewhere clocks are arguments, so that tests can tick them."""
    if not within(module, {"revoker.cli"}):
        calls = [
            node for node in ast.walk(tree(module)) if isinstance(node, ast.Call) and ast.unparse(node.func) in CLOCKS
        ]
        assert [f"line {call.lineno}: {ast.unparse(call)}" for call in calls] == []


@EACH
def test_no_clock_is_asked_at_import(module: str) -> None:
    """A clock call at module level or in a default argument is frozen for the life of the process."""
    frozen = [node for node, eager in _walk(tree(module), eager=True) if eager and isinstance(node, ast.Call)]
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            defaults = [*node.args.defaults, *(default for default in node.args.kw_defaults if default is not None)]
            frozen += [call for default in defaults for call in ast.walk(default) if isinstance(call, ast.Call)]
    assert [f"line {call.lineno}" for call in frozen if ast.unparse(call.func) in CLOCKS] == []


@EACH
def test_no_module_imports_its_own_package_root(module: str) -> None:
    """The roots hold no names but the version, which one module shows: names live in the modules."""
    for one in imports(module):
        if one.target in PACKAGES and one.target == module.partition(".")[0]:
            assert module == "revoker.health", f"line {one.line} imports {one.target} itself"


@EACH
def test_what_others_import_is_declared(module: str) -> None:
    """__all__ names nothing that does not exist, nothing twice, and everything another module takes by name."""
    top = _top_level_names(module)
    declared = _declared(module)
    assert len(set(declared)) == len(declared)
    assert set(declared) <= top
    taken = {
        one.name for other in MODULES for one in imports(other) if other != module and one.target == module and one.name
    }
    assert taken - set(declared) == set()


def _declared(module: str) -> list[str]:
    for node in tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


def _top_level_names(module: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


@EACH
def test_modules_are_named_for_what_they_do(module: str) -> None:
    """No utils, base, common or helpers: a name that says nothing collects everything."""
    assert set(module.split(".")) & {"util", "utils", "base", "common", "helper", "helpers", "misc"} == set()


@pytest.mark.parametrize(
    "path",
    [path for room in (*PACKAGES, "tests", "benchmarks", "examples") for path in sorted((ROOT / room).rglob("*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_files_stay_short(path: Path) -> None:
    """A file that outgrows the limit has two jobs; an exception gives its reason."""
    name = str(path.relative_to(ROOT))
    length = path.read_text("utf-8").count("\n")
    assert length < LONGEST or name in LONG, f"{length} lines"
    assert name not in LONG or length >= LONGEST, "an exception that is no longer needed"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_root_costs_nothing(package: str) -> None:
    """Importing a root pulls in no third-party module and no module of ours: `import revoker` is free."""
    listing = "import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}), *sorted(sys.modules))"

    def loaded(code: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        )
        return set(done.stdout.split())

    added = loaded(f"import {package}; {listing}") - loaded(listing)
    assert {name for name in added if name.partition(".")[0] not in sys.stdlib_module_names} == {package}
