"""What happened: frozen values, without I/O and without a clock.

A revocation is a selector (which tokens), an optional cut-off (issued until when), an expiry, a reason and an actor.
Every selector but `Everything` and `Withdrawal` lives under one issuer, because ``jti``, ``sid`` and ``sub`` are unique
only per issuer (RFC 7519 section 4.1.7, OpenID Connect Back-Channel Logout 1.0 section 2.4). ``iss`` is the claim as it
stands in the token, or ``""`` for tokens without one.

The classes are the wire contract: `revoker.record` writes and reads exactly these fields. Adding one that changes the
meaning of an old one needs a new schema version.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, TypeAlias

import msgspec

__all__ = [
    "IDENTIFIER_MAX_CHARS",
    "KINDS",
    "Claim",
    "Client",
    "Digest",
    "EventId",
    "Everything",
    "FreeText",
    "Heartbeat",
    "Identifier",
    "Issuer",
    "IssuerName",
    "Key",
    "Revocation",
    "Selector",
    "SelectorKey",
    "Session",
    "Subject",
    "Token",
    "UnixSeconds",
    "Withdrawal",
    "claim_text",
]

#: Longest identifier accepted, in characters. Identifiers in use are far shorter (a UUID has 36, an issuer URL rarely
#: 100); without a cap one crafted record could fill every node's memory.
IDENTIFIER_MAX_CHARS = 1024

#: Seconds since the epoch up to the year 9999, the last that RFC 3339 can write.
UnixSeconds = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799, description="Unix time, whole seconds")]
Identifier = Annotated[str, msgspec.Meta(min_length=1, max_length=IDENTIFIER_MAX_CHARS)]
IssuerName = Annotated[
    str, msgspec.Meta(max_length=IDENTIFIER_MAX_CHARS, description="the iss claim; empty for tokens without one")
]
# The length is stated besides, because Python's ``$`` lets a trailing newline pass.
HexDigest = Annotated[
    str, msgspec.Meta(pattern="^[0-9a-f]{64}$", min_length=64, max_length=64, description="SHA-256, lower-case hex")
]
EventId = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
FreeText = Annotated[str, msgspec.Meta(max_length=1024)]

#: What a deny list files an entry under: the kind, then the selecting values. Equal for two revocations of the same
#: tokens, whatever their cut-off or reason.
SelectorKey: TypeAlias = tuple[str, ...]


class _Selector(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    #: Presence decides, the time of issue does not matter.
    exact: ClassVar[bool] = False
    #: Hits tokens of many users; can be withdrawn.
    wide: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """The word for this kind on the wire, in settings, metrics and scopes."""
        return str(self.__struct_config__.tag)


class Token(_Selector, frozen=True, kw_only=True, tag="token"):
    """One token, by its ``jti``."""

    exact: ClassVar[bool] = True
    iss: IssuerName
    jti: Identifier

    @property
    def key(self) -> SelectorKey:
        return ("token", self.iss, self.jti)


class Digest(_Selector, frozen=True, kw_only=True, tag="digest"):
    """One token without ``jti``, by the SHA-256 of its signing input ``header.payload``.

    Never of the whole token: the signature segment can be respelled without breaking the signature (spare base64url
    bits; ``(r, n-s)`` for ECDSA), which would give the thief a fresh digest (GHSA-hxm8-2xgr-2p9m).
    """

    exact: ClassVar[bool] = True
    iss: IssuerName
    digest: HexDigest

    @property
    def key(self) -> SelectorKey:
        return ("digest", self.iss, self.digest)


class Session(_Selector, frozen=True, kw_only=True, tag="session"):
    """All tokens of one session, by ``sid``."""

    exact: ClassVar[bool] = True
    iss: IssuerName
    sid: Identifier

    @property
    def key(self) -> SelectorKey:
        return ("session", self.iss, self.sid)


class Subject(_Selector, frozen=True, kw_only=True, tag="subject"):
    """All tokens of one subject issued until the cut-off; optionally all but those of one session or but one token."""

    iss: IssuerName
    sub: Identifier
    spare_sid: Identifier | None = None
    spare_jti: Identifier | None = None

    @property
    def key(self) -> SelectorKey:
        return ("subject", self.iss, self.sub)


class Client(_Selector, frozen=True, kw_only=True, tag="client"):
    """All tokens of one client (``client_id``, RFC 9068, or ``azp``, OpenID Connect) issued until the cut-off."""

    wide: ClassVar[bool] = True
    iss: IssuerName
    client_id: Identifier

    @property
    def key(self) -> SelectorKey:
        return ("client", self.iss, self.client_id)


class Claim(_Selector, frozen=True, kw_only=True, tag="claim"):
    """All tokens in which one claim has, or as a list contains, one value: a tenant, a role, a device. See
    `claim_text`.
    """

    wide: ClassVar[bool] = True
    iss: IssuerName
    claim: Identifier
    value: Annotated[str, msgspec.Meta(max_length=IDENTIFIER_MAX_CHARS)]

    @property
    def key(self) -> SelectorKey:
        return ("claim", self.iss, self.claim, self.value)


class Key(_Selector, frozen=True, kw_only=True, tag="key"):
    """All tokens signed with one key, by ``kid``; without a cut-off all, whenever issued (a leaked key signs any
    ``iat``).
    """

    wide: ClassVar[bool] = True
    iss: IssuerName
    kid: Identifier

    @property
    def key(self) -> SelectorKey:
        return ("key", self.iss, self.kid)


class Issuer(_Selector, frozen=True, kw_only=True, tag="issuer"):
    """All tokens of one issuer issued until the cut-off."""

    wide: ClassVar[bool] = True
    iss: IssuerName

    @property
    def key(self) -> SelectorKey:
        return ("issuer", self.iss)


class Everything(_Selector, frozen=True, kw_only=True, tag="all"):
    """All tokens of every issuer issued until the cut-off: the panic button."""

    wide: ClassVar[bool] = True

    @property
    def key(self) -> SelectorKey:
        return ("all",)


class Withdrawal(_Selector, frozen=True, kw_only=True, tag="withdrawal"):
    """Takes one wide rule back, by the id of the event that published it. Has no effect on the other kinds: they are
    final.
    """

    event_id: EventId

    @property
    def key(self) -> SelectorKey:
        return ("withdrawal", self.event_id)


Selector: TypeAlias = Token | Digest | Session | Subject | Client | Claim | Key | Issuer | Everything | Withdrawal

#: Every kind by its word, in the order of growing reach.
KINDS: dict[str, type[Selector]] = {
    "token": Token,
    "digest": Digest,
    "session": Session,
    "subject": Subject,
    "client": Client,
    "claim": Claim,
    "key": Key,
    "issuer": Issuer,
    "all": Everything,
    "withdrawal": Withdrawal,
}


class Revocation(msgspec.Struct, frozen=True, kw_only=True):
    """One event: a selector, and since when, until when, why and by whom.

    ``cutoff``: tokens with ``iat <= cutoff`` are refused; ``None`` for the exact kinds, for withdrawals, and for a key
    in its entirety. ``expires_at``: when the entry may be forgotten. ``id`` identifies the event however often it is
    sent.
    """

    id: EventId
    selector: Selector
    revoked_at: UnixSeconds
    expires_at: UnixSeconds
    cutoff: UnixSeconds | None = None
    reason: FreeText | None = None
    actor: FreeText | None = None


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="heartbeat"):
    """No revocation: proof that a record sent now arrives. Sent through a partition that would otherwise be silent.

    An idle log and one whose high watermark is stuck, or whose leader is cut off from its cluster, look alike to a
    reader; only a record that arrives tells them apart.
    """

    id: EventId
    sent_at: UnixSeconds


def claim_text(value: object) -> str:
    """The text under which a claim's value is compared: strings as they are, everything else as compact JSON with
    sorted keys.

    So ``5`` and ``"5"`` match each other, which errs on the side of refusing. Raises ValueError for what JSON cannot
    write.
    """
    if isinstance(value, str):
        value.encode()  # a lone surrogate has no UTF-8 form, so no record could ever name it
        return value
    try:
        return msgspec.json.encode(value, order="sorted").decode()
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"a claim of type {type(value).__name__} has no JSON form: {error}") from error
