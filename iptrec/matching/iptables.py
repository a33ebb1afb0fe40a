"""Whether a rule's matches fit a packet: yes, no and why not, or it cannot be known.

A rule is read as iptables reads it: an option belongs to the match module that was loaded last and has it.
What the kernel remembers (connection tracking, limits, sets, random numbers) cannot be known afterwards, and
is said to be so.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iptrec.decode import packet
from iptrec.decode.rulesets.iptables_save import WORD
from iptrec.matching.facts import Clause, Judgement, protocol_number
from iptrec.matching.field import AbsentError
from iptrec.matching.iptables_options import ALL, CORE, MODULES, Option
from iptrec.matching.rewrites import ANYTHING, is_written
from iptrec.names import AF_INET6

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from iptrec.decode.rulesets.types import Rule
    from iptrec.matching.bits import Bits
    from iptrec.matching.facts import Facts

_OF_PROTOCOLS: Final = {
    1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "icmp6", 132: "sctp", 136: "udplite",
}  # fmt: skip
_NO_CONDITIONS: Final = frozenset(["comment", *_OF_PROTOCOLS.values()])  # without an option
_OF_LAST: Final = "--rt-0-not-strict"  # changes the option before it alone
# They change what the other options of their module ask for.
_MODIFIERS: Final = frozenset(
    [
        "--return-nomatch",
        "--limit-iface-in",
        "--limit-iface-out",
        "--algo",
        "--from",
        "--to",
        "--icase",
        "--soft",
        _OF_LAST,
    ]
)


_STATE: Final = "--ctstate"
_IPV4: Final = 4
_TOS: Final = ("ip dscp", "ip ecn", "ip6 dscp", "ip6 ecn")
_OF_IPV6: Final = ("src", "dst", "length", "hop_limit", "tos", "flow_label", "ext")
_OF_TRANSPORTS: Final = {6: ("sport", "dport", "flags"), 58: ("type", "code", "name")}
# The keys of nft of what is in a header as `decode.packet` reads it.
_KEYS: Final = {
    "src": ("ip saddr", "ip6 saddr"), "dst": ("ip daddr", "ip6 daddr"), "proto": ("ip protocol", "ip6 nexthdr"),
    "length": ("ip length", "ip6 length"), "ttl": ("ip ttl",), "hop_limit": ("ip6 hoplimit",), "id": ("ip id",),
    "tos": _TOS, "flow_label": ("ip6 flowlabel",), "frag": ("ip frag-off",), "mf": ("ip frag-off",),
    "sport": ("th sport",), "dport": ("th dport",), "flags": ("tcp flags",), "type": ("icmp type",),
    "code": ("icmp code",), "name": ("icmp type", "icmp code"),
}  # fmt: skip


class _Condition(NamedTuple):
    """``told``: for a reader. ``option``: what judges it; None where nothing can."""

    told: Clause
    negated: bool
    value: str
    option: Option | None


@dataclass(slots=True)
class Match:
    """A module that a rule has loaded. ``options``: what can be judged; None of a module that is not known."""

    name: str
    options: Mapping[str, Option] | None
    conditions: list[_Condition] = field(default_factory=list)

    def claims(self, word: str) -> bool:
        """Whether an option is its own, as far as is known."""
        return self.options is None or word in self.options or ALL in self.options

    def add(self, word: str, value: str, *, negated: bool) -> None:
        """Take an option as a condition."""
        told = Clause(f"{'! ' if negated else ''}{word}", value, self.name)
        together = (self.options or {}).get(ALL)
        if together is not None and self.conditions:
            self.modify(f"{'! ' if negated else ''}{word}", value)
            return
        if together is not None:
            self.conditions.append(_Condition(told, negated, told.words, together))
            return
        self.conditions.append(_Condition(told, negated, value, (self.options or {}).get(word)))

    def modify(self, word: str, value: str = "") -> None:
        """Let an option change the conditions so far."""
        more = f"{word} {value}".rstrip()
        first = -1 if word == _OF_LAST else 0
        self.conditions[first:] = [
            one._replace(
                told=one.told._replace(value=f"{one.told.value} {more}".lstrip()),
                value=f"{one.value} {more}".lstrip(),
            )
            for one in self.conditions[first:]
        ]


def judge(rule: Rule, facts: Facts) -> Judgement:
    """Evaluate a rule of iptables' syntax."""
    unknown: list[_Condition] = []
    facts = _without_written(facts)
    for condition in _conditions(rule):
        try:
            fits = _tested(condition, facts)
        except AbsentError as instead:  # whatever is negated
            return Judgement(False, condition.told, f"it is {instead}")
        if fits is None and _never(condition, facts):
            return Judgement(False, condition.told, _instead(condition, facts))
        if fits is None:
            unknown.append(condition)
        elif fits == condition.negated:
            return Judgement(False, condition.told, _instead(condition, facts))
    return _left_open(unknown[0], facts, only=len(unknown) == 1) if unknown else Judgement(True)


def _left_open(condition: _Condition, facts: Facts, *, only: bool) -> Judgement:
    """What can be said of a condition of which it is not known whether it holds; ``only``: of no other."""
    option = condition.option
    hint = None if option is None else option.hint(condition.value, facts)
    likely = None if option is None else option.likely(condition.value, facts)
    fails = only and likely is not None and likely == condition.negated
    return Judgement(None, condition.told, hint or "", fails)


def _without_written(facts: Facts) -> Facts:
    """What of the facts is still true."""
    # Of what follows extension headers the beginning alone is there.
    if facts.bits.joined and facts.header.get("ext"):
        known = {one: facts.header.get(one) for one in _OF_IPV6}
        facts = replace(facts, header=known | _behind(facts.bits))
    if not facts.written:
        return facts
    other = "ip6 " if facts.bits.version == _IPV4 else "ip "
    kept = {
        name: value
        for name, value in facts.header.items()
        if not any(
            is_written(key, facts.written)
            for key in _KEYS.get(name, ())
            if not key.startswith(other)
        )
    }
    return replace(
        facts,
        header={} if ANYTHING in facts.written else kept,
        ct_state=0 if is_written("ct state", facts.written) else facts.ct_state,
    )


def _behind(bits: Bits) -> dict[str, Any]:
    """What a transport header tells, as of each protocol: whose options ask for the protocol as well."""
    found: dict[str, Any] = {}
    for protocol, names in _OF_TRANSPORTS.items():
        whole = bits.captured[:6] + bytes([protocol]) + bits.captured[7:] + bits.behind
        told = packet.header(whole, AF_INET6)
        found |= {name: told[name] for name in names if name in told}
    return found


def holds(condition: _Condition, facts: Facts) -> bool | None:
    """Whether a condition holds, its negation looked at."""
    try:
        fits = _tested(condition, facts)
    except AbsentError:
        return False
    return None if fits is None else fits != condition.negated


def _never(condition: _Condition, facts: Facts) -> bool:
    """Whether a condition cannot hold."""
    option = condition.option
    return option is not None and option.never(condition.value, facts, condition.negated)


def _tested(condition: _Condition, facts: Facts) -> bool | None:
    try:
        return None if condition.option is None else condition.option.test(condition.value, facts)
    except (
        ValueError,
        OverflowError,
        LookupError,
    ):  # a number that is none, in a ruleset of a stranger
        return None


def _instead(condition: _Condition, facts: Facts) -> str:
    """What the packet has in the place of what the condition wants."""
    own = None if condition.option is None else condition.option.own(facts)
    return "" if own is None else f"it is {own}"


def _conditions(rule: Rule) -> Iterator[_Condition]:
    """A match without options, such as ``-m socket``, is a condition under its name."""
    for match in each_match(rule):
        if match.conditions or match.options is CORE or match.name in _NO_CONDITIONS:
            yield from _with_state(match.conditions)
        else:
            option = (match.options or {}).get("")
            told = Clause(f"-m {match.name}", module=match.name)
            yield _Condition(told, negated=False, value="", option=option)


def _with_state(conditions: list[_Condition]) -> list[_Condition]:
    """Those of a match: beside ``--ctstate`` nothing else is asked of a packet without a connection."""
    if not any(one.told.words.lstrip("! ").startswith(_STATE) for one in conditions):
        return conditions
    return [one._replace(option=one.option and Option(*one.option[:-1])) for one in conditions]


def each_match(rule: Rule) -> list[Match]:
    """What a rule loads, in order: iptables itself, then a module for each ``-m NAME``."""
    matches = [Match("", CORE)]
    for word, value, negated in _options(rule.spec):
        if word == "-m":
            matches.append(Match(value, MODULES.get(value)))
        elif word in _MODIFIERS:
            matches[-1].modify(word, value)
        elif not word.startswith("--"):
            matches[0].add(word, value, negated=negated)
        elif word != "--comment":
            _owner(matches, word).add(word, value, negated=negated)
    return matches


def _owner(matches: list[Match], word: str) -> Match:
    """The match that an option belongs to (xtables_merge_options of iptables' libxtables/xtables.c).

    The module of the rule's protocol is loaded where no other has the option.
    """
    for match in reversed(matches):
        if match.claims(word):
            return match
    protocol = next((one.value for one in matches[0].conditions if one.told.asks == "-p"), "")
    name = _OF_PROTOCOLS.get(protocol_number(protocol) or 0, "")
    if word in MODULES.get(name, {}):
        matches.append(Match(name, MODULES[name]))
    return matches[-1]


def _options(spec: str) -> Iterator[tuple[str, str, bool]]:
    """(option, value, negated) of each option before the target."""
    words = WORD.findall(spec)
    negated, at = False, 0
    while at < len(words) and words[at] not in ("-j", "-g"):
        word = words[at]
        at += 1
        if word == "!":
            negated = True
            continue
        first = at
        while at < len(words) and not words[at].startswith("-") and words[at] != "!":
            at += 1
        yield word, " ".join(words[first:at]), negated
        negated = False
