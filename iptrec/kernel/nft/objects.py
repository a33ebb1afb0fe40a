"""nf_tables: its ruleset out, our TRACE rules in and out again.

Our rules come by iptables-nft (`xtables`). Tables and chains that were not there before are made by it, and
deleted by us with NLM_F_NONREC: the kernel then refuses where anything is in them by now, or
refers to them (net/netfilter/nf_tables_api.c). Rules are found, deleted and put back as the kernel holds them
(`nft_rule`): iptables-nft-save prints nothing of a raw table with a rule that it cannot say, or something else,
and nft cannot say all that iptables-nft makes. One rule traces tables of every family, since the trace bit
belongs to the packet.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import struct
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.errors import HostError
from iptrec.kernel import iptables, process
from iptrec.kernel.legacy.digest import COMMENT
from iptrec.kernel.nft import rule as nft_rule
from iptrec.kernel.nft.rule import Rule, attributes
from iptrec.kernel.undo import flushed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iptrec.names import Family

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_TABLE, _GET_TABLE, _DELETE_TABLE = 0, 1, 2
_NEW_CHAIN, _GET_CHAIN, _DELETE_CHAIN = 3, 4, 5
_NEW_RULE, _GET_RULE, _DELETE_RULE = 6, 7, 8
_GET_GENERATION = 16
_REQUEST, _ACK, _INTERRUPTED, _NONREC, _DUMP = 1, 4, 0x10, 0x100, 0x300
_CREATE, _APPEND = 0x400, 0x800
_SOL_NETLINK, _CAP_ACK = 270, 10  # linux/netlink.h: errors come without what was sent
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_TABLE_NAME, _CHAIN_TABLE, _CHAIN_NAME, _GENERATION_ID = 1, 1, 3, 1
_CHAIN_HOOK, _CHAIN_TYPE, _HOOK_NUMBER, _HOOK_PRIORITY = 4, 7, 1, 2
_FAMILIES: Final[dict[Family, int]] = {"ipv4": 2, "ipv6": 10}
_OF_PACKETS: Final = {"ip": 2, "ip6": 10, "inet": 1}
_HOOKS: Final = {"PREROUTING": 0, "OUTPUT": 3}  # NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT
RAW_PRIORITY: Final = -300  # NF_IP_PRI_RAW
_SAVES: Final[dict[Family, str]] = {"ipv4": "iptables-nft-save", "ipv6": "ip6tables-nft-save"}
_RAW: Final = "raw"
TEXT: Final = "nft-text"  # kind of the snapshot that has all rules as nft prints them
_CHAINS: Final = ("PREROUTING", "OUTPUT")
_LISTED_RULE: Final = re.compile(r"^(.*) # handle (\d+)$", re.MULTILINE)
_ALWAYS_CHANGES: Final = "the ruleset of nf_tables changes all the time; try again later"
_TRIES: Final = 5
_BETWEEN_CHANGES_S: Final = 10.0  # as long as for the xtables lock
_ANSWER_S: Final = 5.0
_ANSWER_BYTES: Final = 1024  # of memory, however short it is
_SPARE: Final = 65536
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
            iptables.require(family, "nft")
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
    for kind, value in attributes(answer[20:]):
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
            chain = dict(attributes(body))
            hook = dict(attributes(chain.get(_CHAIN_HOOK, b"")))
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
    return number in _HOOKS.values() and own <= priority


def taken_out(family: Family) -> list[str]:
    """The rules that `take_out` will take out, with counters, as `remove` puts them back.

    Raises `HostError` for those that could not be put back.
    """
    if not has_raw(family):
        return []
    texts = _texts(family)  # first: counters are to be as late as possible
    rules = _of_the_user(family)
    _check_that_they_come_back(family, rules)
    return [
        rule._replace(text=texts.get(nft_rule.number(rule.handle), "(not listed)")).line
        for rule in rules
    ]


def take_out(family: Family, lines: Iterable[str]) -> None:
    """Delete the rules that `taken_out` told; those of other recorders stay. Raises `HostError`."""
    told = [Rule.read(line).identity for line in lines]
    for _ in _attempts():
        rules = _told(family, Counter(told))
        with contextlib.suppress(_ChangedError):
            _put(family, [(None, _old(rule)) for rule in rules])
            return
    raise HostError(_ALWAYS_CHANGES)


def _attempts() -> Iterator[int]:
    """Again and again, for as long as somebody else always changes something in between."""
    until = time.monotonic() + _BETWEEN_CHANGES_S
    number = 0
    while number < _TRIES or time.monotonic() < until:
        yield (number := number + 1)


def _told(family: Family, left: Counter[tuple[object, ...]]) -> list[Rule]:
    """As many of each rule of the user as were told: somebody may have added an equal one since."""
    found = []
    for rule in _of_the_user(family):
        if left[rule.identity] > 0:
            left[rule.identity] -= 1
            found.append(rule)
    return found


def readable(lines: Iterable[str]) -> list[str]:
    """Lines of `taken_out` for humans: the chain, and the rule as nft lists it."""
    return [Rule.read(line).readable for line in lines]


def matches(lines: Iterable[str]) -> set[str]:
    """What lines of `taken_out` match by; see `flushed.started_again`."""
    return {name for line in lines for name in Rule.read(line).matches}


def ours(family: Family) -> list[str]:
    """The comments of recorders' rules in the raw table, one for each rule."""
    found = (COMMENT.search(rule.content) for rule in _rules(family))
    return [one[0].decode() for one in found if one]


def remove(family: Family, comment: str, put_back: Iterable[str], made: Iterable[str]) -> list[str]:
    """Take out our rules, put others back, and delete of `made` what is empty now.

    ``put_back``: lines of `taken_out`; those that stay out are returned (`flushed.places`), and those that the
    kernel does not take any more, as a chain that they jump to is gone. Raises `HostError`.
    """
    kept = _exchange(family, comment, [Rule.read(line) for line in put_back])
    for name in sorted(made, reverse=True):  # the table is the last
        if name:
            _delete(_DELETE_CHAIN, family, [(_CHAIN_TABLE, _RAW), (_CHAIN_NAME, name)])
        else:
            _delete(_DELETE_TABLE, family, [(_TABLE_NAME, _RAW)])
    return [rule.line for rule in kept]


def staying_out(family: Family, comment: str, lines: Iterable[str]) -> list[str]:
    """Those of `taken_out` that `remove` would leave out now."""
    rules = [Rule.read(line) for line in lines]
    return [rule.line for rule in _sorted(family, comment, _rules(family), rules)[1]]


def append(family: Family, lines: Iterable[str]) -> list[str]:
    """Put lines of `taken_out` behind the rules that are there; those that the kernel refuses are returned.

    Their table and chains are made where they are gone. Raises `HostError`.
    """
    rules = [Rule.read(line) for line in lines]
    chains = {rule.chain for rule in rules}
    missing = [name for name in sorted(made(family)) if not name or name in chains]
    heads = [(None, _new_chain(name) if name else _NEW_RAW) for name in missing]
    refused = _put(family, [*heads, *((rule, _new(family, rule)) for rule in rules)])
    return [rule.line for rule in refused]


def _check_that_they_come_back(family: Family, rules: Sequence[Rule]) -> None:
    """Raise `HostError` where the kernel would not take a rule again. Nothing is changed for that."""
    for at, reason in _obstacles(family, rules):
        chain = rules[at].chain
        place = sum(rule.chain == chain for rule in rules[: at + 1])
        raise HostError(flushed.refusal(f"rule {place} of {chain}", family, reason, "nft"))


def _obstacles(family: Family, rules: Sequence[Rule]) -> Iterator[tuple[int, str]]:
    """Which rules could not come back, and why: what has no name is not tried, as kernels had bugs there."""
    for at, rule in enumerate(rules):
        if rule.anonymous is not None:
            yield at, f"a {rule.anonymous} without a name goes with it"
        if reason := flushed.obstacle(rule.matches):
            yield at, reason
    requests = [_new(family, rule, rule.handle) for rule in rules]
    for at, code in _batch(family, requests, dry=True).items():
        yield at, "what it refers to goes with it" if code == errno.EBUSY else os.strerror(code)


def _texts(family: Family) -> dict[int, str]:
    """How nft lists the rules of the raw table, by their handles."""
    command = [nft(), "-a", "list", "table", "ip" if family == "ipv4" else "ip6", _RAW]
    done = iptables.run(command)
    iptables.check(command, done)
    listing = done.stdout.decode("utf-8", "surrogateescape")
    return {int(handle): text.strip() for text, handle in _LISTED_RULE.findall(listing)}


def _exchange(family: Family, comment: str, put_back: Sequence[Rule]) -> list[Rule]:
    """Our rules for those that were there before, all at once or nothing; those that stay out."""
    for number in _attempts():
        before = generation()
        there = _rules(family)
        back, kept = _sorted(family, comment, there, put_back)
        ours = [rule for rule in there if _is_ours(rule, comment)]
        gone = [(None, _old(rule)) for rule in ours]
        # In place of ours they stand where they belong, whatever else somebody changes all the time.
        handles = number > _TRIES and all(_new_before(one, ours) for _, one in back)
        try:
            kept += _put(family, [*back, *gone], None if handles else before)
        except _ChangedError:
            continue
        return [rule for rule in put_back if rule in kept]
    raise HostError(_ALWAYS_CHANGES)


def _sorted(
    family: Family, comment: str, there: Iterable[Rule], put_back: Iterable[Rule]
) -> tuple[list[tuple[Rule | None, _Request]], list[Rule]]:
    """Requests that put rules back, and the rules that stay out."""
    missing = made(family)
    now = _by_chain(there)
    chains = {
        chain: [
            rule
            for rule in now.get(chain, [])
            if _is_ours(rule, comment) or not _is_a_recorders(rule)
        ]
        for chain in _CHAINS
        if chain not in missing
    }
    out = _by_chain(put_back)
    places = flushed.places(
        {
            chain: [None if _is_ours(rule, comment) else rule.identity for rule in rules]
            for chain, rules in chains.items()
        },
        {chain: [rule.identity for rule in rules] for chain, rules in out.items()},
    )
    back: list[tuple[Rule | None, _Request]] = []
    kept: list[Rule] = []
    for chain, place in places.items():
        if place is None:
            kept += out[chain]
            continue
        before = chains[chain][place].handle if chains[chain] else None
        back += ((rule, _new(family, rule, before)) for rule in out[chain])
    return back, kept


def _by_chain(rules: Iterable[Rule]) -> dict[str, list[Rule]]:
    found: dict[str, list[Rule]] = {}
    for rule in rules:
        found.setdefault(rule.chain, []).append(rule)
    return found


def _is_ours(rule: Rule, comment: str) -> bool:
    return comment.encode() + b"\0" in rule.content


def _is_a_recorders(rule: Rule) -> bool:
    return COMMENT.search(rule.content) is not None


def _of_the_user(family: Family) -> list[Rule]:
    """The rules in the chains that --flush is about, but for those of recorders."""
    return [rule for rule in _rules(family) if rule.chain in _CHAINS and not _is_a_recorders(rule)]


def _put(
    family: Family,
    requests: Sequence[tuple[Rule | None, _Request]],
    generation: int | None = None,
) -> list[Rule]:
    """Do what is asked for, but for rules that the kernel refuses: these are returned.

    Raises `_ChangedError` where a rule to delete is gone, `HostError` where it refuses anything else.
    """
    refused: list[Rule] = []
    while failed := _batch(family, [request for _, request in requests], generation):
        # Those that name what is gone fail by themselves, others perhaps because of the one before.
        gone = {at for at, code in failed.items() if code == errno.ENOENT} or {min(failed)}
        for at in gone:
            rule, request = requests[at]
            if request.kind == _DELETE_RULE and failed[at] == errno.ENOENT:
                raise _ChangedError
            if rule is None:
                fact = os.strerror(failed[at])
                raise HostError(
                    f"cannot change the {family} raw table of nf_tables: {fact}; try again"
                )
            refused.append(rule)
        requests = [one for at, one in enumerate(requests) if at not in gone]
    return refused


class _Request(NamedTuple):
    """One message of a batch."""

    kind: int
    flags: int
    values: list[tuple[int, str | bytes]]


_NEW_RAW: Final = _Request(_NEW_TABLE, _CREATE, [(_TABLE_NAME, _RAW)])


def _new(family: Family, rule: Rule, before: bytes | None = None) -> _Request:
    """Add a rule before the one with that handle, or as the last of its chain."""
    place = [] if before is None else [(nft_rule.POSITION, before)]
    return _Request(
        _NEW_RULE,
        _CREATE if place else _CREATE | _APPEND,
        [
            (nft_rule.TABLE, _RAW),
            (nft_rule.CHAIN, rule.chain),
            *place,
            *rule.new(_FAMILIES[family]),
        ],
    )


def _new_before(request: _Request, rules: Iterable[Rule]) -> bool:
    """Whether a rule is added before one of these."""
    return dict(request.values).get(nft_rule.POSITION) in [rule.handle for rule in rules]


def _old(rule: Rule) -> _Request:
    """Delete a rule."""
    names: list[tuple[int, str | bytes]] = [(nft_rule.TABLE, _RAW), (nft_rule.CHAIN, rule.chain)]
    return _Request(_DELETE_RULE, 0, [*names, (nft_rule.HANDLE, rule.handle)])


def _new_chain(name: str) -> _Request:
    """Make a chain of the raw table as iptables-nft does."""
    hook = nft_rule.packed(
        [
            (_HOOK_NUMBER, struct.pack("!I", _HOOKS[name])),
            (_HOOK_PRIORITY, struct.pack("!i", RAW_PRIORITY)),
        ]
    )
    return _Request(
        _NEW_CHAIN,
        _CREATE,
        [
            (_CHAIN_TABLE, _RAW),
            (_CHAIN_NAME, name),
            (_CHAIN_HOOK, hook),
            (_CHAIN_TYPE, "filter"),
        ],
    )


def _listed(until: float, *, counters: bool) -> Iterator[Part]:
    for family, kind in _SAVES.items():
        with contextlib.suppress(HostError):  # nobody's iptables: native rules alone
            source, content = iptables.save(family, counters=counters, backend="nft", until=until)
            yield Part(kind, source, content)
    # Without counters in the texts: a rule is the same rule however often it was hit.
    text = [nft(), "-a", "-s", "list", "ruleset"]
    listing = [nft(), "-a", *([] if counters else ["-s"]), "-j", "list", "ruleset"]
    for kind, command in ((TEXT, text), ("nft", listing)):
        done = iptables.run(command, until=until)
        iptables.check(command, done)
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


def _rules(family: Family) -> list[Rule]:
    """The rules of the raw table as the kernel holds them."""
    request = _message(
        _SUBSYSTEM << 8 | _GET_RULE, _FAMILIES[family], _REQUEST | _DUMP, [(nft_rule.TABLE, _RAW)]
    )
    for _ in _attempts():
        messages = _dumped(request)
        if messages is not None:
            found = (dict(attributes(body)) for body in messages)
            return [Rule.of(one) for one in found if one[nft_rule.TABLE] == _RAW.encode() + b"\0"]
    raise HostError(_ALWAYS_CHANGES)


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


def _delete(kind: int, family: Family, names: list[tuple[int, str | bytes]]) -> None:
    """Delete what is empty; what is not, or not there, stays as it is."""
    code = _batch(family, [_Request(kind, _NONREC, names)]).get(0, 0)
    if code not in (0, errno.EBUSY, errno.ENOENT):
        what = "/".join(name for _, name in names if isinstance(name, str))
        raise HostError(f"cannot delete {what} of nf_tables: {os.strerror(code)}; try again")


class _ChangedError(Exception):
    """Somebody changed the ruleset since it was looked at."""


def _batch(
    family: Family,
    requests: Sequence[_Request],
    generation: int | None = None,
    *,
    dry: bool = False,
) -> dict[int, int]:
    """Do everything that is asked for, or nothing; the errno of each request that the kernel refused.

    ``generation``: the ruleset is still that one; `_ChangedError` if it is not. ``dry``: only try: the kernel
    forgets a batch without an end (net/netfilter/nfnetlink.c), as it does for nft --check. Raises `HostError`.
    """
    if not requests:
        return {}
    checked = [] if generation is None else [(_GENERATION_ID, struct.pack("!I", generation))]
    text = _message(_BATCH_BEGIN, socket.AF_UNSPEC, _REQUEST, checked, _SUBSYSTEM)
    for number, (kind, flags, values) in enumerate(requests, 1):
        # Answered are the last one, and before it those that are refused.
        asked = flags | _REQUEST | (_ACK if number == len(requests) else 0)
        text += _message(_SUBSYSTEM << 8 | kind, _FAMILIES[family], asked, values, sequence=number)
    if not dry:
        text += _message(_BATCH_END, socket.AF_UNSPEC, _REQUEST, (), _SUBSYSTEM)
    with _opened() as asking:
        _make_room(asking, len(text), len(requests))
        _sent(asking, text)
        return _refused(asking, len(requests))


def _refused(asking: socket.socket, last: int) -> dict[int, int]:
    """The answers to a batch: the place of what failed -> errno."""
    failed: dict[int, int] = {}
    while True:
        answer = _received(asking)
        number = struct.unpack_from("=I", answer, 8)[0]
        code = _error(answer)
        if code == errno.ERESTART:
            raise _ChangedError
        if number == 0:  # about the batch itself
            raise HostError(f"nf_tables does not answer: {os.strerror(code)}; it needs root")
        if code:
            failed[number - 1] = code
        if number == last:
            return failed


def _make_room(asking: socket.socket, sent: int, answers: int) -> None:
    """Let a batch go in one piece, and each of its messages be refused."""
    asking.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
    for option, forced, size in (
        (socket.SO_SNDBUF, _SO_SNDBUFFORCE, sent + _SPARE),
        (socket.SO_RCVBUF, _SO_RCVBUFFORCE, answers * _ANSWER_BYTES + _SPARE),
    ):
        try:
            asking.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:  # not root of the host
            asking.setsockopt(socket.SOL_SOCKET, option, size)


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


def _sent(asking: socket.socket, text: bytes) -> None:
    try:
        asking.send(text)
    except OSError as error:
        raise HostError(
            f"nf_tables does not take {len(text):,} bytes at once: {error.strerror}; raise net.core.wmem_max"
        ) from None


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
    kind: int,
    family: int,
    flags: int,
    values: Iterable[tuple[int, str | bytes]],
    resource: int = 0,
    sequence: int = 0,
) -> bytes:
    body = struct.pack("!BBH", family, 0, resource) + nft_rule.packed(
        (
            number,
            value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape") + b"\0",
        )
        for number, value in values
    )
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body
