"""A process that reads the shared table while another writes: no key and no time is ever seen half stored."""

from __future__ import annotations

import os

_CAPACITY = 4096
_ROUNDS = 40

#: Two values that differ in every byte: whoever sees a mixture of them has seen half a store.
_ONE, _OTHER = 0x0101_0101_0101_0101, 0x7E7E_7E7E_7E7E_7E7E


def _child(run: object) -> int:
    child = os.fork()
    if child:
        return child
    try:
        run()  # type: ignore[operator]
    except BaseException:  # noqa: BLE001 - the child of a fork must end here, whatever happened
        os._exit(1)
    os._exit(0)
