"""The raw tables of nf_tables: our TRACE rules out again, and what --flush takes out for a while.

Our rules come by iptables-nft (`iptables`). Tables and chains that were not there before are made by it, and
deleted by us with NLM_F_NONREC: the kernel then refuses where anything is in them by now, or
refers to them (net/netfilter/nf_tables_api.c). Rules are found, deleted and put back as the kernel holds them
(`rule`): iptables-nft-save prints nothing of a raw table with a rule that it cannot say, or something else,
and nft cannot say all that iptables-nft makes. One rule traces tables of every family, since the trace bit
belongs to the packet.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError
from iptrec.kernel import iptables, netlink, process
from iptrec.kernel.legacy.digest import COMMENT
from iptrec.kernel.nft import rule as nft_rule
from iptrec.kernel.nft import transactions
from iptrec.kernel.nft.listing import nft
from iptrec.kernel.nft.rule import Rule
from iptrec.kernel.nft.transactions import FAMILIES, ChangedError, Request, batch, generation
from iptrec.kernel.undo import flushed
from iptrec.names import HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iptrec.kernel.nft.transactions import Values
    from iptrec.names import Family

_TABLE_NAME, _CHAIN_TABLE, _CHAIN_NAME = 1, 1, 3  # NFTA_
_CHAIN_HOOK, _CHAIN_TYPE, _HOOK_NUMBER, _HOOK_PRIORITY = 4, 7, 1, 2
_HOOKS: Final = {chain: HOOKS.index(chain) for chain in iptables.CHAINS}
RAW_PRIORITY: Final = -300  # NF_IP_PRI_RAW
_RAW: Final = "raw"
_LISTED_RULE: Final = re.compile(r"^(.*) # handle (\d+)$", re.MULTILINE)
_BETWEEN_CHANGES_S: Final = 10.0  # as long as for the xtables lock


def made(family: Family) -> list[str]:
    """What inserting our rules will bring into being: chains of the raw table, "" for the table itself."""
    missing = [
        chain
        for chain in iptables.CHAINS
        if not transactions.there(
            transactions.GET_CHAIN, family, [(_CHAIN_TABLE, _RAW), (_CHAIN_NAME, chain)]
        )
    ]
    if not has_raw(family):
        missing.append("")
    return missing


def has_raw(family: Family) -> bool:
    """Whether there is a table ip raw, or ip6 raw."""
    return transactions.there(transactions.GET_TABLE, family, [(_TABLE_NAME, _RAW)])


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
        with contextlib.suppress(ChangedError):
            _put(family, [(None, _old(rule)) for rule in rules])
            return
    raise HostError(transactions.ALWAYS_CHANGES)


def _attempts() -> Iterator[int]:
    """Again and again, for as long as somebody else always changes something in between."""
    until = time.monotonic() + _BETWEEN_CHANGES_S
    number = 0
    while number < transactions.TRIES or time.monotonic() < until:
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


def understood(line: str) -> bool:
    """Whether a line is one of `taken_out` that `remove` can put back."""
    return nft_rule.understood(line)


def ours(family: Family) -> list[str]:
    """The comments of recorders' rules in the raw table, one for each rule."""
    found = (COMMENT.search(rule.content) for rule in _rules(family))
    return [one[0].decode() for one in found if one]


def of_recorder(family: Family, comment: str) -> list[Rule]:
    """The rules of one recorder in the raw table."""
    return [rule for rule in _rules(family) if _is_ours(rule, comment)]


def remove(family: Family, comment: str, put_back: Iterable[str], made: Iterable[str]) -> list[str]:
    """Take out our rules, put others back, and delete of `made` what is empty now.

    ``put_back``: lines of `taken_out`; those that stay out are returned (`flushed.places`), and those that the
    kernel does not take any more, as a chain that they jump to is gone. Raises `HostError`.
    """
    kept = _exchange(family, comment, [Rule.read(line) for line in put_back])
    for name in sorted(made, reverse=True):  # the table is the last
        if name:
            _delete(transactions.DELETE_CHAIN, family, [(_CHAIN_TABLE, _RAW), (_CHAIN_NAME, name)])
        else:
            _delete(transactions.DELETE_TABLE, family, [(_TABLE_NAME, _RAW)])
    return [rule.line for rule in kept]


def staying_out(family: Family, comment: str, lines: Iterable[str]) -> list[str]:
    """Those of `taken_out` that `remove` would leave out now."""
    rules = [Rule.read(line) for line in lines]
    return [rule.line for rule in _sorted(family, comment, _rules(family), rules)[1]]


def insertions(family: Family, rules: Sequence[Rule]) -> list[Request]:
    """What puts rules at the top of their chains, as `iptables.insert` does, which takes longer.

    It makes their table and chains, where these are gone.
    """
    new = [_new(family, rule)._replace(flags=netlink.CREATE) for rule in reversed(rules)]
    heads = [_NEW_RAW, *(_new_chain(one) for one in sorted({rule.chain for rule in rules}))]
    return [one._replace(holder=family) for one in (*heads, *new)]


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
    for at, code in batch(family, requests, dry=True).items():
        yield at, "what it refers to goes with it" if code == errno.EBUSY else os.strerror(code)


def _texts(family: Family) -> dict[int, str]:
    """How nft lists the rules of the raw table, by their handles."""
    command = [nft(), "-a", "list", "table", "ip" if family == "ipv4" else "ip6", _RAW]
    done = process.run(command)
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
        handles = number > transactions.TRIES and all(_new_before(one, ours) for _, one in back)
        try:
            kept += _put(family, [*back, *gone], None if handles else before)
        except ChangedError:
            continue
        return [rule for rule in put_back if rule in kept]
    raise HostError(transactions.ALWAYS_CHANGES)


def _sorted(
    family: Family, comment: str, there: Iterable[Rule], put_back: Iterable[Rule]
) -> tuple[list[tuple[Rule | None, Request]], list[Rule]]:
    """Requests that put rules back, and the rules that stay out."""
    missing = made(family)
    now = _by_chain(there)
    chains = {
        chain: [
            rule
            for rule in now.get(chain, [])
            if _is_ours(rule, comment) or not _is_a_recorders(rule)
        ]
        for chain in iptables.CHAINS
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
    back: list[tuple[Rule | None, Request]] = []
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
    return [
        rule
        for rule in _rules(family)
        if rule.chain in iptables.CHAINS and not _is_a_recorders(rule)
    ]


def _put(
    family: Family,
    requests: Sequence[tuple[Rule | None, Request]],
    generation: int | None = None,
) -> list[Rule]:
    """Do what is asked for, but for rules that the kernel refuses: these are returned.

    Raises `ChangedError` where a rule to delete is gone, `HostError` where it refuses anything else.
    """
    refused: list[Rule] = []
    while failed := batch(family, [request for _, request in requests], generation):
        # Those that name what is gone fail by themselves, others perhaps because of the one before.
        gone = {at for at, code in failed.items() if code == errno.ENOENT} or {min(failed)}
        for at in gone:
            rule, request = requests[at]
            if request.kind == transactions.DELETE_RULE and failed[at] == errno.ENOENT:
                raise ChangedError
            if rule is None:
                fact = os.strerror(failed[at])
                raise HostError(
                    f"cannot change the {family} raw table of nf_tables: {fact}; try again"
                )
            refused.append(rule)
        requests = [one for at, one in enumerate(requests) if at not in gone]
    return refused


_NEW_RAW: Final = Request(transactions.NEW_TABLE, netlink.CREATE, [(_TABLE_NAME, _RAW)])


def _new(family: Family, rule: Rule, before: bytes | None = None) -> Request:
    """Add a rule before the one with that handle, or as the last of its chain."""
    place = [] if before is None else [(nft_rule.POSITION, before)]
    return Request(
        transactions.NEW_RULE,
        netlink.CREATE if place else netlink.CREATE | netlink.APPEND,
        [
            (nft_rule.TABLE, _RAW),
            (nft_rule.CHAIN, rule.chain),
            *place,
            *rule.new(FAMILIES[family]),
        ],
    )


def _new_before(request: Request, rules: Iterable[Rule]) -> bool:
    """Whether a rule is added before one of these."""
    return dict(request.values).get(nft_rule.POSITION) in [rule.handle for rule in rules]


def _old(rule: Rule) -> Request:
    """Delete a rule."""
    names: Values = [(nft_rule.TABLE, _RAW), (nft_rule.CHAIN, rule.chain)]
    return Request(transactions.DELETE_RULE, 0, [*names, (nft_rule.HANDLE, rule.handle)])


def _new_chain(name: str) -> Request:
    """Make a chain of the raw table as iptables-nft does."""
    hook = netlink.packed(
        [
            (_HOOK_NUMBER, struct.pack("!I", _HOOKS[name])),
            (_HOOK_PRIORITY, struct.pack("!i", RAW_PRIORITY)),
        ]
    )
    return Request(
        transactions.NEW_CHAIN,
        netlink.CREATE,
        [
            (_CHAIN_TABLE, _RAW),
            (_CHAIN_NAME, name),
            (_CHAIN_HOOK, hook),
            (_CHAIN_TYPE, "filter"),
        ],
    )


def _rules(family: Family) -> list[Rule]:
    """The rules of the raw table as the kernel holds them."""
    found = transactions.dumped(transactions.GET_RULE, FAMILIES[family], [(nft_rule.TABLE, _RAW)])
    if found is None:
        raise HostError(transactions.ALWAYS_CHANGES)
    return [Rule.of(one) for one in found if one[nft_rule.TABLE] == _RAW.encode() + b"\0"]


def _delete(kind: int, family: Family, names: Values) -> None:
    """Delete what is empty; what is not, or not there, stays as it is."""
    code = batch(family, [Request(kind, netlink.NONREC, names)]).get(0, 0)
    if code not in (0, errno.EBUSY, errno.ENOENT):
        what = "/".join(name for _, name in names if isinstance(name, str))
        raise HostError(f"cannot delete {what} of nf_tables: {os.strerror(code)}; try again")
