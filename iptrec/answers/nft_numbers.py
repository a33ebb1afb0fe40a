"""What ``nft -n`` prints in numbers, for comparing it with what nft prints in names.

nft prints names of protocols, states, types and priorities, or their numbers (nft(8), --numeric). Here both
become numbers; times become seconds. Nobody is shown these texts.
"""

from __future__ import annotations

import contextlib
import functools
import re
from typing import TYPE_CHECKING, Final

from iptrec.answers.nft_json_numbers import numeric_json
from iptrec.answers.nft_names import TYPES, reader, reject_reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.answers.nft_names import Number

_KEY: Final = (
    r"(?:fib(?: [a-z]+ \.)* [a-z]+ type|(?:meta|ct|ip6?|tcp|udp|udplite|sctp|dccp|th|icmp|icmpv6|igmp|ether|ah|"
    r"esp|comp|rt|vlan|arp) [a-z0-9]+(?:-[a-z0-9]+)*)"
)
_PART: Final = re.compile(rf'(?P<key>{_KEY})(?![\w-])|(?P<word>"[^"]*"|[\w-]+)')
_PRIORITY: Final = re.compile(r"priority (?P<name>[a-z]+)(?: (?P<sign>[+-]) (?P<offset>\d+))?")
_REJECT: Final = re.compile(r"(reject with )(icmp|icmpv6|icmpx) (?:type )?([a-z-]+)")
_IS_THERE: Final = re.compile(
    r"((?:exthdr|option|fib(?: \w+ \.)* \w+) \S+ (?:!?= )?)(exists|missing)\b"
)
_TIME: Final = re.compile(
    r"(?:(?<=timeout )|(?<=gc-interval ))(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?(?:(\d+)ms)?"
)
_SECONDS: Final = (86_400_000, 3_600_000, 60_000, 1000, 1)
# include/mnl.h and src/rule.c of nft
_PRIORITIES: Final = {
    "raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100,
}  # fmt: skip
_OF_BRIDGES: Final = {"dstnat": -300, "filter": -200, "out": 100, "srcnat": 300}


@functools.lru_cache(maxsize=4096)
def numeric(text: str, family: str = "", of: str = "") -> str:
    """A rule, or what nft prints of an object, in numbers.

    ``family``: the table's, on which priorities depend. ``of``: the definition of the set whose element it is.
    """
    if text.startswith(("[", "{")):
        return numeric_json(text, numeric, of)
    text = _PRIORITY.sub(lambda found: _priority(found, family), _TIME.sub(_time, text))
    text = _IS_THERE.sub(lambda found: f"{found[1]}{'01'[found[2] == 'exists']}", text)
    return "".join(_parts(_REJECT.sub(_reject, text), list(_of_set(of))))


def _parts(text: str, active: list[Number]) -> Iterator[str]:
    """The text in pieces; a word stands for a number if one of the keys before it has that name."""
    done = 0
    while found := _PART.search(text, done):
        between, done = text[done : found.start()], found.end()
        yield between
        if known := found["key"] and reader(found["key"]):
            active = [*(active if between.strip() == "." else ()), known]
            yield found["key"]
            continue
        word = found[0].partition(" ")[0] if found["key"] else found[0]
        done -= len(found[0]) - len(word)  # "tcp accept" is not a key
        yield _number(word, active)
    yield text[done:]


def _number(word: str, active: list[Number]) -> str:
    for one in active:
        with contextlib.suppress(LookupError, TypeError, ValueError):
            return str(one(word.strip('"')))
    if active and re.fullmatch(r"0x[0-9a-f]{1,16}", word):
        return str(int(word, 16))
    return word


def _of_set(definition: str) -> Iterator[Number]:
    """What reads the elements of a set or map, by their types."""
    head = re.match(r"type(?:of)? ([^;]+)", definition)
    for one in re.split(r" [.:] ", head[1]) if head else ():
        if known := reader(TYPES.get(one.strip(), one.strip())):
            yield known


def _priority(found: re.Match[str], family: str) -> str:
    names = _OF_BRIDGES if family == "bridge" else _PRIORITIES
    if found["name"] not in names:
        return found[0]
    offset = int(f"{found['sign'] or '+'}{found['offset'] or 0}")
    return f"priority {names[found['name']] + offset}"


def _reject(found: re.Match[str]) -> str:
    known = reject_reader(found[2])
    return f"{found[1]}{found[2]} {_number(found[3], [known] if known else [])}"


def _time(found: re.Match[str]) -> str:
    if not found[0]:
        return ""
    return f"{sum(int(part or 0) * unit for part, unit in zip(found.groups(), _SECONDS, strict=True))}ms"
