"""Thousands of bad records: each is applied or counted as unread, none is passed over, and no good one is lost."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from consumers.denylist.memory import MemoryDenyList
from consumers.freshness import State
from consumers.intake import Intake
from consumers.node import Node
from consumers.testing import MemoryTopic
from revoker.events import KINDS, Heartbeat, Revocation, Token
from revoker.record import Undecodable, decode, encode
from tests import samples
from tests.bad_inputs import tried
from tests.mutations import spoiled_bytes, spoiled_json

NOW: Final = 1_800_000_000
RETENTION_S: Final = 7200

_COMMON: Final = {"v": 1, "id": "e", "revoked_at": NOW, "expires_at": NOW + 3600, "reason": "r", "actor": "a"}
_SELECTORS: Final[dict[str, dict[str, Any]]] = {
    "token": {"iss": "i", "jti": "spoiled"},
    "digest": {"iss": "i", "digest": "0" * 64},
    "session": {"iss": "i", "sid": "s"},
    "subject": {"iss": "i", "sub": "u", "spare_sid": "s", "cutoff": NOW},
    "client": {"iss": "i", "client_id": "c", "cutoff": NOW},
    "claim": {"iss": "i", "claim": "tenant", "value": "t", "cutoff": NOW},
    "key": {"iss": "i", "kid": "k", "cutoff": None},
    "issuer": {"iss": "i", "cutoff": NOW},
    "all": {"cutoff": NOW},
    "withdrawal": {"event_id": "w"},
    "heartbeat": {},
}
_STRANGERS: Final = ("cutoff", "spare_jti", "jti", "sid", "sub", "kind", "v", "V", "__proto__", "")
_TIMES_MS: Final = (NOW * 1000, NOW * 1000, NOW * 1000, -1, 0, 1, (NOW + 10**6) * 1000, 2**63 - 1)


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A record as the client hands it over."""

    value: bytes | None
    offset: int
    timestamp: int = NOW * 1000
    partition: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()


def spoiled(rng: random.Random) -> bytes | None:
    """A value that was a good one of any kind, or never was one."""
    kind = rng.choice(tuple(_SELECTORS))
    members = {**_COMMON, "kind": kind, **_SELECTORS[kind]}
    match rng.randrange(10):
        case 0:
            return rng.choice((None, b"", b"\x00", b"{", b"null", rng.randbytes(rng.randrange(300))))
        case 1:
            return json.dumps(members | {"v": rng.choice((0, 2, -1, 10**20, "1", 1.0, True, None))}).encode()
        case 2 | 3 | 4:
            return spoiled_bytes(rng, json.dumps(members).encode())
        case _:
            return spoiled_json(rng, members, strangers=_STRANGERS)


def good(number: int) -> bytes:
    """A revocation of a token of its own."""
    selector = Token(iss="good", jti=f"good-{number}")
    return encode(Revocation(id=f"e-{number}", selector=selector, revoked_at=NOW, expires_at=NOW + 3600))[1]


def test_every_kind_is_spoiled() -> None:
    """A kind that is added later has to be added here."""
    assert set(_SELECTORS) - {"heartbeat"} == set(KINDS)


def test_every_record_is_applied_or_counted_and_no_good_one_is_lost() -> None:
    """Between bad records of all kinds the good ones take effect; every bad one is counted, and shows its place."""
    denylist = MemoryDenyList(max_entries=10**6)
    now = float(NOW)
    intake = Intake(denylist, retention_ms=RETENTION_S * 1000, wall=lambda: now, monotonic=lambda: now)
    taken = 0

    def records(inputs: Iterator[random.Random]) -> Iterator[Raw]:
        nonlocal taken
        for rng in inputs:
            value = spoiled(rng)
            assert isinstance(decode(value), Revocation | Heartbeat | Undecodable)
            yield Raw(value=value, offset=taken, timestamp=rng.choice(_TIMES_MS))
            yield Raw(value=good(taken), offset=taken + 1)
            taken += 2

    with tried("records", share=0.75) as inputs:
        intake.take(records(iter(inputs)))
    for number in range(0, taken, 2):
        assert denylist.listed(("token", "good", f"good-{number}")), f"the record after bad one number {number} is lost"
    unread = sum(intake.unread_total.values())
    assert sum(intake.applied.values()) + intake.heartbeats_total + unread == taken
    assert intake.missed == unread > taken / 4
    assert set(intake.unread_total) == {"empty", "oversized", "not_json", "invalid", "newer_version"}
    for one in intake.unread:
        assert one.offset % 2 == 0
        assert one.detail
        assert "spoiled" not in one.detail, "an identifier is quoted"
    intake.tidy()


def test_a_node_is_ready_if_and_only_if_it_has_read_everything() -> None:
    """A record that cannot be read keeps a node from being ready, names itself in the checks, and stays tolerable."""
    topic, _clock = samples.live_topic()
    strict, lenient = nodes_of(topic)
    with tried("records", share=0.25) as inputs:
        for number, rng in enumerate(inputs):
            if number % 5 == 0:
                topic, _clock = samples.live_topic()
                strict, lenient = nodes_of(topic)
            topic.append(spoiled(rng))
            topic.append(good(number))
            topic.prove()
            for node in (strict, lenient):
                assert node.denylist.listed(("token", "good", f"good-{number}"))
            missed = strict.intake.missed
            assert (samples.state_of(strict) is State.LIVE) == (missed == 0)
            assert all(check.ok for check in strict.checks()) == (missed == 0)
            assert samples.state_of(lenient) is State.LIVE


def nodes_of(topic: MemoryTopic) -> tuple[Node, Node]:
    """One that is strict about records it cannot read, and one that tolerates them."""
    return topic.node(samples.settings()), topic.node(samples.settings(tolerate_undecodable=True))
