"""The deny list of one process, on cachetools: the reference, and the right choice for one process or a small fleet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, Final, NamedTuple

from cachetools import Cache, TLRUCache

from consumers.denylist import FOREVER, Entry
from revoker.errors import DenyListFull
from revoker.events import KINDS, Claim, Key, Revocation, SelectorKey, Subject, Withdrawal

__all__ = ["MemoryDenyList"]

_EXACT: Final = tuple(kind for kind, cls in KINDS.items() if cls.exact)

#: A table is written anew once it holds less than one in so many of the entries it held at most: copying what is left
#: then costs far less than expiring the others has cost. One that never held more than ``_SMALL`` is not worth it.
_SHRUNK: Final = 16
_SMALL: Final = 1024


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
        self._max_entries = max_entries
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

    def apply(self, revocation: Revocation) -> None:
        selector = revocation.selector
        kind = selector.kind
        if isinstance(selector, Withdrawal):
            changed = self._raise_expiry(self._withdrawn, selector.event_id, revocation.expires_at)
        elif selector.exact:
            changed = self._raise_expiry(self._exact[kind], selector.key, revocation.expires_at)
        else:
            changed = self._merge_rule(self._rules[kind], selector.key, _rule_of(revocation))
        if not changed:
            return
        if kind not in self._kinds:
            self._kinds |= {kind}
        if isinstance(selector, Claim):
            if selector.claim not in self._claim_names.get(selector.iss, ()):
                self._note_claims()
        elif isinstance(selector, Key | Withdrawal):
            self._note_keys()

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
        if self._at_most >= self._max_entries:
            self._at_most = sum(self.counts().values())
            if self._at_most >= self._max_entries:
                raise DenyListFull(
                    f"the deny list holds {self._at_most} entries and may hold {self._max_entries} "
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
        if "claim" in thinner:
            self._note_claims()
        if not thinner.isdisjoint(("key", "withdrawal")):
            self._note_keys()

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
