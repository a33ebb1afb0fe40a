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
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iptrec.decode.rulesets import nft_iptables
from iptrec.decode.rulesets.types import Base, Chain, Rule, Ruleset
from iptrec.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TableName = tuple[str, str]  # family as nft names it, name

_HOOKS: Final = {
    "ingress": 0, "prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4, "egress": 4,
}  # fmt: skip
# include/uapi/linux/netfilter_ipv4.h: NAT's own hooks are there, whatever a chain of the type nat says
_NAT_PRIORITIES: Final = {0: -100, 1: 100, 3: -100, 4: 100}
_PRIORITIES: Final = {
    "": 0, "raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100,
}  # fmt: skip
_BRIDGE_PRIORITIES: Final = {"": 0, "dstnat": -300, "filter": -200, "out": 100, "srcnat": 300}
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
_TRACE: Final = {"mangle": {"key": {"meta": {"key": "nftrace"}}, "value": 1}}
_UNKNOWN: Final = ""  # in the place of a statement's name: it is none that is understood
_MOST_RULES: Final = 1_000_000
_MOST_TOLD: Final = 200_000  # by the text alone
_LARGEST: Final = 32 << 20  # bytes: as values it takes ten times as much
_TABLE_LINE: Final = re.compile(r"^table (\S+) (.+) \{(?: # handle \d+)?$")
_CHAIN_LINE: Final = re.compile(r"^\tchain (.+) \{(?: # handle \d+)?$")
_HOOK_LINE: Final = re.compile(
    r"^\t\ttype (?P<type>\S+) hook (?P<hook>\S+) (?:.* )?priority (?P<name>[a-z]+|(?=-?\d))"
    r"(?: ?(?P<offset>[+-]? ?\d{1,10}))?;(?: policy (?P<policy>\w+);)?"
)
_RULE_LINE: Final = re.compile(r"^(.+) # handle (\d{1,19})$", re.DOTALL)

_COMMENT: Final = re.compile(r' comment "([^"]*)"$')
# The end of the text of a recorder's rule: before the counter, nft prints nothing for the comment.
_TRACING: Final = re.compile(r"(?:.*[ \t])? counter meta nftrace set 1$", re.DOTALL)

Statement = tuple[str, Any]  # name, value


class _Told(NamedTuple):
    """What nft's text tells: with a handle a rule and its text, else a line about a table or a chain.

    ``chain``: None where it is about the table, or where a rule's handle is in what may be a comment alone.
    ``text``: None where it cannot be told from what is around it.
    """

    table: TableName
    chain: str | None
    handle: int | None
    text: str | None


@dataclass(slots=True)
class Listing:
    """A ruleset; chains have their rules in order.

    ``iptables``: the chains of those tables that iptables knows as well, each rule in its words where they
    say all that nft says. ``whole``: nft's JSON was read, not its text alone.
    """

    chains: dict[TableName, dict[str, Chain]] = field(default_factory=dict)
    iptables: dict[TableName, dict[str, Chain]] = field(default_factory=dict)
    whole: bool = True


@dataclass(frozen=True, slots=True)
class _Read:
    """A rule, and what it is made of."""

    rule: Rule
    statements: tuple[Statement, ...]


_Rules = dict[tuple[TableName, str], list[_Read]]
_Bases = dict[TableName, dict[str, tuple[str | None, Base | None]]]


def parse(
    listing: bytes,
    text: bytes = b"",
    iptables: Mapping[str, Ruleset] | None = None,
    known: dict[Any, Any] | None = None,
) -> Listing:
    """Read what ``nft -j list ruleset`` printed, with the texts of ``nft -a list ruleset``.

    ``iptables``: what ``iptables-nft-save`` printed, by nft's family. ``known``: rules and chains that were
    read before; equal ones become the same objects. Raises `RecordingError` for what is no such listing where
    no text tells the ruleset, either; an object in it that has no name, or is of an unknown kind, is left out.
    """
    if len(listing) > _LARGEST or len(text) > _LARGEST:
        raise RecordingError(f"an nft ruleset of more than {_LARGEST:,} bytes is not read")
    known = {} if known is None else known
    texts, dormant = _texts(text)
    whole = True
    try:
        objects = json.loads(listing)["nftables"]
        if not isinstance(objects, list):
            raise TypeError("nftables is no list")  # noqa: TRY301 - told below
        bases, rules = _read(objects, texts)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        whole, objects = False, list(islice(_objects(text, texts), _MOST_TOLD + 1))
        if len(objects) > _MOST_TOLD:
            raise RecordingError(
                f"an nft ruleset of more than {_MOST_TOLD:,} rules is not read by its text alone"
            ) from None
        if not objects:
            fact = f"{type(error).__name__}: {error}"[:200]
            raise RecordingError(
                f"the recording's nft ruleset is damaged: {fact if fact.isprintable() else ascii(fact)}"
            ) from None
        bases, rules = _read(objects, texts)
    for key in bases.keys() & dormant:
        bases[key] = {name: (policy, None) for name, (policy, _) in bases[key].items()}
    found = Listing(
        {key: _chains(key, chains, rules, known) for key, chains in bases.items()}, whole=whole
    )
    for key, chains in found.chains.items():
        family, table = key
        saved = (iptables or {}).get(family, Ruleset()).tables.get(table, {})
        if saved and all(_alike(saved.get(name), chain) for name, chain in chains.items()):
            found.iptables[key] = {
                name: _told(saved[name], chain, rules.get((key, name), []), known)
                for name, chain in chains.items()
            }
    return found


def _alike(saved: Chain | None, chain: Chain) -> bool:
    return saved is not None and len(saved.rules) == len(chain.rules)


def is_whole(listing: bytes) -> bool:
    """Whether nft printed its JSON to the end; where it cannot go on it says so to nobody."""
    return listing.rstrip().endswith(b"}")


def _told(saved: Chain, chain: Chain, rules: list[_Read], known: dict[Any, Any]) -> Chain:
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
            known[key] = worded if agree else one.rule
        told.append(known[key])
    return replace(chain, rules=tuple(told))


def _read(objects: list[Any], texts: dict[tuple[str, str, int], str]) -> tuple[_Bases, _Rules]:
    bases: _Bases = {}
    rules: _Rules = {}
    if len(objects) > _MOST_RULES:
        raise RecordingError(f"an nft ruleset of more than {_MOST_RULES:,} objects is not read")
    for one in objects:
        match one:
            case {"rule": {"family": str(family), "table": str(table), "chain": str(name)}}:
                key = _shown(family), _shown(table)
                bases.setdefault(key, {}).setdefault(_shown(name), (None, None))
                read = _rule(one["rule"], key, texts)
                rules.setdefault((key, _shown(name)), []).append(read)
            case {"chain": {"family": str(family), "table": str(table), "name": str(name)}}:
                key = _shown(family), _shown(table)
                bases.setdefault(key, {})[_shown(name)] = _base(one["chain"])
            case {"table": {"family": str(family), "name": str(name)}}:
                bases.setdefault((_shown(family), _shown(name)), {})
    return bases, rules


def _chains(
    key: TableName,
    chains: dict[str, tuple[str | None, Base | None]],
    rules: _Rules,
    known: dict[Any, Any],
) -> dict[str, Chain]:
    found = {}
    for name, (policy, base) in chains.items():
        read = [known.setdefault(one.rule, one.rule) for one in rules.get((key, name), ())]
        whole = Chain(name, policy, tuple(read), base)
        before = known.get((key, name))
        found[name] = known[key, name] = before if before == whole else whole
    return found


def _base(chain: dict[str, Any]) -> tuple[str | None, Base | None]:
    """Policy and hook; None for a chain that is only jumped to, or of which nobody knows where it is."""
    match chain:
        case {"hook": str(name), "prio": int(priority)} if name in _HOOKS:
            hook = _HOOKS[name]
            type_ = _shown(chain.get("type"))
            if type_ == "nat":
                priority = _NAT_PRIORITIES.get(hook, priority)
            family = "netdev" if name in ("ingress", "egress") else _shown(chain["family"])
            policy = _shown(chain.get("policy", "accept")).upper()
            return policy, Base(family, hook, priority, type_)
    return None, None


def _rule(rule: dict[str, Any], table: TableName, texts: dict[tuple[str, str, int], str]) -> _Read:
    """A rule. One without a handle keeps its place in its chain, and no event is its."""
    handle = rule.get("handle")
    if not (isinstance(handle, int) and 0 <= handle < 2**64):
        handle = None
    printed = rule.get("expr")
    statements = (
        tuple(map(_statement, printed)) if isinstance(printed, list) else ((_UNKNOWN, printed),)
    )
    text = None if handle is None else texts.get((*table, handle))
    comment = TAG if table[1] == "raw" and _traces(statements) else rule.get("comment")
    target, statement, goto = _target(statements)
    whole = Rule(
        spec=json.dumps(printed, separators=(",", ":")) if text is None else text,
        target=target,
        target_args=None if statement is None or text is None else _arguments(text, statement),
        goto=goto,
        comment=_shown(comment) if isinstance(comment, str) else None,
        conditional=not all(_certain(*one, table[0]) for one in statements),
        handle=handle,
    )
    return _Read(whole, statements)


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
                return _shown(target), None, name == "goto"
            case "xt", {"type": "target", "name": str(target)}:
                found, statement = _shown(target), None
            case "mangle", {"key": {"meta": {"key": "nftrace"}}, "value": 1}:
                found = "TRACE"
            case "", _:  # _UNKNOWN
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


def _texts(text: bytes) -> tuple[dict[tuple[str, str, int], str], set[TableName]]:
    """The rules' texts by family, table and handle, and the tables whose chains are attached nowhere.

    A comment may hold line feeds and quotes, and so look like rules: what stands there twice is not known.
    """
    found: dict[tuple[str, str, int], str | None] = {}
    dormant: set[TableName] = set()
    for one in _lines(text):
        if one.handle is not None:
            key = (*one.table, one.handle)
            found[key] = None if key in found or one.text is None else one.text.strip()
        elif one.chain is None and "dormant" in re.split(r"[\s,;]+", one.text or ""):
            dormant.add(one.table)
    return {key: spec for key, spec in found.items() if spec is not None}, dormant


def _objects(text: bytes, texts: Mapping[tuple[str, str, int], str]) -> Iterator[dict[str, Any]]:
    """The ruleset as nft's JSON would tell it, as far as the text does."""
    for (family, table), chain, handle, line in _lines(text):
        here = {"family": family, "table": table}
        if chain is None and handle is None:
            yield {"table": {"family": family, "name": table}}
        elif chain is not None and handle is None:
            hook = _HOOK_LINE.match(line or "")
            base = _attached(family, hook) if hook else {}
            yield {"chain": {**here, "name": chain, **base}}
        elif chain is not None and handle is not None:
            spec = texts.get((family, table, handle), "")
            rule = {"handle": handle, "expr": _expr(line or "", spec)}
            comment = _COMMENT.search(spec)
            rule |= {"comment": comment[1]} if comment else {}
            yield {"rule": {**here, "chain": chain, **rule}}


def _expr(line: str, spec: str) -> list[Any]:
    """A rule's statements by its text: one that is not understood, and what no event of a trace tells."""
    if _TRACING.match(line):
        return [{"xt": {"type": "match", "name": "comment"}}, {"counter": None}, _TRACE]
    plain = _COMMENT.sub("", spec)
    if plain.endswith("meta nftrace set 1"):
        return [spec, _TRACE]
    _, last, how = f" {plain}".rpartition(" reject")
    rejects = last and (not how or how.startswith(" with ")) and not set('"{}') & set(how)
    return [spec, {"reject": None}] if rejects else [spec]


def _attached(family: str, line: re.Match[str]) -> dict[str, Any]:
    """Where a base chain is, by the line that says so."""
    names = _BRIDGE_PRIORITIES if family == "bridge" else _PRIORITIES
    offset = int((line["offset"] or "0").replace(" ", ""))
    priority = names[line["name"]] + offset if line["name"] in names else None
    policy = {} if line["policy"] is None else {"policy": line["policy"]}
    return {"type": line["type"], "hook": line["hook"], "prio": priority, **policy}


def _lines(text: bytes) -> Iterator[_Told]:
    """What each line tells, in order."""
    table: TableName | None = None
    chain: str | None = None
    begun: list[str] = []
    quoted = hookless = False
    for line in text.decode("utf-8", "backslashreplace").split("\n"):
        if table is not None and chain is not None and (begun or line.startswith("\t\t")):
            begun.append(line)
            quoted ^= line.count('"') % 2 == 1
            last = _RULE_LINE.match(line)
            if quoted or _is_inside(begun[0], line):
                if last:
                    yield _Told(table, None, int(last[2]), None)
                continue
            if last and (whole := _RULE_LINE.match(_joined(begun))):
                sound = not any(map(_RULE_LINE.match, begun[:-1]))
                yield _Told(table, chain, int(last[2]), whole[1] if sound else None)
            elif hookless and _HOOK_LINE.match(line):
                yield _Told(table, chain, None, line)
                hookless = False
            begun = []
        elif found := _TABLE_LINE.match(line):
            table, chain = (found[1], found[2]), None
            yield _Told(table, None, None, None)
        elif table is not None:
            found = _CHAIN_LINE.match(line)
            chain = found[1] if found else None
            hookless = found is not None
            if found or line.startswith("\tflags "):
                yield _Told(table, chain, None, line)


def _joined(begun: list[str]) -> str:
    """The lines of a rule as one, with an anonymous chain as nft reads it: jump { counter; return; }."""
    if not begun[0].endswith("{"):
        return "\n".join(begun)
    inner = "".join(f" {line.strip()};" for line in begun[1:-1])
    return f"{begun[0]}{inner} {begun[-1].strip()}"


def _is_inside(first: str, line: str) -> bool:
    """Whether a line is in the anonymous chain that a rule's first line begins."""
    return first.endswith("{") and not line.startswith("\t\t}")


def _shown(value: Any) -> str:  # noqa: ANN401 - JSON
    """A name as text that can be written anywhere; "" for what is none."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
