"""What iptables-save prints of tables, without what differs each time; the last states are remembered."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from iptrec.names import Family

_REMEMBERED: Final = 64  # States: more than one look at all tables can find.
_REMEMBERED_BYTES: Final = 64 << 20  # Of their contents.
_HEADS: Final = re.compile(rb"^#.*\n|(?<=\[)\d+:\d+(?=\]\n)", re.MULTILINE)


class Saved:
    """States of tables by their digests. They often come back: a script that swaps two rulesets, say."""

    def __init__(self) -> None:
        self._contents: dict[tuple[Family, bytes], bytes] = {}

    def get(self, family: Family, digest: bytes) -> bytes | None:
        """A state that was kept."""
        return self._contents.get((family, digest))

    def keep(self, family: Family, digest: bytes, content: bytes) -> None:
        """Remember it, and let the oldest go."""
        self._contents[family, digest] = content
        while len(self._contents) > 1 and (
            len(self._contents) > _REMEMBERED
            or sum(map(len, self._contents.values())) > _REMEMBERED_BYTES
        ):
            del self._contents[next(iter(self._contents))]


def source_of(table: str) -> str:
    """The command that prints a table."""
    return f"iptables-save -t {table}"


def normal(printed: bytes) -> bytes:
    """What iptables-save printed without what differs each time: comments (dates), counters of policies."""
    end = printed.find(b"\n-A ")
    heads = printed if end < 0 else printed[: end + 1]
    return _HEADS.sub(lambda found: b"" if found[0][:1] == b"#" else b"0:0", heads) + _bare(
        printed[len(heads) :]
    )


def _bare(rules: bytes) -> bytes:
    """Rules and COMMIT without the comment behind."""
    at = rules.rfind(b"\n# ")
    return rules if at < 0 else rules[: at + 1]
