"""Lines that a rule with -j LOG wrote, and not TRACE, though its prefix looks like TRACE's.

The kernel writes of a traced packet first that it met the rule, then what the rule itself logs (net/ipv4/
netfilter/ip_tables.c, ipt_do_table). So the rules tell which of two lines is which.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from iptrec.decode.rulesets import iptables_save
from iptrec.pasted.log_lines import PLACE

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from iptrec.pasted.packet import Told

_PREFIX: Final = re.compile(r'--log-prefix (?:"((?:[^"\\]|\\.)*)"|(\S+))')
_ESCAPED: Final = re.compile(r"\\(.)")
_REMEMBERED: Final = 4096  # packets that are about to be logged
_VERSIONS: Final = {"iptables-save": 4, "ip6tables-save": 16}  # by bytes of an address


class LogRules:
    """The rules with such a prefix, and the packets that met one. ``left_out``: lines that were theirs."""

    def __init__(self, rulesets: Mapping[str, bytes]) -> None:
        """``rulesets``: contents by their kinds of snapshot."""
        self.left_out = 0
        self._written = {
            (size, place): written
            for kind, size in _VERSIONS.items()
            for place, written in _misleading(rulesets.get(kind, b"")).items()
        }
        self._awaited: OrderedDict[Hashable, None] = OrderedDict()

    def wrote(self, place: bytes, packet: Told) -> bool:
        """Whether it is the line of such a rule, by its place and its packet, line after line."""
        if not self._written:
            return False
        size = len(packet.source)
        key = (
            packet.source, packet.destination, packet.protocol, packet.id, packet.length, packet.sport,
            packet.dport, packet.flow_label,
        )  # fmt: skip
        if (place, key) in self._awaited:
            del self._awaited[place, key]
            self.left_out += 1
            return True
        written = self._written.get((size, place))
        if written is not None:
            self._awaited[written, key] = None
            if len(self._awaited) > _REMEMBERED:
                self._awaited.popitem(last=False)
        return False


def _misleading(text: bytes) -> dict[bytes, bytes]:
    """The place of each such rule, and the place that its prefix tells."""
    found = {}
    if b"--log-prefix" in text and b"TRACE: " in text:
        for table, chains in iptables_save.parse(text).tables.items():
            for chain in chains.values():
                for number, rule in enumerate(chain.rules, 1):
                    said = _PREFIX.search(rule.target_args or "") if rule.target == "LOG" else None
                    prefix = _ESCAPED.sub(r"\1", said[1] or said[2] or "") if said else ""
                    if told := PLACE.match(prefix.encode("utf-8", "replace")):
                        place = f"{table}:{chain.name}:rule:{number}"
                        found[place.encode("utf-8", "replace")] = told["place"]
    return found
