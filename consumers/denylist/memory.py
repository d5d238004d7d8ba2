"""The deny list of one process, on cachetools: the reference, and the right choice for one process or a small fleet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from typing import Any, Final, NamedTuple

from cachetools import Cache, TLRUCache

from consumers.denylist import FOREVER, Entry
from revoker.errors import DenyListFull
from revoker.events import KINDS, Revocation, SelectorKey, Subject, Withdrawal

__all__ = ["MemoryDenyList"]

_EXACT: Final = tuple(kind for kind, cls in KINDS.items() if cls.exact)


class _Rule(NamedTuple):
    """One cut-off under a key. ``group`` tells apart what must not be merged: a subject's spared token or session, a wide rule's event."""

    group: str
    cutoff: int
    expires_at: int


class MemoryDenyList:
    """Implements `consumers.denylist.DenyList`.

    ``max_entries`` bounds the entries, about 300 to 500 bytes each. cachetools would make room by dropping unexpired entries, that is, by
    letting revoked tokens in again, so its own bound stays open and ours refuses instead.
    """

    def __init__(self, *, max_entries: int) -> None:
        self._max_entries = max_entries
        self._now_s = -math.inf
        self._at_most = 0  # entries, counting some that have expired: exact counts cost more than an insertion
        self._exact: dict[str, TLRUCache[Any, Any]] = {kind: self._store(_expiry) for kind in _EXACT}
        self._rules: dict[str, TLRUCache[Any, Any]] = {
            kind: self._store(_latest_expiry) for kind, cls in KINDS.items() if not cls.exact and cls is not Withdrawal
        }
        self._withdrawn = self._store(_expiry)
        self._kinds: frozenset[str] = frozenset()
        self._claim_names: dict[str, frozenset[str]] = {}
        self._key_issuers: frozenset[str] = frozenset()

    def _store(self, time_to_use: Any) -> TLRUCache[Any, Any]:
        return TLRUCache(math.inf, ttu=time_to_use, timer=lambda: self._now_s)

    @property
    def kinds(self) -> Set[str]:
        return self._kinds

    @property
    def claim_names(self) -> Mapping[str, Set[str]]:
        return self._claim_names

    @property
    def key_issuers(self) -> Set[str]:
        return self._key_issuers

    def listed(self, key: SelectorKey) -> bool:
        return key in self._exact[key[0]]

    def cutoff(self, key: SelectorKey, *, sid: str | None = None, jti: str | None = None) -> int | None:
        latest = None
        for rule in _peek(self._rules[key[0]], key):
            if latest is not None and rule.cutoff <= latest:
                continue
            if key[0] == "subject":
                if rule.group and rule.group in (_spared_sid(sid), _spared_jti(jti)):
                    continue
            elif rule.group in self._withdrawn:
                continue
            latest = rule.cutoff
        return latest

    def apply(self, revocation: Revocation) -> None:
        selector = revocation.selector
        kind = selector.kind
        if isinstance(selector, Withdrawal):
            self._raise_expiry(self._withdrawn, selector.event_id, revocation.expires_at)
        elif selector.exact:
            self._raise_expiry(self._exact[kind], selector.key, revocation.expires_at)
        else:
            self._merge_rule(self._rules[kind], selector.key, _rule_of(revocation))
        if kind not in self._kinds or kind in ("claim", "key"):
            self._note_kinds()

    def _raise_expiry(self, store: TLRUCache[Any, Any], key: object, expires_at: int) -> None:
        known = store.get(key)
        if known is None:
            self._make_room_for(expires_at)
        elif known >= expires_at:
            return
        store[key] = expires_at

    def _merge_rule(self, store: TLRUCache[Any, Any], key: SelectorKey, rule: _Rule) -> None:
        others = []
        known = None
        for other in _peek(store, key):
            if other.group == rule.group:
                known = other
            elif other.expires_at > self._now_s:
                others.append(other)
        if known is None:
            self._make_room_for(rule.expires_at)
        else:
            rule = _Rule(rule.group, max(rule.cutoff, known.cutoff), max(rule.expires_at, known.expires_at))
            if rule == known:
                return
        store[key] = (*others, rule)

    def _make_room_for(self, expires_at: int) -> None:
        if expires_at <= self._now_s:
            return
        if self._at_most >= self._max_entries:
            self._at_most = sum(self.counts().values())
            if self._at_most >= self._max_entries:
                raise DenyListFull(
                    f"the deny list holds {self._at_most} entries, all of them in force, and may hold {self._max_entries} "
                    "(setting max_entries): this node cannot take further revocations"
                )
        self._at_most += 1

    def advance(self, *, now_s: float) -> None:
        if now_s <= self._now_s:
            return
        self._now_s = now_s
        for store in (*self._exact.values(), *self._rules.values(), self._withdrawn):
            store.expire()
        self._at_most = sum(self.counts().values())
        self._note_kinds()

    def _note_kinds(self) -> None:
        self._kinds = frozenset(kind for kind, count in self.counts().items() if count)
        names: dict[str, set[str]] = {}
        for _, iss, claim, _ in self._rules["claim"]:
            names.setdefault(iss, set()).add(claim)
        self._claim_names = {iss: frozenset(claims) for iss, claims in names.items()}
        self._key_issuers = frozenset(iss for _, iss, _ in self._rules["key"])

    def counts(self) -> Mapping[str, int]:
        return {kind: len(store) for kind, store in (*self._exact.items(), *self._rules.items(), ("withdrawal", self._withdrawn))}

    def in_force(self) -> Iterator[Entry]:
        for store in self._exact.values():
            for key in list(store):
                yield Entry(key=key, expires_at=_peek(store, key))
        for kind, store in self._rules.items():
            for key in list(store):
                for rule in _peek(store, key):
                    if kind == "subject":
                        yield Entry(key=key, expires_at=rule.expires_at, cutoff=rule.cutoff, spared=rule.group or None)
                    elif rule.group not in self._withdrawn:
                        yield Entry(key=key, expires_at=rule.expires_at, cutoff=rule.cutoff, event_id=rule.group)


def _peek(store: TLRUCache[Any, Any], key: object) -> Any:
    # TLRUCache.__getitem__ reorders its entries on every look-up, which is not safe beside the writer's thread; Cache's does not.
    try:
        return Cache.__getitem__(store, key)
    except KeyError:
        return ()


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
