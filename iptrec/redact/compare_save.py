"""Whether a rule of iptables is another one with what stands for its words.

Which words may differ is not taken from `iptrec.redact.save_text`: what that maps by mistake has to be seen
here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from iptrec.decode.rulesets.iptables_save import WORD
from iptrec.redact import byte_programs
from iptrec.redact.maps import UntrueError
from iptrec.redact.names import public
from iptrec.redact.words import NUMBER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.redact.pairs import Pairs

_QUOTED: Final = re.compile(r'".*"', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)")
_OPTION: Final = re.compile(r"-[A-Za-z]|--[A-Za-z0-9][\w-]*")
# Names, whatever they look like; of the others a number stays one.
_NAMES: Final = frozenset(
    {"-A", "-N", "-P", "-E", "-X", "-j", "-g", "-i", "-o", "--physdev-in", "--physdev-out", "--match-set",
    "--add-set", "--del-set", "--map-set", "--name", "--hashlimit-name", "--nfacct-name", "--oif",
    "--led-trigger-id", "--condition", "--rateest", "--rateest-name", "--rateest1", "--rateest2"}
)  # fmt: skip
_NAMED: Final = frozenset(
    {"--timeout", "--label", "--cgroup", "--path", "--selctx", "--realm", "--src-group", "--dst-group",
    "--uid-owner", "--gid-owner", "--sid-owner", "--pid-owner", "--cmd-owner", "--helper"}
)  # fmt: skip
_PROSE: Final = frozenset(
    {"--comment", "--log-prefix", "--nflog-prefix", "--ulog-prefix", "--prefix"}
)
_STRINGS: Final = frozenset(
    {"--string", "--hex-string", "--object-pinned", "--strings", "--payload", "--pattern"}
)
_PAYLOADS: Final = _STRINGS | {"--u32", "--bytecode"}
_SHORT: Final = frozenset({"-p", "-m", "-t", "-c", "-s", "-d", "-f", "!"})
_HIDDEN: Final = re.compile(r"redacted|[0-9a-f]{1,32}")
_NOT_JUDGED: Final = "--redacted"
_GONE: Final = "redacted"
_TAKEN_OUT: Final = frozenset({_NOT_JUDGED, _GONE, f'"{_GONE}"'})
WORDS: Final = "the number of words"


class SaveRules:
    """Compares texts of rules, and whole lines of iptables-save."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs

    def line(self, before: str, after: str) -> Iterator[str]:
        """Which fields of a line of a listing differ: options, or what else it tells."""
        before, after = before.rstrip("\r"), after.rstrip("\r")
        if before in ("", "COMMIT") and before == after:
            return
        if before.startswith("#") and after.startswith("#"):
            return
        if before[:1] not in "*:" or before[:1] != after[:1]:
            yield from self.rule(before, after)
            return
        old, new = (one[1:].partition(" ") for one in (before, after))
        if not self._pairs.name(old[0], new[0]):
            yield "the table's name" if before[0] == "*" else "the chain's name"
        if old[1:] != new[1:]:
            yield "the policy"

    def rule(self, before: str, after: str) -> Iterator[str]:
        """Which options of a rule, or of a part of one, differ."""
        old, new = WORD.findall(before), WORD.findall(after)
        if len(old) != len(new) or WORD.sub("", before) != WORD.sub("", after):
            yield WORDS
            return
        option, place = "", 0
        for was, now in zip(old, new, strict=True):
            if _OPTION.fullmatch(was):
                if now != (
                    _NOT_JUDGED if was in _STRINGS and not self._pairs.keeps_payload else was
                ):
                    yield was
                option, place = was, 0
            else:
                if not self._value(option, place, was, now):
                    yield option or "its beginning"
                place += was != "!"

    def _value(self, option: str, place: int, before: str, after: str) -> bool:
        if before.startswith('"'):
            if not (_QUOTED.fullmatch(before) and _QUOTED.fullmatch(after)):
                return False
            before, after = before[1:-1], after[1:-1]
        if option in _PROSE:
            return self._pairs.prose(_ESCAPED.sub(r"\1", before), _ESCAPED.sub(r"\1", after))
        if option in _PAYLOADS:
            return self._hidden(option, before, after)
        if option in _NAMES and (not place or before != after):
            return not place and self._pairs.name(before, after)
        if before == after and (option not in _NAMED or NUMBER.fullmatch(before)):
            return self._pairs.stays(before)
        if self._pairs.addresses(before, after):
            return True
        if NUMBER.fullmatch(before) or before == "!":
            return False
        if option in _NAMED:
            return not place and self._pairs.name(before, after)
        known = option in _SHORT or option.removeprefix("--") in public().options
        return not known and option.startswith("--") and self._pairs.name(before, after)

    def _hidden(self, option: str, before: str, after: str) -> bool:
        """What is compared with payloads may stay where these do, and numbers where no address is in them."""
        if option == "--u32":
            return after == _GONE or after in self._tests(before)
        if option == "--bytecode":
            plain = any(byte_programs.is_plain_bytecode(before, ipv6=one) for one in (False, True))
            return after == _GONE or (before == after and plain)
        if before == after:
            return self._pairs.keeps_payload
        return _HIDDEN.fullmatch(after) is not None

    def _tests(self, before: str) -> Iterator[str | None]:
        """What may be in the place of tests of u32, which differ for IPv4 and IPv6."""
        for ipv6 in (False, True):
            try:
                yield byte_programs.u32(
                    self._pairs.maps, before, ipv6=ipv6, kept=self._pairs.keeps_payload
                )
            except UntrueError:
                yield None

    def is_taken_out(self, before: str, after: str) -> bool:
        """Whether a rule has something else to compare with packets, so that nothing can be said of it."""
        return after != before and any(one in after.split() for one in _TAKEN_OUT)

    def was_taken_out(self, condition: str) -> bool:
        """Whether a condition compares what may be taken out of a rule."""
        return not _PAYLOADS.isdisjoint(condition.split())
