"""Whether two texts of nft are of one rule, whatever it counted and however sets and numbers are printed."""

from __future__ import annotations

import functools
import re
from typing import Final

from iptrec.matching import nft_payload
from iptrec.names import PROTOCOL_NUMBERS

_QUOTED: Final = re.compile(r'("[^"]*")')
_COUNTED: Final = re.compile(
    r"(?<=counter) packets \d+ bytes \d+|(?<=bytes) used \d+ \w+|(?<=\blast) used \S+(?: ago)?| expires \S+"
)
_PLACE: Final = re.compile("\0(\\d+)\0")
_SET: Final = re.compile(r"\{ ([^{};]*) \}")
_HEXADECIMAL: Final = re.compile(r"\b0x0*(?=[0-9a-f])")
_TIME: Final = re.compile(
    r"(?<!\S)(?=\d)(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?(?!\S)"
)
_SECONDS: Final = (86_400, 3_600, 60, 1)
_WORD: Final = re.compile(r'"[^"]*"|[A-Za-z0-9_.:-]+|\S')
_NUMBER: Final = re.compile(r"0x[0-9a-f]{1,16}|\d{1,19}")
_ANONYMOUS: Final = re.compile(r"\{\n")
_STATES: Final = {
    "invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64, "original": 0, "reply": 1,
    "ipv4": 2, "ipv6": 10,
}  # fmt: skip
_MOST_ELEMENTS: Final = 100  # that are compared each with each
_LEVELS: Final = {"emerg": 0, "alert": 1, "crit": 2, "err": 3, "notice": 5, "info": 6, "debug": 7}
# enum nft_reject_inet_code: what reject sends in either version of IP
_ICMPX: Final = {"no-route": 0, "port-unreachable": 1, "host-unreachable": 2, "admin-prohibited": 3}
_TABLES: Final = (
    PROTOCOL_NUMBERS | {"ipv6-icmp": 58, "ipencap": 4, "ospfigp": 89},
    nft_payload.ICMP, nft_payload.ICMP_CODES, nft_payload.ICMPV6, nft_payload.ICMPV6_CODES, nft_payload.IGMP,
    nft_payload.DCCP, nft_payload.DSCP, nft_payload.ECN, nft_payload.ETHERTYPES, nft_payload.FLAGS,
    _STATES, _LEVELS, _ICMPX,
)  # fmt: skip


def normal(text: str) -> str:
    """A rule's text without what it has counted, its sets in order; equal for what differs by that alone."""
    parts = _QUOTED.split(_in_one_line(text.replace("\0", "")))
    quoted = parts[1::2]
    # What is quoted stays as it is, wherever it comes to stand.
    plain = _plain("\0".join(parts[::2]))
    left = iter(range(len(quoted)))
    numbered = re.sub("\0", lambda _: f"\0{next(left)}\0", plain)
    ordered = _SET.sub(lambda found: _in_order(found, quoted), numbered)
    return _filled(ordered, quoted).strip()


def alike(one: str, other: str) -> bool:
    """Whether two normal texts are equal but for names that the other one has as numbers (nft -n, -nn, -S)."""
    some, others = (_SET.split(_QUOTED.sub(_opaque, text)) for text in (one, other))
    return len(some) == len(others) and all(
        _same_sets(a, b) if number % 2 else _same_words(a, b)
        for number, (a, b) in enumerate(zip(some, others, strict=True))
    )


def _opaque(quoted: re.Match[str]) -> str:
    """A quoted text as one word, of which no part is looked at."""
    return f'"{quoted[1].encode().hex()}"'


def _same_words(one: str, other: str) -> bool:
    some, others = _WORD.findall(one), _WORD.findall(other)
    return len(some) == len(others) and all(map(_is_same, some, others))


def _same_sets(one: str, other: str) -> bool:
    """Whether each element of a set is one of the other's; names are in another order than their numbers."""
    some, left = one.split(", "), other.split(", ")
    if len(some) != len(left) or (len(some) > _MOST_ELEMENTS and some != left):
        return False
    for element in some:
        found = next((each for each in left if _same_words(element, each)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _plain(text: str) -> str:
    spaced = re.sub(r"\s+", " ", _COUNTED.sub("", text))
    return _HEXADECIMAL.sub("0x", _TIME.sub(_in_seconds, spaced))


def _in_seconds(found: re.Match[str]) -> str:
    """A time as nft -n prints it: 1h30m is 5400s."""
    parts = zip(_SECONDS, found.groups(), strict=True)
    return f"{sum(size * int(part or 0) for size, part in parts)}s"


def _in_one_line(text: str) -> str:
    """An anonymous chain's rules as they are written: { counter; return; }."""
    if not _ANONYMOUS.search(text):
        return text
    lines = [line.strip() for line in text.split("\n")]
    ended = [line if line.endswith(("{", "}", ";")) else f"{line};" for line in lines[:-1]]
    return " ".join([*ended, lines[-1]])


def _in_order(found: re.Match[str], quoted: list[str]) -> str:
    return f"{{ {', '.join(sorted(found[1].split(', '), key=lambda one: _filled(one, quoted)))} }}"


def _filled(text: str, quoted: list[str]) -> str:
    """With what is quoted in the places of its numbers."""
    return _PLACE.sub(lambda found: quoted[int(found[1])], text)


def _is_same(one: str, other: str) -> bool:
    return one == other or bool(_numbers(one) & _numbers(other))


@functools.lru_cache(maxsize=4096)
def _numbers(word: str) -> frozenset[int]:
    """What a word may be the name of."""
    if _NUMBER.fullmatch(word):
        return frozenset({int(word, 0) if word.startswith("0x") else int(word)})
    return frozenset(names[word] for names in _TABLES if word in names)
