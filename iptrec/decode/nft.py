"""What nft printed of its ruleset, as values: tables, chains with their hooks, rules with their handles.

``nft -j`` tells what is there (man 5 libnftables-json), ``nft -a`` how a reader knows it, and
``iptables-nft-save`` what iptables calls those tables that are its own: there the n-th rule of a chain is
the n-th rule of nft's.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from iptrec.decode.rule import Base, Chain, Rule, Ruleset
from iptrec.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TableName = tuple[str, str]  # family as nft names it, name

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
_MOST_RULES: Final = 1_000_000
_LARGEST: Final = 32 << 20  # bytes: as values it takes ten times as much
_TABLE_LINE: Final = re.compile(r"^table (\S+) (\S+) \{")
_CHAIN_LINE: Final = re.compile(r"^\tchain (\S+) \{")
_RULE_LINE: Final = re.compile(r"^\t\t(.+) # handle (\d{1,19})$")


@dataclass(slots=True)
class Listing:
    """A ruleset; ``rules`` of a table are by their handles, ``chains`` have them in order.

    ``iptables``: the rulesets of ``iptables-nft-save``, by nft's family.
    """

    chains: dict[TableName, dict[str, Chain]] = field(default_factory=dict)
    iptables: dict[str, Ruleset] = field(default_factory=dict)

    def of_iptables(self, table: TableName) -> dict[str, Chain] | None:
        """A table's chains with their rules as iptables prints them; None if it does not know them."""
        family, name = table
        saved = self.iptables.get(family, Ruleset()).tables.get(name)
        if saved is None:
            return None
        found = {}
        for chain in self.chains[table].values():
            known = saved.get(chain.name)
            if known is None or len(known.rules) != len(chain.rules):
                return None
            found[chain.name] = replace(
                chain,
                rules=tuple(
                    replace(rule, handle=one.handle)
                    for rule, one in zip(known.rules, chain.rules, strict=True)
                ),
            )
        return found


def parse(
    listing: bytes,
    text: bytes = b"",
    iptables: Mapping[str, Ruleset] | None = None,
    known: dict[Any, Any] | None = None,
) -> Listing:
    """Read what ``nft -j list ruleset`` printed, with the texts of ``nft -a list ruleset``.

    ``known``: rules and chains that were read before; equal ones become the same objects.
    Raises `RecordingError` for what is no such listing.
    """
    if len(listing) > _LARGEST or len(text) > _LARGEST:
        raise RecordingError(f"an nft ruleset of more than {_LARGEST:,} bytes is not read")
    known = {} if known is None else known
    try:
        objects = json.loads(listing)["nftables"]
        if not isinstance(objects, list):
            raise TypeError("nftables is no list")  # noqa: TRY301 - told below
        return _read(objects, _texts(text), dict(iptables or {}), known)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        fact = f"{type(error).__name__}: {error}"[:200]
        raise RecordingError(
            f"the recording's nft ruleset is damaged: {fact if fact.isprintable() else ascii(fact)}"
        ) from None


def _read(
    objects: list[dict[str, Any]],
    texts: dict[tuple[str, str, int], str],
    iptables: dict[str, Ruleset],
    known: dict[Any, Any],
) -> Listing:
    bases: dict[TableName, dict[str, tuple[str | None, Base | None]]] = {}
    rules: dict[tuple[TableName, str], list[Rule]] = {}
    for count, one in enumerate(objects):
        if count > _MOST_RULES:
            raise RecordingError(f"an nft ruleset of more than {_MOST_RULES:,} objects is not read")
        if (table := one.get("table")) is not None:
            bases.setdefault((_name(table["family"]), _name(table["name"])), {})
        elif (chain := one.get("chain")) is not None:
            key = _name(chain["family"]), _name(chain["table"])
            bases.setdefault(key, {})[_name(chain["name"])] = _base(chain)
        elif (rule := one.get("rule")) is not None:
            key = _name(rule["family"]), _name(rule["table"])
            handle = _number(rule["handle"])
            spec = texts.get((*key, handle))
            read = _rule(rule, handle, spec)
            read = known.setdefault(read, read)
            rules.setdefault((key, _name(rule["chain"])), []).append(read)
    found: dict[TableName, dict[str, Chain]] = {}
    for key, chains in bases.items():
        found[key] = {}
        for name, (policy, base) in chains.items():
            whole = Chain(name, policy, tuple(rules.get((key, name), ())), base)
            before = known.get((key, name))
            found[key][name] = known[key, name] = before if before == whole else whole
    return Listing(found, iptables)


def _base(chain: dict[str, Any]) -> tuple[str | None, Base | None]:
    """Policy and hook; None for a chain that is only jumped to."""
    if "hook" not in chain:
        return None, None
    hook = _HOOKS[chain["hook"]]
    type_ = _name(chain["type"])
    priority = _number(chain["prio"])
    if type_ == "nat":
        priority = _NAT_PRIORITIES.get(hook, priority)
    family = "netdev" if chain["hook"] in ("ingress", "egress") else _name(chain["family"])
    return _name(chain.get("policy", "accept")).upper(), Base(family, hook, priority, type_)


def _rule(rule: dict[str, Any], handle: int, text: str | None) -> Rule:
    statements = [(name, value) for one in rule.get("expr", ()) for name, value in one.items()]
    comment = rule.get("comment")
    target, statement, goto = _target(statements)
    arguments = None if statement is None or text is None else _arguments(text, statement)
    if text is None:
        text = json.dumps(rule.get("expr", ()), separators=(",", ":"))
    return Rule(
        spec=text,
        target=target,
        target_args=arguments,
        goto=goto,
        comment=None if comment is None else _name(comment),
        conditional=any(name not in _PLAIN for name, _ in statements),
        handle=handle,
    )


def _target(statements: list[tuple[str, Any]]) -> tuple[str | None, str | None, bool]:
    """What a rule does with the packet, as iptables would call it; the statement; whether it goes away."""
    found: str | None = None
    statement: str | None = None
    for name, value in statements:
        if name in ("jump", "goto"):
            return _name(value["target"]), None, name == "goto"
        if name in _VERDICTS:
            return _VERDICTS[name], None, False
        if name in _STATEMENTS:
            found, statement = _STATEMENTS[name], name
        elif name == "mangle" and value.get("key") == {"meta": {"key": "nftrace"}}:
            found = "TRACE"
    return found, statement, False


def _arguments(text: str, statement: str) -> str | None:
    """What follows a statement, which is the rule's last."""
    words = text.partition(" comment ")[0].split(" ")
    if statement not in words:
        return None
    return " ".join(words[words.index(statement) + 1 :]) or None


def _texts(text: bytes) -> dict[tuple[str, str, int], str]:
    """The rules' texts by family, table and handle."""
    return {(*table, handle): spec for table, handle, spec in _lines(text)}


def _lines(text: bytes) -> Iterator[tuple[TableName, int, str]]:
    table: TableName | None = None
    in_chain = False
    for line in text.decode("utf-8", "backslashreplace").split("\n"):
        if found := _TABLE_LINE.match(line):
            table, in_chain = (found[1], found[2]), False
        elif _CHAIN_LINE.match(line):
            in_chain = True
        elif line == "\t}":
            in_chain = False
        elif table is not None and in_chain and (found := _RULE_LINE.match(line)):
            yield table, int(found[2]), found[1].strip()


def _name(value: Any) -> str:  # noqa: ANN401 - JSON
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:60]!r} is no name")
    return value


def _number(value: Any) -> int:  # noqa: ANN401 - JSON
    if not isinstance(value, int) or not -(2**63) <= value < 2**64:
        raise TypeError(f"{str(value)[:60]!r} is no number")
    return value
