"""What the benchmarks revoke and check: the same for every store and every peer.

Identifiers look like those of real issuers (UUIDs). The tokens checked are never among those revoked, unless
asked for: an identifier follows from its number alone.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from consumers.denylist.memory import MemoryDenyList
from consumers.denylist.shared import SharedDenyList
from consumers.freshness import Freshness
from consumers.mirror import publish
from consumers.node import Node
from revoker.events import Revocation, Selector, Session, Subject, Token
from revoker.moments import rfc3339
from revoker.record import encode
from revoker.settings import Settings
from revoker.tokens import Verified, sign
from tests.brokers.workdir import WorkDirectory

__all__ = [
    "ISS",
    "LIFE_S",
    "ONE_KIND",
    "THREE_KINDS",
    "UNHURRIED",
    "Encoder",
    "fill_topic",
    "identifiers",
    "key_pair",
    "live_node",
    "prove",
    "revocations",
    "signed",
    "slices",
    "tokens",
    "work_directory",
]

ISS: Final = "https://id.example/realms/main"
LIFE_S: Final = 3600
#: For brokers: the tests' quick ones count as dead after a second in which a busy machine did not let them run.
UNHURRIED: Final = {"broker.session.timeout.ms": "9000", "broker.heartbeat.interval.ms": "2000"}
ONE_KIND: Final = ("token",)
THREE_KINDS: Final = ("token", "session", "subject")

_MAKERS: Final[dict[str, Callable[[str], Selector]]] = {
    "token": lambda name: Token(iss=ISS, jti=name),
    "session": lambda name: Session(iss=ISS, sid=name),
    "subject": lambda name: Subject(iss=ISS, sub=name),
}


def identifiers(count: int, *, seed: int) -> Iterator[str]:
    """So many random UUIDs, the same for the same seed."""
    bits = Random(seed).getrandbits
    for _ in range(count):
        text = f"{bits(128):032x}"
        yield f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def revocations(count: int, *, kinds: Sequence[str] = ONE_KIND, now_s: int, seed: int = 1) -> Iterator[Revocation]:
    """So many live revocations, the kinds in turn; they expire after more than a token's life, not all at once."""
    for number, name in enumerate(identifiers(count, seed=seed)):
        kind = kinds[number % len(kinds)]
        yield Revocation(
            id=name,
            selector=_MAKERS[kind](name),
            revoked_at=now_s,
            expires_at=now_s + 2 * LIFE_S + number % LIFE_S,
            cutoff=now_s if kind == "subject" else None,
            reason="logout",
        )


def tokens(count: int, *, now_s: int, seed: int = 2, revoked_by: Iterator[str] | None = None) -> list[Verified]:
    """So many verified tokens, each of a user and a session of its own, none of them revoked.

    ``revoked_by``: identifiers of revoked tokens to give to them as ``jti`` instead.
    """
    names = identifiers(3 * count, seed=seed)
    found = []
    for _ in range(count):
        jti, sid, sub = next(names), next(names), next(names)
        claims: dict[str, Any] = {
            "iss": ISS,
            "sub": sub,
            "aud": "api",
            "iat": now_s - 60,
            "exp": now_s - 60 + LIFE_S,
            "jti": jti if revoked_by is None else next(revoked_by),
            "sid": sid,
            "azp": "web",
            "scope": "openid profile",
        }
        found.append(Verified(claims=claims, kid="k1", raw=f"eyJhbGciOiJSUzI1NiJ9.{sub}.{jti}"))
    return found


def key_pair(folder: Path) -> tuple[RSAPrivateKey, Path]:
    """An RSA key of 2048 bits, and the file of its public half."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    file = folder / "public.pem"
    file.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, file


def signed(verified: Verified, private: RSAPrivateKey) -> str:
    """The compact token with these claims, RS256."""
    return sign(verified.claims, key=private, algorithm="RS256", headers={"kid": "k1"})


def prove(freshness: Freshness) -> None:
    """Make a node live without a broker, by the observations that a follower of an empty topic would report."""
    freshness.connecting("benchmark")
    freshness.begin(starts={0: 0}, barriers={0: 0})
    for stamp_ms in range(1, 4):
        freshness.polled(0, leader=1, stamp_ms=stamp_ms, position=0, highwater=0)
    freshness.confirmed(freshness.asking())
    if not math.isfinite(freshness.fresh_until):
        raise RuntimeError(f"the node is not live: {freshness.why()}")


#: As librdkafka's binding has them.
Headers: TypeAlias = list[tuple[str, str | bytes | None]]


class Encoder:
    """Writes what `revoker.record.encode` would, in a fifth of the time, for the events of `revocations`.

    A record is the first of its kind with another identifier and another expiry; each thousandth is compared.
    """

    def __init__(self) -> None:
        self._first: dict[str, tuple[Revocation, bytes, bytes, Headers]] = {}
        self._count = 0

    def __call__(self, event: Revocation) -> tuple[bytes, bytes, Headers]:
        kind = event.selector.kind
        if kind not in self._first:
            key, value, written = encode(event)
            self._first[kind] = event, key, value, [*written]
        like, key, value, headers = self._first[kind]
        old, new = like.id.encode(), event.id.encode()
        value = value.replace(old, new).replace(b":%d" % like.expires_at, b":%d" % event.expires_at)
        anew = {"ce_id": new, "ce_expirytime": _expiry_text(event.expires_at)}
        found = key.replace(old, new), value, [(name, anew.get(name, text)) for name, text in headers]
        self._count += 1
        if self._count % 1000 == 2 and found != encode(event):
            raise RuntimeError(f"the record of {event} would be another than the publisher's")
        return found


@lru_cache(maxsize=2 * LIFE_S)
def _expiry_text(expires_at: int) -> bytes:
    return rfc3339(expires_at).encode()


def fill_topic(bootstrap: str, topic: str, events: Iterable[Revocation], *, partitions: int = 1) -> int:
    """Write ``events``, encoded as our publisher does, to the partitions in turn. Returns how many.

    By librdkafka, which is several times as fast as one aiokafka producer. Raises RuntimeError if any was not
    acknowledged.
    """
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    failures: list[str] = []
    encoded = Encoder()

    def acknowledged(error: object, _message: object) -> None:
        if error is not None:
            failures.append(str(error))

    count = 0
    for count, event in enumerate(events, start=1):
        key, value, headers = encoded(event)
        while True:
            try:
                producer.produce(
                    topic, value, key, partition=count % partitions, headers=headers, on_delivery=acknowledged
                )
                break
            except BufferError:  # a million are under way: wait for some to arrive
                producer.poll(0.1)
        if count % 1000 == 0:
            producer.poll(0)
    if left := producer.flush(60.0):
        failures.append(f"{left} records were not acknowledged within 60 s")
    if failures:
        raise RuntimeError(f"{len(failures)} records were not written: {failures[0]}")
    return count


def slices(events: Iterator[Revocation], size: int = 500) -> Iterator[list[Revocation]]:
    """``events`` as a follower hands them over, ``size`` at once."""
    while batch := list(islice(events, size)):
        yield batch


@contextmanager
def live_node(settings: Settings, events: Iterable[Revocation]) -> Iterator[Node]:
    """A node that holds ``events`` and has a proof, without a broker; as ``settings`` say, which need a long bound.

    Of `shared` it is a reader, as all processes of a host but one; the writer is here as well, and does nothing more.
    """
    writer: MemoryDenyList | SharedDenyList
    if settings.denylist == "memory":
        writer = MemoryDenyList(max_entries=settings.max_entries)
        node = Node(settings, denylist=writer)
    else:
        assert settings.shared_dir is not None
        writer = SharedDenyList(settings.shared_dir, max_entries=settings.max_entries)
        writer.take()
        node = Node(dataclasses.replace(settings, shared_role="reader"))
    count = 0
    for batch in slices(iter(events)):
        writer.apply_all(batch)
        count += len(batch)
    if isinstance(writer, SharedDenyList):
        writer.step(1_000_000)  # the growth under way, which a node goes on with in idle turns
    if (held := sum(writer.counts().values())) != count:
        raise RuntimeError(f"the store {settings.denylist} holds {held} of {count} revocations")
    if isinstance(writer, MemoryDenyList):
        prove(node.freshness)
        yield node
        return
    node.look()
    prove(node.freshness)
    assert writer.control is not None
    publish(node.freshness, writer.control, now=time.monotonic())
    yield node
    node.shut()
    writer.close()


@contextmanager
def work_directory(*, in_memory: bool = False) -> Iterator[Path]:
    """A directory for as long as the ``with`` lasts; what a killed benchmark left behind goes with the next one.

    ``in_memory``: on a tmpfs, if this machine has one.
    """
    memory = Path("/dev/shm")
    work = WorkDirectory(prefix="revoker-bench-", parent=memory if in_memory and memory.is_dir() else None)
    try:
        yield work.path
    finally:
        work.remove()
