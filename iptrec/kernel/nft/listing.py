"""The whole ruleset of nf_tables, as iptables and nft print it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.errors import HostError
from iptrec.kernel import iptables, process
from iptrec.kernel.deadline import Deadline
from iptrec.kernel.nft import piecewise, unprinted
from iptrec.kernel.nft.transactions import TRIES, generation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from iptrec.names import Family

_SAVES: Final[dict[Family, str]] = {"ipv4": "iptables-nft-save", "ipv6": "ip6tables-nft-save"}
_LISTING_S: Final = 300.0  # the first time, for the largest rulesets
_MOST_TOLD: Final = 1 << 18  # bytes of text, of which the kernel is asked for the rules as well
TEXT: Final = "nft-text"  # kind of the snapshot that has all rules as nft prints them


class Part(NamedTuple):
    """What one command printed of a ruleset; ``kind`` is that of the snapshot."""

    kind: str
    source: str
    content: bytes


GENERATION, GENERATIONS = "nft-generation", "nft-generations"  # of one moment, and of no one moment
NOT_SEEN: Final = Part("nft-unknown", "nft", b"")  # a ruleset that was gone before it was listed


def nft() -> str:
    """The command. Raises `HostError` where it is missing."""
    found = shutil.which("nft", path=process.search_path())
    if found is None:
        raise HostError("nft is not installed; on Debian: apt-get install iptables nftables")
    return found


def iptables_speaks(families: Iterable[Family]) -> bool:
    """Whether iptables-nft is there; what else is needed is nft. Raises `HostError` without that."""
    nft()
    return all(map(_speaks, families))


def _speaks(family: Family) -> bool:
    try:
        iptables.require(family, "nft")
    except HostError:
        return False
    return True


def ruleset(
    *,
    counters: bool,
    failed: Callable[[HostError], None],
    until: Deadline | None = None,
    tries: int = TRIES,
) -> list[Part]:
    """The whole ruleset as iptables and nft tell it: texts first, the listing last.

    `of_one_moment` tells whether it is; ``tries``: how often that is tried, where it changes meanwhile.
    ``failed`` is told why words are missing, unless it is iptables that is. Raises `HostError` where nft
    fails, also where it does not end before ``until``.
    """
    until = until or Deadline(_LISTING_S)
    for _ in range(tries):
        before = generation()
        failures: list[HostError] = []
        parts = [
            *_saved(until, failures, counters=counters),
            *_listed(until, failures, counters=counters),
        ]
        now = generation()
        if now == before:
            break
    # Known by it is which of the changes that the kernel told of came before, and which meanwhile.
    kind, number = (GENERATION, before) if now == before else (GENERATIONS, f"{before} {now}")
    parts.insert(0, Part(kind, "NFT_MSG_GETGEN", str(number).encode()))
    for failure in failures:
        failed(failure)
    return parts


def of_one_moment(parts: Iterable[Part]) -> bool:
    """Whether the ruleset did not change while it was listed."""
    return any(one.kind == GENERATION for one in parts)


def number_of(parts: Iterable[Part]) -> int | None:
    """That of the ruleset that is listed; None where it is not of one moment."""
    return next((int(one.content) for one in parts if one.kind == GENERATION), None)


def broken_off(parts: Iterable[Part]) -> bool:
    """Whether nft did not print its listing to the end, as 1.0.6 may do at a table with flags, with success."""
    return any(one.kind == "nft" and not one.content.rstrip().endswith(b"}") for one in parts)


def _saved(until: Deadline, failures: list[HostError], *, counters: bool) -> Iterator[Part]:
    """In the words of iptables, where it is there."""
    for family, kind in _SAVES.items():
        if not _speaks(family):
            continue
        try:
            source, content = iptables.save(family, counters=counters, backend="nft", until=until)
        except HostError as error:
            failures.append(HostError(f"{error}; rules are recorded in the words of nft alone"))
        else:
            yield Part(kind, source, content)


def _listed(until: Deadline, failures: list[HostError], *, counters: bool) -> Iterator[Part]:
    """In the words of nft."""
    # Without counters in the texts: a rule is the same rule however often it was hit.
    text = [nft(), "-a", "-s"]
    listing = [nft(), "-a", *([] if counters else ["-s"]), "-j"]
    printed: list[bytes] = []
    for command in (text, listing):
        done = piecewise.run([*command, "list", "ruleset"], until)
        if piecewise.aborted(done):
            printed = list(piecewise.listed([text, listing], until, failures.append))
            break
        iptables.check(command, done)
        printed.append(done.stdout)
    if len(printed[0]) <= _MOST_TOLD and (told := unprinted.told()):
        yield Part(unprinted.KIND, "NFT_MSG_GETRULE", told)
    for kind, command, content in zip((TEXT, "nft"), (text, listing), printed, strict=True):
        yield Part(kind, " ".join([*command, "list", "ruleset"]), content)
