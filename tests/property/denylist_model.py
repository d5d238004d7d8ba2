"""What a deny list must answer, computed from scratch from the list of everything that happened.

Nothing here knows how a store works: no merging, no purging, no index. Times are small numbers, so that cut-offs,
expiries and times of issue meet often.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hypothesis import strategies as st

from consumers.denylist import DenyList
from consumers.denylist.memory import MemoryDenyList
from consumers.denylist.shared import SharedDenyList
from revoker.events import (
    Claim,
    Client,
    Digest,
    Everything,
    Issuer,
    Key,
    Revocation,
    Selector,
    Session,
    Subject,
    Token,
    Withdrawal,
)

_SECRET = bytes(range(32))


class _Shared(SharedDenyList):
    """A writer on files of its own, which go with it."""

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.directory)


def _shared(max_entries: int) -> _Shared:
    directory = Path(tempfile.mkdtemp(prefix="revoker-model-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    store = _Shared(directory, max_entries=max_entries, epoch_s=0, secret=lambda: _SECRET)
    store.take()
    return store


class SharedReader:
    """Changed through the writer, asked through another object that has attached to the same files."""

    def __init__(self, max_entries: int) -> None:
        self._writer = _shared(max_entries)
        self._reader = SharedDenyList(self._writer.directory, max_entries=max_entries, epoch_s=0)
        assert self._reader.open() is None
        self.apply = self._writer.apply
        self.apply_all = self._writer.apply_all
        self.reached = self._writer.reached
        self.counts = self._writer.counts
        self.in_force = self._writer.in_force
        self.listed = self._reader.listed
        self.cutoff = self._reader.cutoff
        self.key_cutoff = self._reader.key_cutoff

    def advance(self, *, now_s: float) -> None:
        self._writer.advance(now_s=now_s)
        self._reader.advance(now_s=now_s)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def suspects(self, claims: Mapping[str, Any], kid: str | None, /) -> bool:
        return self._reader.suspects(claims, kid)

    @property
    def kinds(self) -> AbstractSet[str]:
        return self._reader.kinds

    @property
    def claim_names(self) -> Mapping[str, AbstractSet[str]]:
        return self._reader.claim_names


class Store(DenyList, Protocol):
    """One that a test lets go of, as thousands of examples hold files otherwise."""

    def close(self) -> None:
        """Nobody asks it any more."""
        ...


class _Memory(MemoryDenyList):
    def close(self) -> None:
        pass


#: Every store there is, by name; made with a bound on its entries. A new store joins the whole suite by one line here.
STORES: Mapping[str, Callable[[int], Store]] = {
    "memory": lambda max_entries: _Memory(max_entries=max_entries),
    "shared": _shared,
    "sharedreader": SharedReader,
}

UNBOUNDED = 10**9
LATEST = 30


@contextmanager
def opened(name: str, /) -> Iterator[Store]:
    """An empty store without a bound that matters, until the block ends."""
    store = STORES[name](UNBOUNDED)
    try:
        yield store
    finally:
        store.close()


_ISSUERS = ("", "https://a.example", "https://b.example")
_NAMES = ("x", "y")
_DIGESTS = ("0" * 64, "f" * 64)
_EVENT_IDS = tuple(f"event-{number}" for number in range(6))


@dataclass(frozen=True, kw_only=True)
class Bearer:
    """What a token shows a deny list."""

    iss: str = ""
    jti: str | None = None
    digest: str = _DIGESTS[0]
    sid: str | None = None
    sub: str | None = None
    client_id: str | None = None
    claims: Mapping[str, str] = field(default_factory=dict)
    kid: str | None = None
    iat: int = 0


def matches(event: Revocation, bearer: Bearer) -> bool:
    """Whether ``event`` refuses ``bearer``, expiry and withdrawals aside."""
    found = False
    match event.selector:
        case Token(iss=iss, jti=jti):
            return (iss, jti) == (bearer.iss, bearer.jti)
        case Digest(iss=iss, digest=digest):
            return bearer.jti is None and (iss, digest) == (bearer.iss, bearer.digest)
        case Session(iss=iss, sid=sid):
            return (iss, sid) == (bearer.iss, bearer.sid)
        case Subject(iss=iss, sub=sub, spare_sid=spare_sid, spare_jti=spare_jti):
            spared = (spare_sid is not None and spare_sid == bearer.sid) or (
                spare_jti is not None and spare_jti == bearer.jti
            )
            found = (iss, sub) == (bearer.iss, bearer.sub) and not spared
        case Client(iss=iss, client_id=client_id):
            found = (iss, client_id) == (bearer.iss, bearer.client_id)
        case Claim(iss=iss, claim=claim, value=value):
            found = iss == bearer.iss and bearer.claims.get(claim) == value
        case Key(iss=iss, kid=kid):
            found = (iss, kid) == (bearer.iss, bearer.kid)
        case Issuer(iss=iss):
            found = iss == bearer.iss
        case Everything():
            found = True
        case Withdrawal():
            found = False
    return found and (event.cutoff is None or bearer.iat <= event.cutoff)


@dataclass
class Model:
    """Everything that happened, and the answers that follow."""

    events: list[Revocation] = field(default_factory=list)
    now: float = -math.inf

    def must_refuse(self, bearer: Bearer) -> bool:
        """An unexpired event refuses the token, and was never withdrawn."""
        return any(
            self._alive(event) and not self._withdrawn(event, ever=True) and matches(event, bearer)
            for event in self.events
        )

    def may_refuse(self, bearer: Bearer) -> bool:
        """Some event, expired or not, refuses the token: an expired one may linger, the token has expired as well."""
        return any(matches(event, bearer) and not self._withdrawn(event, ever=False) for event in self.events)

    def _alive(self, event: Revocation) -> bool:
        return event.expires_at > self.now

    def _withdrawn(self, event: Revocation, *, ever: bool) -> bool:
        return event.selector.wide and any(
            isinstance(other.selector, Withdrawal)
            and other.selector.event_id == event.id
            and (ever or self._alive(other))
            for other in self.events
        )

    def entries(self) -> dict[tuple[object, ...], float]:
        """What has to be stored apart, with the time until which: no two of these may be merged."""
        found: dict[tuple[object, ...], float] = {}
        for event in self.events:
            found[entry_of(event)] = max(found.get(entry_of(event), -math.inf), event.expires_at)
        return found

    def least_entries(self) -> int:
        """Entries that are alive."""
        return sum(until > self.now for until in self.entries().values())

    def most_entries(self) -> int:
        """Entries that are alive or share a selector with one that is: a rule may stay as long as its neighbour."""
        entries = self.entries()
        alive = {entry[0] for entry, until in entries.items() if until > self.now}
        return sum(entry[0] in alive for entry in entries)


def entry_of(event: Revocation) -> tuple[object, ...]:
    """What ``event`` is stored under."""
    selector = event.selector
    if isinstance(selector, Subject):
        return (selector.key, selector.spare_sid, selector.spare_jti)
    return (selector.key, event.id) if selector.wide else (selector.key,)


def refuses(store: DenyList, bearer: Bearer) -> bool:
    """The store's own answer, asked as a guard asks."""
    iss, iat = bearer.iss, bearer.iat
    own = ("digest", iss, bearer.digest) if bearer.jti is None else ("token", iss, bearer.jti)
    if store.listed(own) or (bearer.sid is not None and store.listed(("session", iss, bearer.sid))):
        return True
    cutoffs = [store.cutoff(("issuer", iss)), store.cutoff(("all",))]
    if bearer.sub is not None:
        cutoffs.append(store.cutoff(("subject", iss, bearer.sub), sid=bearer.sid, jti=bearer.jti))
    if bearer.client_id is not None:
        cutoffs.append(store.cutoff(("client", iss, bearer.client_id)))
    if bearer.kid is not None:
        cutoffs.append(store.cutoff(("key", iss, bearer.kid)))
    cutoffs += [store.cutoff(("claim", iss, claim, value)) for claim, value in bearer.claims.items()]
    return any(cutoff is not None and iat <= cutoff for cutoff in cutoffs)


def probes(events: Iterable[Revocation]) -> list[Bearer]:
    """Tokens at the edges of ``events``: each event's own, issued at its cut-off and just after it."""
    found = []
    for event in events:
        cutoff = LATEST if event.cutoff is None else event.cutoff
        for iat in (cutoff, cutoff + 1):
            match event.selector:
                case Token(iss=iss, jti=jti):
                    found.append(Bearer(iss=iss, jti=jti, iat=iat))
                case Digest(iss=iss, digest=digest):
                    found.append(Bearer(iss=iss, digest=digest, iat=iat))
                case Session(iss=iss, sid=sid):
                    found.append(Bearer(iss=iss, sid=sid, iat=iat))
                case Subject(iss=iss, sub=sub, spare_sid=sid, spare_jti=jti):
                    found += [Bearer(iss=iss, sub=sub, iat=iat), Bearer(iss=iss, sub=sub, sid=sid, jti=jti, iat=iat)]
                case Client(iss=iss, client_id=client_id):
                    found.append(Bearer(iss=iss, client_id=client_id, iat=iat))
                case Claim(iss=iss, claim=claim, value=value):
                    found.append(Bearer(iss=iss, claims={claim: value}, iat=iat))
                case Key(iss=iss, kid=kid):
                    found.append(Bearer(iss=iss, kid=kid, iat=iat))
                case Issuer(iss=iss):
                    found.append(Bearer(iss=iss, iat=iat))
                case Everything() | Withdrawal():
                    found.append(Bearer(iat=iat))
    return found


_iss = st.sampled_from(_ISSUERS)
_name = st.sampled_from(_NAMES)
_time = st.integers(0, LATEST)
_spares = st.sampled_from([(None, None), ("x", None), ("y", None), (None, "x"), (None, "y")])

event_ids = st.sampled_from(_EVENT_IDS)

selectors: st.SearchStrategy[Selector] = st.one_of(
    st.builds(Token, iss=_iss, jti=_name),
    st.builds(Digest, iss=_iss, digest=st.sampled_from(_DIGESTS)),
    st.builds(Session, iss=_iss, sid=_name),
    st.builds(
        lambda iss, sub, spares: Subject(iss=iss, sub=sub, spare_sid=spares[0], spare_jti=spares[1]),
        _iss,
        _name,
        _spares,
    ),
    st.builds(Client, iss=_iss, client_id=_name),
    st.builds(Claim, iss=_iss, claim=_name, value=_name),
    st.builds(Key, iss=_iss, kid=_name),
    st.builds(Issuer, iss=_iss),
    st.just(Everything()),
    st.builds(Withdrawal, event_id=event_ids),
)


def _event(selector: Selector, event_id: str, cutoff: int, until: int, *, whole_key: bool) -> Revocation:
    if selector.exact or isinstance(selector, Withdrawal) or (isinstance(selector, Key) and whole_key):
        return Revocation(id=event_id, selector=selector, revoked_at=0, expires_at=until)
    return Revocation(id=event_id, selector=selector, revoked_at=0, expires_at=until, cutoff=cutoff)


events: st.SearchStrategy[Revocation] = st.builds(_event, selectors, event_ids, _time, _time, whole_key=st.booleans())

bearers: st.SearchStrategy[Bearer] = st.builds(
    Bearer,
    iss=_iss,
    jti=st.none() | _name,
    digest=st.sampled_from(_DIGESTS),
    sid=st.none() | _name,
    sub=st.none() | _name,
    client_id=st.none() | _name,
    claims=st.dictionaries(_name, _name, max_size=2),
    kid=st.none() | _name,
    iat=_time,
)


def picture(store: DenyList) -> tuple[Any, ...]:
    """Everything a store shows, to be compared."""
    return (
        {repr(entry) for entry in store.in_force()},
        dict(store.counts()),
        set(store.kinds),
        {iss: set(names) for iss, names in store.claim_names.items()},
    )
