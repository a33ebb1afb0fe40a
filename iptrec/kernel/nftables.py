"""nf_tables: its ruleset out, our TRACE rules in and out again.

Our rules come by iptables-nft (`xtables`). Tables and chains that were not there before are made by it, and
deleted by us with NLM_F_NONREC: the kernel then refuses where anything is in them by now, or
refers to them (net/netfilter/nf_tables_api.c). Our rules are found and deleted by what the kernel holds:
iptables-nft-save prints nothing of a raw table with a rule that it cannot say. One rule traces tables of every
family, since the trace bit belongs to the packet.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.errors import HostError
from iptrec.kernel import process, xtables
from iptrec.kernel.xt_tables import COMMENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iptrec.kernel.xtables import Family, TraceRule

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_TABLE, _GET_TABLE, _DELETE_TABLE = 0, 1, 2
_GET_CHAIN, _DELETE_CHAIN = 4, 5
_GET_RULE, _DELETE_RULE = 7, 8
_GET_GENERATION = 16
_REQUEST, _ACK, _INTERRUPTED, _NONREC, _DUMP = 1, 4, 0x10, 0x100, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_TABLE_NAME, _CHAIN_TABLE, _CHAIN_NAME, _GENERATION_ID = 1, 1, 3, 1
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE = 1, 2, 3
_LOOKUP: Final = b"lookup\0"  # an expression that iptables-nft-save leaves out without a word
_CHAIN_HOOK, _HOOK_NUMBER, _HOOK_PRIORITY = 4, 1, 2
_FAMILIES: Final[dict[Family, int]] = {"ipv4": 2, "ipv6": 10}
_OF_PACKETS: Final = {"ip": 2, "ip6": 10, "inet": 1}
_PREROUTING, _OUTPUT = 0, 3  # enum nf_inet_hooks
RAW_PRIORITY: Final = -300
_SAVES: Final[dict[Family, str]] = {"ipv4": "iptables-nft-save", "ipv6": "ip6tables-nft-save"}
_RAW: Final = "raw"
TEXT: Final = "nft-text"  # kind of the snapshot that has all rules as nft prints them
_CHAINS: Final = ("PREROUTING", "OUTPUT")
_TRIES: Final = 5
_ANSWER_S: Final = 5.0
_LISTING_S: Final = 300.0  # the first time, for the largest rulesets


class Part(NamedTuple):
    """What one command printed of a ruleset; ``kind`` is that of the snapshot."""

    kind: str
    source: str
    content: bytes


NOT_SEEN: Final = Part("nft-unknown", "nft", b"")  # a ruleset that was gone before it was listed


def iptables_speaks(families: Iterable[Family]) -> bool:
    """Whether iptables-nft is there; what else is needed is nft. Raises `HostError` without that."""
    nft()
    try:
        for family in families:
            xtables.require(family, "nft")
    except HostError:
        return False
    return True


def nft() -> str:
    """The command. Raises `HostError` where it is missing."""
    found = shutil.which("nft", path=process.search_path())
    if found is None:
        raise HostError("nft is not installed; on Debian: apt-get install iptables nftables")
    return found


def used() -> bool:
    """Whether there are tables in the current namespace; False where nf_tables cannot be asked."""
    try:
        with _opened() as asking:
            asking.send(
                _message(_SUBSYSTEM << 8 | _GET_TABLE, socket.AF_UNSPEC, _REQUEST | _DUMP, ())
            )
            answer = _received(asking)
    except HostError:
        return False
    return bool(struct.unpack_from("=H", answer, 4)[0] == _SUBSYSTEM << 8 | _NEW_TABLE)


def generation() -> int:
    """The number of the ruleset; each change counts it up. Raises `HostError`."""
    answer = _ask(_GET_GENERATION, socket.AF_UNSPEC)
    for kind, value in _attributes(answer[20:]):
        if kind == _GENERATION_ID and len(value) == 4:  # noqa: PLR2004 - a u32
            return int(struct.unpack("!I", value)[0])
    raise HostError("nf_tables does not tell the generation of its ruleset; Linux 4.6 does")


def ruleset(*, counters: bool, within_s: float = _LISTING_S) -> list[Part]:
    """The whole ruleset as iptables and nft tell it, all of one moment: texts first, the listing last.

    Raises `HostError`, also where that takes longer than ``within_s``.
    """
    parts: list[Part] = []
    until = time.monotonic() + within_s
    for _ in range(_TRIES):
        before = generation()
        parts = list(_listed(until, counters=counters))
        if generation() == before:
            break
    return parts


def broken_off(parts: Iterable[Part]) -> bool:
    """Whether nft did not print its listing to the end, as 1.0.6 may do at a table with flags, with success."""
    return any(one.kind == "nft" and not one.content.rstrip().endswith(b"}") for one in parts)


def made(family: Family) -> list[str]:
    """What inserting our rules will bring into being: chains of the raw table, "" for the table itself."""
    number = _FAMILIES[family]
    missing = [
        chain
        for chain in _CHAINS
        if not _there(_GET_CHAIN, number, [(_CHAIN_TABLE, _RAW), (_CHAIN_NAME, chain)])
    ]
    if not has_raw(family):
        missing.append("")
    return missing


def has_raw(family: Family) -> bool:
    """Whether there is a table ip raw, or ip6 raw."""
    return _there(_GET_TABLE, _FAMILIES[family], [(_TABLE_NAME, _RAW)])


def passed_before(priority: int) -> list[str]:
    """The base chains that packets pass before they are traced there, as nft names them; not raw's own."""
    found = []
    for family, number in _OF_PACKETS.items():
        request = _message(_SUBSYSTEM << 8 | _GET_CHAIN, number, _REQUEST | _DUMP, ())
        for body in _dumped(request) or ():
            chain = dict(_attributes(body))
            hook = dict(_attributes(chain.get(_CHAIN_HOOK, b"")))
            table, name = (
                chain[one].rstrip(b"\0").decode("utf-8", "backslashreplace")
                for one in (_CHAIN_TABLE, _CHAIN_NAME)
            )
            if (family, table) not in (("ip", _RAW), ("ip6", _RAW)) and _is_before(hook, priority):
                found.append(f"{family} {table}/{name}")
    return found


def _is_before(hook: dict[int, bytes], priority: int) -> bool:
    """Whether what is attached there sees packets up to this priority; nothing is: the chain is a user's."""
    if not hook:
        return False
    (number,) = struct.unpack("!I", hook[_HOOK_NUMBER])
    (own,) = struct.unpack("!i", hook[_HOOK_PRIORITY])
    return number in (_PREROUTING, _OUTPUT) and own <= priority


def insert(rules: Sequence[TraceRule], *, flush: bool = False) -> None:
    """See `xtables.insert`."""
    xtables.insert(rules, flush=flush)


def taken_out(family: Family) -> list[str]:
    """See `xtables.taken_out`. Raises `HostError` too for rules that iptables-nft cannot say."""
    if not has_raw(family):
        return []
    chains = xtables.raw(family, "nft")
    rules = _rules(family)
    xtables.check_count(family, "nft", sum(map(len, chains.values())), len(rules))
    if any(_LOOKUP in rule.content for rule in rules if rule.chain in _CHAINS):
        raise HostError(
            f"--flush cannot put back the nft rules of the {family} raw table that look into sets;"
            " record without it"
        )
    return xtables.in_raw_chains(chains)


def ours(family: Family) -> list[str]:
    """The comments of recorders' rules in the raw table, one for each rule."""
    found = (COMMENT.search(rule.content) for rule in _rules(family))
    return [one[0].decode() for one in found if one]


def remove(family: Family, comment: str, put_back: Sequence[str], made: Iterable[str]) -> list[str]:
    """Take out our rules, put others back, and delete of `made` what is empty now.

    As `xtables.remove`: the lines that stay out are returned.
    """
    kept = list(put_back)
    if put_back and has_raw(family):
        kept = xtables.remove(family, comment, put_back, "nft")
    number = _FAMILIES[family]
    for rule in _rules(family):
        if comment.encode() + b"\0" in rule.content:
            names = [(_RULE_TABLE, _RAW), (_RULE_CHAIN, rule.chain)]
            _delete(_DELETE_RULE, number, [*names, (_RULE_HANDLE, rule.handle)])
    for name in sorted(made, reverse=True):  # the table is the last
        if name:
            _delete(_DELETE_CHAIN, number, [(_CHAIN_TABLE, _RAW), (_CHAIN_NAME, name)])
        else:
            _delete(_DELETE_TABLE, number, [(_TABLE_NAME, _RAW)])
    return kept


def staying_out(family: Family, comment: str, lines: Sequence[str]) -> list[str]:
    """See `xtables.staying_out`."""
    if not (lines and has_raw(family)):
        return list(lines)
    return xtables.staying_out(family, comment, lines, "nft")


def _listed(until: float, *, counters: bool) -> Iterator[Part]:
    for family, kind in _SAVES.items():
        with contextlib.suppress(HostError):  # nobody's iptables: native rules alone
            source, content = xtables.save(family, counters=counters, backend="nft", until=until)
            yield Part(kind, source, content)
    # Without counters in the texts: a rule is the same rule however often it was hit.
    text = [nft(), "-a", "-s", "list", "ruleset"]
    listing = [nft(), "-a", *([] if counters else ["-s"]), "-j", "list", "ruleset"]
    for kind, command in ((TEXT, text), ("nft", listing)):
        done = xtables.run(command, until=until)
        xtables.check(command, done)
        yield Part(kind, " ".join(command), done.stdout)


def _there(kind: int, family: int, names: list[tuple[int, str]]) -> bool:
    """Whether an object exists."""
    try:
        _ask(kind, family, names)
    except FileNotFoundError:
        return False
    return True


def _ask(kind: int, family: int, names: Iterable[tuple[int, str]] = ()) -> bytes:
    """One request and its answer. Raises FileNotFoundError where there is no such object."""
    with _opened() as asking:
        asking.send(_message(_SUBSYSTEM << 8 | kind, family, _REQUEST, names))
        answer = _received(asking)
    code = _error(answer)
    if code == errno.ENOENT:
        raise FileNotFoundError(code, os.strerror(code))
    if code:
        raise HostError(f"nf_tables does not answer: {os.strerror(code)}; it needs root")
    return answer


class _Rule(NamedTuple):
    chain: str
    handle: bytes
    content: bytes  # all its attributes


def _rules(family: Family) -> list[_Rule]:
    """The rules of the raw table as the kernel holds them."""
    request = _message(
        _SUBSYSTEM << 8 | _GET_RULE, _FAMILIES[family], _REQUEST | _DUMP, [(_RULE_TABLE, _RAW)]
    )
    for _ in range(_TRIES):
        messages = _dumped(request)
        if messages is not None:
            found = (dict(_attributes(body)) | {0: body} for body in messages)
            return [
                _Rule(
                    rule[_RULE_CHAIN].rstrip(b"\0").decode("utf-8", "surrogateescape"),
                    rule[_RULE_HANDLE],
                    rule[0],
                )
                for rule in found
                if rule[_RULE_TABLE] == _RAW.encode() + b"\0"
            ]
    raise HostError("the ruleset of nf_tables changes all the time; try again later")


def _dumped(request: bytes) -> list[bytes] | None:
    """The attributes of each message that answers a dump; None where it changed meanwhile."""
    found: list[bytes] = []
    with _opened() as asking:
        asking.send(request)
        while True:
            answer = _received(asking)
            at = 0
            while at + 16 <= len(answer):
                size, kind, flags = struct.unpack_from("=IHH", answer, at)
                if flags & _INTERRUPTED:
                    return None
                if kind == _NLMSG_DONE:
                    return found
                if code := _error(answer[at:]):
                    if code == errno.ENOENT:  # no such table
                        return found
                    raise HostError(
                        f"nf_tables does not answer: {os.strerror(code)}; it needs root"
                    )
                found.append(answer[at + 20 : at + size])
                at += max(size + 3 & ~3, 16)


def _delete(kind: int, family: int, names: Iterable[tuple[int, str | bytes]]) -> None:
    """Delete what is empty; what is not, or not there, stays as it is."""
    with _opened() as asking:
        asking.send(
            _message(_BATCH_BEGIN, socket.AF_UNSPEC, _REQUEST, (), _SUBSYSTEM)
            + _message(_SUBSYSTEM << 8 | kind, family, _REQUEST | _ACK | _NONREC, names)
            + _message(_BATCH_END, socket.AF_UNSPEC, _REQUEST, (), _SUBSYSTEM)
        )
        code = _error(_received(asking))
    if code not in (0, errno.EBUSY, errno.ENOENT):
        what = "/".join(name for _, name in names if isinstance(name, str))
        raise HostError(f"cannot delete {what} of nf_tables: {os.strerror(code)}; try again")


def _opened() -> socket.socket:
    try:
        opened = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        )
    except OSError as error:
        raise HostError(f"this kernel has no nfnetlink: {error.strerror}") from None
    opened.bind((0, 0))
    opened.connect((0, 0))  # to the kernel: nobody else can send to it
    opened.settimeout(_ANSWER_S)
    return opened


def _received(asking: socket.socket) -> bytes:
    try:
        return asking.recv(65536)
    except OSError as error:
        raise HostError(f"nf_tables does not answer: {error.strerror or error}") from None


def _error(answer: bytes) -> int:
    """The errno of an answer; 0 for an acknowledgement and for what is no error."""
    if struct.unpack_from("=H", answer, 4)[0] != _NLMSG_ERROR:
        return 0
    return -int(struct.unpack_from("=i", answer, 16)[0])


def _message(
    kind: int, family: int, flags: int, names: Iterable[tuple[int, str | bytes]], resource: int = 0
) -> bytes:
    body = struct.pack("!BBH", family, 0, resource)
    for number, name in names:
        value = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape") + b"\0"
        body += struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(body):
        size, kind = struct.unpack_from("=HH", body, at)
        yield kind & 0x3FFF, body[at + 4 : at + size]
        at += max(size + 3 & ~3, 4)
