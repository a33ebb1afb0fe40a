"""What nft printed of its ruleset, as values: tables, chains with their hooks, rules with their handles.

``nft -j`` tells what is there (man 5 libnftables-json), ``nft -a`` how a reader knows it, and
``iptables-nft-save`` what iptables calls a rule of its own: there the n-th rule of a chain is the n-th rule of
nft's. It leaves out what it cannot say, so its words are taken only for a rule of which they say all that
nft's JSON says (`nft_iptables`).

nft gains statements with each version, and prints some as plain text. What is not understood here is kept as
text, and is taken for a condition: nobody knows whether it holds.

nft 1.0.6 spoils the flags of tables in its JSON, and with them sometimes all that follows. So the flags are
those of its text, and where the JSON cannot be read its text alone tells the ruleset: each rule is then one
statement that is not understood.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from iptrec.decode.rulesets import nft_iptables, nft_listing, nft_matches, nft_text
from iptrec.decode.rulesets.nft_matches import shown
from iptrec.decode.rulesets.types import Base, Chain, Rule, Ruleset, TableName
from iptrec.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from iptrec.decode.rulesets.nft_unprinted import Compiled

_HOOKS: Final = {
    "ingress": 0, "prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4, "egress": 4,
}  # fmt: skip
# include/uapi/linux/netfilter_ipv4.h: NAT's own hooks are there, whatever a chain of the type nat says
_NAT_PRIORITIES: Final = {0: -100, 1: 100, 3: -100, 4: 100}
_VERDICTS: Final = {"accept": "ACCEPT", "drop": "DROP", "return": "RETURN", "queue": "QUEUE"}
_STATEMENTS: Final = {
    "reject": "REJECT", "dnat": "DNAT", "snat": "SNAT", "masquerade": "MASQUERADE",
    "redirect": "REDIRECT", "tproxy": "TPROXY", "notrack": "NOTRACK", "log": "LOG", "dup": "TEE",
    "fwd": "FWD", "synproxy": "SYNPROXY",
}  # fmt: skip
_PLAIN: Final = frozenset({*_VERDICTS, "counter", "jump", "goto", "log", "reject", "notrack"})
# A reject of another kind is a condition, which nft does not print: packets of other protocols go by.
_EVERY: Final = {"ip": "icmp", "ip6": "icmpv6", "inet": "icmpx", "bridge": "icmpx"}
# The comment of a recorder's TRACE rule, of which nft does not print the rest: it is one of x_tables.
TAG: Final = "iptrec:"
# An anonymous chain, which nft prints as text: every packet goes there.
_ANONYMOUS: Final = re.compile(r"(jump|goto) \{\n")
_UNKNOWN: Final = ""  # in the place of a statement's name: it is none that is understood
_MOST_RULES: Final = 1_000_000
_MOST_TOLD: Final = 200_000  # by the text alone
LARGEST: Final = 32 << 20  # bytes: as values it takes ten times as much
Statement = tuple[str, Any]  # name, value


@dataclass(slots=True)
class Listing:
    """A ruleset; chains have their rules in order.

    ``iptables``: the chains of those tables that iptables knows as well, each rule in its words where they
    say all that nft says. ``whole``: nft's JSON was read, not its text alone. ``handles``: the tables' own.
    ``dormant``: where the chains of tables that no packet meets now will be attached when these wake.
    """

    chains: dict[TableName, dict[str, Chain]] = field(default_factory=dict)
    iptables: dict[TableName, dict[str, Chain]] = field(default_factory=dict)
    whole: bool = True
    handles: dict[TableName, int] = field(default_factory=dict)
    dormant: dict[TableName, dict[str, Base]] = field(default_factory=dict)

    def without(self, tables: Collection[TableName]) -> Listing:
        """All but some of its tables."""
        return Listing(
            {name: one for name, one in self.chains.items() if name not in tables},
            {name: one for name, one in self.iptables.items() if name not in tables},
            self.whole,
            {name: one for name, one in self.handles.items() if name not in tables},
            {name: one for name, one in self.dormant.items() if name not in tables},
        )


@dataclass(frozen=True, slots=True)
class _Read:
    """A rule, and what it is made of.

    ``open``: the statements that need not let every packet on, or change what later ones look at.
    """

    rule: Rule
    statements: tuple[Statement, ...]
    open: tuple[Statement, ...]


_Rules = dict[tuple[TableName, str], list[_Read]]
_Bases = dict[TableName, dict[str, tuple[str | None, Base | None]]]


def parse(
    listing: bytes,
    text: bytes = b"",
    iptables: Mapping[str, Ruleset] | None = None,
    known: dict[Any, Any] | None = None,
    compiled: Compiled | None = None,
) -> Listing:
    """Read what ``nft -j list ruleset`` printed, with the texts of ``nft -a list ruleset``.

    ``iptables``: what ``iptables-nft-save`` printed, by nft's family. ``known``: rules and chains that were
    read before; equal ones become the same objects. ``compiled``: what the kernel's rules have
    (`nft_unprinted`). Raises `RecordingError` for what is no such listing where no text tells the ruleset,
    either; an object in it that has no name, or is of an unknown kind, is left out.
    """
    if len(listing) > LARGEST or len(text) > LARGEST:
        raise too_large()
    known = {} if known is None else known
    texts, dormant = nft_text.texts(text)
    whole = True
    try:
        objects = nft_listing.objects(listing)
        bases, rules = _read(objects, texts, compiled or {})
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        whole, objects = False, list(islice(nft_text.objects(text, texts), _MOST_TOLD + 1))
        if len(objects) > _MOST_TOLD:
            raise RecordingError(
                f"an nft ruleset of more than {_MOST_TOLD:,} rules is not read by its text alone"
            ) from None
        if not objects:
            raise RecordingError(f"the nft ruleset is damaged: {_fact(error)}") from None
        bases, rules = _read(objects, texts, compiled or {})
    _add_devices(bases, text)
    asleep = {}
    for key in bases.keys() & dormant:
        asleep[key] = {name: base for name, (_, base) in bases[key].items() if base is not None}
        bases[key] = {name: (policy, None) for name, (policy, _) in bases[key].items()}
    own = _chain_handles(objects)
    found = Listing(
        {key: _chains(key, chains, rules, own, known) for key, chains in bases.items()},
        whole=whole,
        handles=_handles(objects),
        dormant=asleep,
    )
    for key, chains in found.chains.items():
        family, table = key
        saved = (iptables or {}).get(family, Ruleset()).tables.get(table, {})
        if saved and all(_alike(saved.get(name), chain) for name, chain in chains.items()):
            found.iptables[key] = {
                name: _worded(saved[name], chain, rules.get((key, name), []), known)
                for name, chain in chains.items()
            }
    return found


def too_large() -> RecordingError:
    """The error for more than `LARGEST` bytes."""
    return RecordingError(f"an nft ruleset of more than {LARGEST:,} bytes is not read")


def _fact(error: Exception) -> str:
    """What is wrong with a listing; `nft_listing` has said it in plain words."""
    return str(error) if isinstance(error, ValueError) else "it is not what nft -j prints"


def _add_devices(bases: _Bases, text: bytes) -> None:
    """Those of chains at ingress and egress, where there are such chains."""
    ends = [
        (*table, name, policy, base)
        for table, chains in bases.items()
        for name, (policy, base) in chains.items()
        if base is not None and base.family == "netdev"
    ]
    told = nft_text.devices(text) if ends else {}
    for family, table, name, policy, base in ends:
        seen = told.get((family, table, name), frozenset())
        bases[family, table][name] = policy, replace(base, devices=seen)


def _alike(saved: Chain | None, chain: Chain) -> bool:
    return saved is not None and len(saved.rules) == len(chain.rules)


def is_whole(listing: bytes) -> bool:
    """Whether nft printed its JSON to the end; where it cannot go on it says so to nobody."""
    return listing.rstrip().endswith(b"}")


def _worded(saved: Chain, chain: Chain, rules: list[_Read], known: dict[Any, Any]) -> Chain:
    """A chain with iptables' words where they are true."""
    told = []
    for ours, one in zip(saved.rules, rules, strict=True):
        key = one.rule, ours  # they were compared before
        if key not in known:
            comment = None if one.rule.comment == TAG else one.rule.comment
            agree = nft_iptables.agree(ours, one.statements, comment)
            opaque = any(name == "xt" for name, _ in one.statements)
            native = None if opaque else one.rule.spec
            worded = replace(ours, handle=one.rule.handle, native=native)
            known[key] = worded if agree else known[one.rule]
        told.append(known[key])
    return replace(chain, rules=tuple(told))


def _read(
    objects: list[Any], texts: dict[tuple[str, str, int], str], compiled: Compiled
) -> tuple[_Bases, _Rules]:
    bases: _Bases = {}
    rules: _Rules = {}
    if len(objects) > _MOST_RULES:
        raise RecordingError(f"an nft ruleset of more than {_MOST_RULES:,} objects is not read")
    for one in objects:
        match one:
            case {"rule": {"family": str(family), "table": str(table), "chain": str(name)}}:
                key = shown(family), shown(table)
                bases.setdefault(key, {}).setdefault(shown(name), (None, None))
                read = _rule(one["rule"], key, texts, compiled)
                rules.setdefault((key, shown(name)), []).append(read)
            case {"chain": {"family": str(family), "table": str(table), "name": str(name)}}:
                key = shown(family), shown(table)
                bases.setdefault(key, {})[shown(name)] = attached(one["chain"])
            case {"table": {"family": str(family), "name": str(name)}}:
                bases.setdefault((shown(family), shown(name)), {})
    return bases, rules


def _handles(objects: list[Any]) -> dict[TableName, int]:
    found: dict[TableName, int] = {}
    for one in objects:
        match one:
            case {"table": {"family": str(family), "name": str(name), "handle": int(handle)}}:
                found[shown(family), shown(name)] = handle
    return found


def _chain_handles(objects: list[Any]) -> dict[tuple[TableName, str], int]:
    found: dict[tuple[TableName, str], int] = {}
    for one in objects:
        match one:
            case {
                "chain": {
                    "family": str(family),
                    "table": str(table),
                    "name": str(name),
                    "handle": int(handle),
                }
            }:
                found[(shown(family), shown(table)), shown(name)] = handle
    return found


def _chains(
    key: TableName,
    chains: dict[str, tuple[str | None, Base | None]],
    rules: _Rules,
    handles: dict[tuple[TableName, str], int],
    known: dict[Any, Any],
) -> dict[str, Chain]:
    found = {}
    for name, (policy, base) in chains.items():
        read = [_known(one, known) for one in rules.get((key, name), ())]
        whole = Chain(name, policy, tuple(read), base, handles.get((key, name)))
        before = known.get((key, name))
        found[name] = known[key, name] = before if before == whole else whole
    return found


def _known(read: _Read, known: dict[Any, Any]) -> Rule:
    """A rule with its conditions: the one that was read before, if it is equal."""
    found: Rule | None = known.get(read.rule)
    if found is None:
        matches = tuple([one for name, value in read.open for one in nft_matches.read(name, value)])
        found = replace(read.rule, matches=matches) if matches else read.rule
        known[found] = found
    return found


def attached(chain: dict[str, Any]) -> tuple[str | None, Base | None]:
    """Policy and hook; None for a chain that is only jumped to, or of which nobody knows where it is."""
    match chain:
        case {"hook": str(name), "prio": int(priority)} if name in _HOOKS:
            hook = _HOOKS[name]
            type_ = shown(chain.get("type"))
            if type_ == "nat":
                priority = _NAT_PRIORITIES.get(hook, priority)
            family = "netdev" if name in ("ingress", "egress") else shown(chain["family"])
            policy = shown(chain.get("policy", "accept")).upper()
            return policy, Base(family, hook, priority, type_)
    return None, None


def _rule(
    rule: dict[str, Any],
    table: TableName,
    texts: dict[tuple[str, str, int], str],
    compiled: Compiled,
) -> _Read:
    """A rule. One without a handle keeps its place in its chain, and no event is its."""
    handle = rule.get("handle")
    if not (isinstance(handle, int) and 0 <= handle < 2**64):
        handle = None
    printed = rule.get("expr")
    statements = (
        tuple(map(_statement, printed)) if isinstance(printed, list) else ((_UNKNOWN, printed),)
    )
    text = None if handle is None else texts.get((*table, handle))
    if text is None and "expr" not in rule:
        text = ""  # nft could not list it, the kernel told that it is there
    comment = TAG if table[1] == "raw" and _traces(statements) else rule.get("comment")
    target, statement, goto = _target(statements)
    uncertain = [one for one in statements if not _certain(*one, table[0])]
    whole = Rule(
        spec=json.dumps(_said(printed, comment), separators=(",", ":")) if text is None else text,
        target=target,
        target_args=None if statement is None or text is None else _arguments(text, statement),
        goto=goto,
        comment=shown(comment) if isinstance(comment, str) else None,
        conditional=bool(uncertain),
        handle=handle,
        syntax="nft",
        compiled=() if handle is None else compiled.get((*table, handle), ()),
    )
    open_ = (one for one in statements if one in uncertain or one[0] == "notrack")
    return _Read(whole, statements, tuple(open_))


def _said(printed: Any, comment: Any) -> Any:  # noqa: ANN401 - JSON
    """What a rule says, with the comment that somebody gave it, as in nft's text."""
    if isinstance(printed, list) and isinstance(comment, str) and comment != TAG:
        return [*printed, {"comment": comment}]
    return printed


def _traces(statements: tuple[Statement, ...]) -> bool:
    """Whether it looks like a recorder's rule: an interface, a filter and a comment, then TRACE."""
    match statements:
        case [
            *matches,
            ("xt", {"type": "match", "name": "comment"}),
            ("counter", _),
            ("mangle", {"key": {"meta": {"key": "nftrace"}}, "value": 1}),
        ]:
            return all(
                value == {"type": "match", "name": "bpf"} if name == "xt" else name == "match"
                for name, value in matches
            )
    return False


def _statement(printed: Any) -> Statement:  # noqa: ANN401 - JSON
    """Name and value of a statement, which is an object of one key; others are not understood."""
    if isinstance(printed, dict) and len(printed) == 1:
        ((name, value),) = printed.items()
        if name in ("jump", "goto"):
            understood = isinstance(value, dict) and isinstance(value.get("target"), str)
        else:
            understood = value is None or name not in ("accept", "drop", "return")
        if understood:
            return name, value
    if isinstance(printed, str) and (anonymous := _ANONYMOUS.match(printed)):
        return anonymous[1], printed
    return _UNKNOWN, printed


def _certain(name: str, value: Any, family: str) -> bool:  # noqa: ANN401 - JSON
    """Whether a statement lets every packet pass, or ends the chain for every packet.

    One that takes its argument from a map does neither for what the map does not have.
    """
    if name not in _PLAIN or not isinstance(value, dict):
        return name in _PLAIN
    match name, value:
        case "reject", {"type": str(kind)}:
            return kind == _EVERY.get(family)
        case "counter", _:
            return value.keys() <= {"packets", "bytes"}
        case "queue", {"num": dict(number)}:
            return "range" in number
    return True


def _target(statements: tuple[Statement, ...]) -> tuple[str | None, str | None, bool]:
    """What a rule does with the packet, as iptables would call it; the statement; whether it goes away.

    None where that is not known: a statement that is not understood may do anything.
    """
    found: str | None = None
    statement: str | None = None
    for name, value in statements:
        match name, value:
            case "jump" | "goto", {"target": target}:
                return shown(target), None, name == "goto"
            case "jump" | "goto", str():  # to a chain whose name is told by packets alone
                return None, None, name == "goto"
            case "xt", {"type": "target", "name": str(target)}:
                found, statement = shown(target), None
            case "mangle", {"key": {"meta": {"key": "nftrace"}}, "value": 1}:
                found = "TRACE"
            case (("" | "text"), _):  # _UNKNOWN, nft_others.TEXT
                found, statement = None, None
            case _ if name in _VERDICTS:
                return _VERDICTS[name], None, False
            case _ if name in _STATEMENTS:
                found, statement = _STATEMENTS[name], name
    return found, statement, False


def _arguments(text: str, statement: str) -> str | None:
    """What follows a statement, which is the rule's last."""
    words = text.partition(" comment ")[0].split(" ")
    if statement not in words:
        return None
    return " ".join(words[words.index(statement) + 1 :]) or None
