"""What the header of a shared table says about it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from consumers.denylist.fingerprint import HASH_NAME, SECRET_BYTES

__all__ = ["About", "Origin"]


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The log a table was filled from.

    ``leader_epochs``: a digest of those of all partitions, of which there may be more than a header has room for. A log
    whose leaders have changed since may have lost its end and grown anew past the offsets that were noted (KIP-320).
    """

    cluster_id: str | None
    topic: str
    topic_id: str
    partitions: int
    leader_epochs: str = ""

    def is_log_of(self, other: Origin) -> bool:
        """Whether both are the same topic, leaders aside."""
        return msgspec.structs.replace(self, leader_epochs="") == msgspec.structs.replace(other, leader_epochs="")


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the header of a table and never changes in it."""

    secret: Annotated[str, msgspec.Meta(pattern=f"^([0-9a-f]{{2}}){{{SECRET_BYTES}}}$")]
    boot: str
    trust: str
    epoch_s: int
    hash_name: str = HASH_NAME
    origin: Origin | None = None

    def __repr__(self) -> str:  # the secret shows nowhere
        return f"About(boot={self.boot!r}, origin={self.origin!r})"
