"""The deny list of one process, on cachetools: the reference, and the right choice for one process or a small fleet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, Final, NamedTuple

from cachetools import Cache, TLRUCache

from consumers.denylist import FOREVER, Entry, covers
from revoker.errors import DenyListFull
from revoker.events import KINDS, Claim, Key, Revocation, SelectorKey, Subject, Withdrawal

__all__ = ["MemoryDenyList"]

_EXACT: Final = tuple(kind for kind, cls in KINDS.items() if cls.exact)

#: A table is written anew once it holds less than one in so many of the entries it held at most: copying what is left
#: then costs far less than expiring the others has cost. One that never held more than ``_SMALL`` is not worth it.
_SHRUNK: Final = 16
_SMALL: Final = 1024


#: The kinds with a cut-off that `suspects` does not look up by itself.
_SELDOM: Final = frozenset(kind for kind, cls in KINDS.items() if cls.wide)


class _Rule(NamedTuple):
    """One cut-off under a key. ``group`` tells apart what must not be merged: a subject's spared token or session, a
    wide rule's event.
    """

    group: str
    cutoff: int
    expires_at: int


class _Table:
    """Values by key, each until its own time. Written by one thread, read by any.

    A dict never gives back the table of its fullest day, not even when it is empty; this one does.
    """

    __slots__ = ("_cache", "_made", "_most")

    def __init__(
        self,
        *,
        time_to_use: Callable[[Any, Any, float], float],
        now_s: Callable[[], float],
        entries: Callable[[Any], int] | None = None,
    ) -> None:
        self._made: Callable[[], TLRUCache[Any, Any]] = partial(
            TLRUCache, math.inf, ttu=time_to_use, timer=now_s, getsizeof=entries
        )
        self._cache: TLRUCache[Any, Any] = self._made()
        self._most = 0  # how many keys it held since it was written anew

    def __contains__(self, key: object) -> bool:
        return key in self._cache

    def __setitem__(self, key: object, value: Any) -> None:
        self._cache[key] = value

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cache)

    def __len__(self) -> int:
        return len(self._cache)

    @property
    def entries(self) -> int:
        return int(self._cache.currsize)

    @property
    def store(self) -> TLRUCache[Any, Any] | None:
        """What holds the entries until the next `expire`, for look-ups by Cache's own methods; None if it is empty."""
        return self._cache if Cache.__len__(self._cache) else None

    def peek(self, key: object, default: Any) -> Any:
        # TLRUCache.__getitem__ reorders its entries on every look-up, which is not safe beside the writer's thread;
        # Cache's does not.
        try:
            return Cache.__getitem__(self._cache, key)
        except KeyError:
            return default

    def expire(self) -> bool:
        """True if anything went."""
        held = Cache.__len__(self._cache)  # TLRUCache's own would expire first
        if not held or not self._cache.expire():
            return False
        self._most = max(self._most, held)
        if not self._cache:
            self._cache.clear()
            self._most = 0
        elif self._most > _SMALL and len(self._cache) * _SHRUNK < self._most:
            # Complete before it takes the old one's place, so that no look-up of another thread misses an entry.
            anew = self._made()
            for key in self._cache:
                anew[key] = Cache.__getitem__(self._cache, key)
            self._cache = anew
            self._most = len(anew)
        return True


class MemoryDenyList:
    """Implements `consumers.denylist.DenyList`.

    ``max_entries`` bounds the entries, about 300 to 500 bytes each. cachetools would make room by dropping unexpired
    entries, that is, by letting revoked tokens in again, so its own bound stays open and ours refuses instead.
    """

    def __init__(self, *, max_entries: int) -> None:
        self.max_entries: int = max_entries
        self._now_s = -math.inf
        self._at_most = 0  # entries, counting some that have expired: exact counts cost more than an insertion
        self._exact: dict[str, _Table] = {kind: self._store(_expiry) for kind in _EXACT}
        self._rules: dict[str, _Table] = {
            kind: self._store(_latest_expiry, entries=len)
            for kind, cls in KINDS.items()
            if not cls.exact and cls is not Withdrawal
        }
        self._withdrawn = self._store(_expiry)
        self._stores = {**self._exact, **self._rules, "withdrawal": self._withdrawn}
        self._kinds: frozenset[str] = frozenset()
        self._claim_names: dict[str, frozenset[str]] = {}
        self._key_cutoffs: dict[str, int] = {}
        #: See `DenyList.suspects`. An attribute: the function knows which kinds there are, and asks for no other.
        self.suspects: Callable[[Mapping[str, Any], str | None], bool] = _nothing

    def _store(self, time_to_use: Any, *, entries: Any = None) -> _Table:
        return _Table(time_to_use=time_to_use, now_s=lambda: self._now_s, entries=entries)

    @property
    def kinds(self) -> AbstractSet[str]:
        return self._kinds

    @property
    def claim_names(self) -> Mapping[str, AbstractSet[str]]:
        return self._claim_names

    def listed(self, key: SelectorKey) -> bool:
        return key in self._exact[key[0]]

    def cutoff(self, key: SelectorKey, *, sid: str | None = None, jti: str | None = None) -> int | None:
        latest = None
        for rule in self._rules[key[0]].peek(key, ()):
            if latest is not None and rule.cutoff <= latest:
                continue
            if key[0] == "subject":
                if rule.group and rule.group in (_spared_sid(sid), _spared_jti(jti)):
                    continue
            elif rule.group in self._withdrawn:
                continue
            latest = rule.cutoff
        return latest

    def key_cutoff(self, iss: str) -> int | None:
        return self._key_cutoffs.get(iss)

    def apply(self, revocation: Revocation) -> bool:
        selector = revocation.selector
        kind = selector.kind
        if isinstance(selector, Withdrawal):
            changed = self._raise_expiry(self._withdrawn, selector.event_id, revocation.expires_at)
        elif selector.exact:
            changed = self._raise_expiry(self._exact[kind], selector.key, revocation.expires_at)
        else:
            changed = self._merge_rule(self._rules[kind], selector.key, _rule_of(revocation))
        if not changed:
            return False
        if kind not in self._kinds:
            self._kinds |= {kind}
            self._note_kinds()
        if isinstance(selector, Claim):
            if selector.claim not in self._claim_names.get(selector.iss, ()):
                self._note_claims()
        elif isinstance(selector, Key | Withdrawal):
            self._note_keys()
        return True

    def apply_all(self, revocations: Sequence[Revocation]) -> bool:
        changed = False
        for revocation in revocations:
            changed |= self.apply(revocation)
        return changed

    def reached(self, positions: Mapping[int, int], *, unread: int = 0) -> None:
        """Nothing to note: this store ends with its process."""

    def _raise_expiry(self, store: _Table, key: object, expires_at: int) -> bool:
        known = store.peek(key, None)
        if expires_at <= (self._now_s if known is None else known):
            return False
        if known is None:
            self._make_room()
        store[key] = expires_at
        return True

    def _merge_rule(self, store: _Table, key: SelectorKey, rule: _Rule) -> bool:
        others = []
        known = None
        for other in store.peek(key, ()):
            if other.group == rule.group:
                known = other
            elif other.expires_at > self._now_s:
                others.append(other)
        if known is not None:
            rule = _Rule(rule.group, max(rule.cutoff, known.cutoff), max(rule.expires_at, known.expires_at))
            if rule == known:
                return False
        elif rule.expires_at <= self._now_s:
            return False
        else:
            self._make_room()
        store[key] = (*others, rule)
        return True

    def _make_room(self) -> None:
        if self._at_most >= self.max_entries:
            self._at_most = sum(self.counts().values())
            if self._at_most >= self.max_entries:
                raise DenyListFull(
                    f"the deny list holds {self._at_most} entries and may hold {self.max_entries} "
                    "(setting max_entries); none is dropped to make room, so this node cannot take further revocations"
                )
        self._at_most += 1

    def advance(self, *, now_s: float) -> None:
        if now_s <= self._now_s:
            return
        self._now_s = now_s
        thinner = {kind for kind, store in self._stores.items() if store.expire()}
        if not thinner:
            return
        self._at_most = sum(self.counts().values())
        self._kinds = frozenset(kind for kind, store in self._stores.items() if store)
        self._note_kinds()
        if "claim" in thinner:
            self._note_claims()
        if not thinner.isdisjoint(("key", "withdrawal")):
            self._note_keys()

    def _note_kinds(self) -> None:
        if not self._kinds:
            self.suspects = _nothing
            return
        self.suspects = _suspicion(
            tokens=self._exact["token"].store,
            digests=self._exact["digest"].store,
            sessions=self._exact["session"].store,
            subjects=self._rules["subject"].store,
            rules=None if self._kinds.isdisjoint(_SELDOM) else self._ruled,
        )

    def _ruled(self, claims: Mapping[str, Any], kid: str | None, iss: str) -> bool:
        """Whether a rule of the seldom kinds reaches a token.

        The cut-off is compared here already: for a day after "revoke all" every token meets that rule, and all but the
        old ones are to stay cheap.
        """
        iat, kinds = claims.get("iat"), self._kinds
        rules: list[SelectorKey] = []
        if "client" in kinds:
            rules += [("client", iss, claims[name]) for name in ("client_id", "azp") if name in claims]
        if "claim" in kinds:
            for name in self._claim_names.get(iss, ()):
                value = claims.get(name, "")
                if not isinstance(value, str):
                    return True  # a list, a number: what it matches is for the guard to say
                rules.append(("claim", iss, name, value))
        if "key" in kinds:
            if kid is None and covers(self._key_cutoffs.get(iss), iat=iat):
                return True
            rules.append(("key", iss, kid or ""))
        if "issuer" in kinds:
            rules.append(("issuer", iss))
        if "all" in kinds:
            rules.append(("all",))
        return any(covers(self.cutoff(rule), iat=iat) for rule in rules)

    def _note_claims(self) -> None:
        names: dict[str, set[str]] = {}
        for _, iss, claim, _ in self._rules["claim"]:
            names.setdefault(iss, set()).add(claim)
        self._claim_names = {iss: frozenset(claims) for iss, claims in names.items()}

    def _note_keys(self) -> None:
        latest: dict[str, int] = {}
        for key in self._rules["key"]:
            if (cutoff := self.cutoff(key)) is not None:
                latest[key[1]] = max(cutoff, latest.get(key[1], cutoff))
        self._key_cutoffs = latest

    def counts(self) -> Mapping[str, int]:
        return {kind: store.entries for kind, store in self._stores.items()}

    def in_force(self) -> Iterator[Entry]:
        for store in self._exact.values():
            for key in list(store):
                yield Entry(key=key, expires_at=store.peek(key, ()))
        for kind, store in self._rules.items():
            for key in list(store):
                for rule in store.peek(key, ()):
                    if rule.expires_at <= self._now_s:
                        continue
                    if kind == "subject":
                        yield Entry(key=key, expires_at=rule.expires_at, cutoff=rule.cutoff, spared=rule.group or None)
                    elif rule.group not in self._withdrawn:
                        yield Entry(key=key, expires_at=rule.expires_at, cutoff=rule.cutoff, event_id=rule.group)


def _nothing(_claims: Mapping[str, Any], _kid: str | None, /) -> bool:
    return False


def _suspicion(
    *,
    tokens: TLRUCache[Any, Any] | None,
    digests: TLRUCache[Any, Any] | None,
    sessions: TLRUCache[Any, Any] | None,
    subjects: TLRUCache[Any, Any] | None,
    rules: Callable[[Mapping[str, Any], str | None, str], bool] | None,
) -> Callable[[Mapping[str, Any], str | None], bool]:
    """A function over the tables that hold anything: each costs one look-up, the others a test for None."""
    # Not TLRUCache's own, which compares times: presence decides. Called as a function, it costs half of a method.
    holds = Cache.__contains__

    def suspects(claims: Mapping[str, Any], kid: str | None, /) -> bool:
        iss = claims.get("iss", "")
        jti = claims.get("jti")
        if jti is None:
            if digests is not None:
                return True  # hashing the token is for the long way
        elif tokens is not None and holds(tokens, ("token", iss, jti)):
            return True
        if sessions is not None and (sid := claims.get("sid")) is not None and holds(sessions, ("session", iss, sid)):
            return True
        if subjects is not None and (sub := claims.get("sub")) is not None and holds(subjects, ("subject", iss, sub)):
            return True
        return rules is not None and rules(claims, kid, iss)

    return suspects


def _rule_of(revocation: Revocation) -> _Rule:
    selector = revocation.selector
    group = revocation.id
    if isinstance(selector, Subject):
        group = _spared_sid(selector.spare_sid) or _spared_jti(selector.spare_jti) or ""
    cutoff = FOREVER if revocation.cutoff is None else revocation.cutoff
    return _Rule(group, cutoff, revocation.expires_at)


def _spared_sid(sid: str | None) -> str | None:
    return None if sid is None else f"sid {sid}"


def _spared_jti(jti: str | None) -> str | None:
    return None if jti is None else f"jti {jti}"


def _expiry(_key: object, expires_at: int, _now_s: float) -> int:
    return expires_at


def _latest_expiry(_key: object, rules: tuple[_Rule, ...], _now_s: float) -> int:
    return max(rule.expires_at for rule in rules)
