"""Which interfaces lie below others: ports below their bridge, Ethernet below its VLANs.

A packet that leaves by one of them may be dropped at another one below it. A bridge, a bond or a team may send
it by several of its ports, a copy each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.context.devices import kinds, told

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iptrec.recording.rows import Recording

_HIGHEST: Final = 8  # storeys (linux/netdevice.h, MAX_NEST_DEV)
_BOND_MODE, _BROADCAST = "1", "03"  # IFLA_BOND_MODE, BOND_MODE_BROADCAST


class Stacked:
    """The interfaces of one namespace of a recording that lay below others, at any time of it.

    ``lower``: their indexes, shape (n,). ``copying``: those of bridges and their like above them.
    """

    def __init__(self, recording: Recording, namespace: int) -> None:
        self._above: dict[int, set[int]] = {}
        self.copying: set[int] = set()
        for _, row in told(recording, namespace):
            index = int(row["index"])
            above = self._above.setdefault(index, set())
            if isinstance(master := row.get("master"), int) and master:
                above.add(master)
            lower = row.get("link")
            if isinstance(lower, int) and lower not in (0, index) and _is_upper(row):
                self._above.setdefault(lower, set()).add(index)
            if _copies(row):
                self.copying.add(index)
        self.lower = np.array([one for one, above in self._above.items() if above], np.int64)

    def copied(self, lower: int, upper: int) -> bool | None:
        """Whether what leaves by ``upper`` leaves by ``lower`` as one of several copies; None: not at all."""
        reached = {(lower, False)}
        found: bool | None = None
        for _ in range(_HIGHEST):
            here = {copied for one, copied in reached if one == upper}
            found = found if not here else bool(found) or any(here)
            reached = {
                (above, copied or above in self.copying)
                for one, copied in reached
                for above in self._above.get(one, ())
            }
        return found


def _is_upper(row: Mapping[str, Any]) -> bool:
    """Whether its ``link`` is below it: the other end of a pair is not, nor what is in another namespace."""
    return "veth" not in kinds(row)[:1] and row.get("link_netnsid") is None


def _copies(row: Mapping[str, Any]) -> bool:
    kind, _ = kinds(row)
    if kind != "bond":
        return kind in ("bridge", "team")
    data = row["linkinfo"].get("data")
    return not isinstance(data, dict) or data.get(_BOND_MODE, _BROADCAST) == _BROADCAST
