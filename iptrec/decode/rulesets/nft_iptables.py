"""Whether a rule's text in iptables-nft-save says all that nft's JSON says of the same rule.

``iptables-nft-save`` reads the kernel's rule back, and leaves out without a word what it does not know: lookups
in sets, header fields, other comparisons than its own. So each condition and the target of the JSON are put
into the words that iptables prints for them, and these must be those that it printed, no more and no fewer. A
match or target of x_tables, which nft does not look into, counts by its name.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from iptrec.decode.rulesets.iptables_save import WORD

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from iptrec.decode.rulesets.types import Rule

# Matches that iptables-nft makes without x_tables: each of their options is a condition of its own.
_NATIVE: Final = frozenset({"tcp", "udp", "mark", "limit"})
_REAL: Final = {
    "state": "conntrack",
    "NOTRACK": "CT",
}  # what iptables prints -> the name in the kernel
_VERDICTS: Final = {"accept": "ACCEPT", "drop": "DROP", "return": "RETURN"}
_SIGNS: Final = {"==": "", "!=": "! "}
_ADDRESSES: Final = {"saddr": "-s", "daddr": "-d"}
_WHOLE: Final = {"ip": 32, "ip6": 128}
_PORTS: Final = {"sport": "--sport", "dport": "--dport"}
_HIGHEST_PORT: Final = 65535
_INTERFACES: Final = {"iifname": "-i", "oifname": "-o"}
_UNITS: Final = {"second": "sec", "minute": "min", "hour": "hour", "day": "day"}
_BURST: Final = 5  # iptables' default, which it does not print
_FLAGS: Final = ("fin", "syn", "rst", "psh", "ack", "urg")  # in iptables' order
_FIELDS: Final = {"-s": "saddr", "-d": "daddr", "-i": "iifname", "-o": "oifname"}
_OFFSET: Final = 0x1FFF  # of ip frag-off


def agree(rule: Rule, statements: Sequence[tuple[str, Any]], comment: str | None) -> bool:
    """Whether ``rule``, as iptables printed it, is the rule of these statements of nft (name, value).

    ``comment``: nft's own of the rule.
    """
    try:
        matches, target = _parts(statements)
        conditions = Counter(word for match in matches for word in _condition(*match))
    except (LookupError, TypeError, ValueError):
        return False
    conditions["-m comment"] += comment is not None
    opaque = {word[3:] for word, count in conditions.items() if word.startswith("-m ") and count}
    printed = Counter(_printed(rule.spec, opaque))
    # A port is one of a protocol: iptables prints it, nft need not.
    implied = Counter({f"-p {protocol}" for protocol in map(_protocol, matches) if protocol})
    return (
        _target(target) == (_REAL.get(rule.target or "", rule.target), rule.goto)
        and conditions <= printed <= conditions + implied
    )


def statements(rule: Rule, chains: Collection[str]) -> list[dict[str, Any]]:
    """What nft's JSON has of a rule that iptables printed, so that both `agree`.

    Each match of ``-m`` is taken for one of x_tables. ``chains``: of its table. Raises LookupError, TypeError
    or ValueError for what has no such words.
    """
    opaque = set(re.findall(r"(?<!\S)-m (\S+)", rule.spec))
    matches = [
        _stated(words) for words in _printed(rule.spec, {_REAL.get(one, one) for one in opaque})
    ]
    return [*matches, {"counter": {"packets": 0, "bytes": 0}}, *_stated_target(rule, chains)]


def _stated(words: str) -> dict[str, Any]:
    """A condition in the words of `_printed` as nft's JSON has it."""
    negated = words.startswith("! ")
    option, _, value = words.removeprefix("! ").partition(" ")
    if option == "-m":
        return {"xt": {"type": "match", "name": value}}
    op, right = "!=" if negated else "==", value
    left: dict[str, Any]
    match option:
        case "-s" | "-d":
            address, _, mask = value.partition("/")
            field = {"protocol": "ip6" if ":" in address else "ip", "field": _FIELDS[option]}
            left, right_ = {"payload": field}, {"prefix": {"addr": address, "len": int(mask)}}
            return {"match": {"op": op, "left": left, "right": right_}}
        case "-i" | "-o":
            left = {"meta": {"key": _FIELDS[option]}}
            right = f"{value[:-1]}*" if value.endswith("+") else value
        case "-p":
            left = {"meta": {"key": "l4proto"}}
        case _:
            raise ValueError(words)
    return {"match": {"op": op, "left": left, "right": right}}


def _stated_target(rule: Rule, chains: Collection[str]) -> Iterator[dict[str, Any]]:
    target = rule.target
    verdicts = {name: verdict for verdict, name in _VERDICTS.items()}
    if target is None:
        return
    if target in chains:
        yield {"goto" if rule.goto else "jump": {"target": target}}
    elif target in verdicts:
        yield {verdicts[target]: None}
    elif target == "TRACE":
        yield {"mangle": {"key": {"meta": {"key": "nftrace"}}, "value": 1}}
    else:
        yield {"xt": {"type": "target", "name": _REAL.get(target, target)}}


def _parts(statements: Sequence[tuple[str, Any]]) -> tuple[list[tuple[str, Any]], Any]:
    """The matches, and the target after them: between both iptables puts the rule's counter."""
    names = [name for name, _ in statements]
    at = names.index("counter")
    after = statements[at + 1 :]
    if len(after) > 1 or isinstance(
        statements[at][1], str
    ):  # a counter with a name is another thing
        raise ValueError(names)
    return [*statements[:at]], after[0] if after else None


def _target(statement: Any) -> tuple[str | None, bool] | None:  # noqa: ANN401 - JSON
    """Target, and whether it is gone to; None for what iptables does not make."""
    match statement:
        case None:
            return None, False
        case ("jump" | "goto" as name, {"target": str(chain)}):
            return chain, name == "goto"
        case ("xt", {"type": "target", "name": str(target)}):
            return target, False
        case ("log", {"group": _}):
            return "NFLOG", False
        case ("mangle", {"key": {"meta": {"key": "nftrace"}}, "value": 1}):
            return "TRACE", False
        case (name, None) if name in _VERDICTS:
            return _VERDICTS[name], False
    return None


def _protocol(match: tuple[str, Any]) -> str | None:
    """The protocol that a condition looks into."""
    left = match[1].get("left", {})
    protocol = left.get("&", [left])[0].get("payload", {}).get("protocol")
    return protocol if isinstance(protocol, str) else None


def _condition(name: str, value: Any) -> list[str]:  # noqa: ANN401 - JSON
    """What iptables prints for a match. Raises LookupError, TypeError or ValueError where it has no words."""
    match name, value:
        case "xt", {"type": "match", "name": str(match)}:
            return [f"-m {match}"]
        case "limit", {"rate": int(rate), "per": str(unit), **rest} if rest.keys() <= {"burst"}:
            burst = rest.get("burst", _BURST)
            return [
                f"--limit {rate}/{_UNITS[unit]}",
                *([] if burst == _BURST else [f"--limit-burst {burst}"]),
            ]
        case "match", {"op": str(op), "left": {"&": [field, mask]}, "right": right}:
            return [_masked(op, field, mask, right)]
        case "match", {"op": str(op), "left": field, "right": right}:
            return [_compared(op, field, right)]
    raise ValueError(name)


def _compared(op: str, field: Any, right: Any) -> str:  # noqa: ANN401 - JSON
    """A field that is compared as a whole."""
    match field:
        case {"payload": {"protocol": "tcp" | "udp", "field": "sport" | "dport" as name}}:
            return _port(op, _PORTS[name], right)
        case {"payload": {"protocol": "tcp", "field": "flags"}} if op == "!":
            return f"--tcp-flags {_flags(right)} NONE"
    sign = _SIGNS[op]
    match field, right:
        case {"payload": {"protocol": "ip" | "ip6", "field": "saddr" | "daddr" as name}}, {
            "prefix": {"addr": str(address), "len": int(length)}
        }:
            return f"{sign}{_ADDRESSES[name]} {address}/{length}"
        case {
            "payload": {"protocol": "ip" | "ip6" as family, "field": "saddr" | "daddr" as name}
        }, str():
            return f"{sign}{_ADDRESSES[name]} {right}/{_WHOLE[family]}"
        case {"meta": {"key": "iifname" | "oifname" as name}}, str():
            wildcard = f"{right[:-1]}+" if right.endswith("*") else right
            return f"{sign}{_INTERFACES[name]} {wildcard}"
        case (
            ({"meta": {"key": "l4proto"}} | {"payload": {"protocol": "ip", "field": "protocol"}}),
            (str() | int()),
        ):
            return f"{sign}-p {right}"
        case {"meta": {"key": "mark"}}, int():
            return f"{sign}--mark {right:#x}"
    raise ValueError(op)


def _masked(op: str, field: Any, mask: Any, right: Any) -> str:  # noqa: ANN401 - JSON
    """A field of which some bits are compared."""
    sign = _SIGNS[op]
    match field:
        case {"payload": {"protocol": "ip" | "ip6", "field": "saddr" | "daddr" as name}}:
            return f"{sign}{_ADDRESSES[name]} {right}/{mask}"
        case {"payload": {"protocol": "ip", "field": "frag-off"}} if (mask, right) == (_OFFSET, 0):
            return "-f" if sign else "! -f"
        case {"payload": {"protocol": "tcp", "field": "flags"}}:
            return f"{sign}--tcp-flags {_flags(mask)} {_flags(right)}"
        case {"meta": {"key": "mark"}}:
            return f"{sign}--mark {right:#x}/{mask:#x}"
    raise ValueError(op)


def _port(op: str, option: str, right: Any) -> str:  # noqa: ANN401 - JSON
    match op, right:
        case "==" | "!=", {"range": [int(low), int(high)]}:
            return f"{_SIGNS[op]}{option} {low}:{high}"
        case "==" | "!=", int():
            return f"{_SIGNS[op]}{option} {right}"
        case "<=", int():
            return f"{option} 0:{right}"
        case ">=", int():
            return f"{option} {right}:{_HIGHEST_PORT}"
        case "<", int():
            return f"{option} 0:{right - 1}"
        case ">", int():
            return f"{option} {right + 1}:{_HIGHEST_PORT}"
    raise ValueError(op)


def _flags(value: Any) -> str:  # noqa: ANN401 - JSON
    if value in (0, []):
        return "NONE"
    names = [value] if isinstance(value, str) else value
    return ",".join(name.upper() for name in sorted(names, key=_FLAGS.index))


def _printed(spec: str, opaque: Collection[str]) -> Iterator[str]:
    """The conditions of a rule as iptables-save printed them: options with their values.

    Of a match that nft does not look into (``opaque``, and all that iptables-nft makes with x_tables) the name
    alone.
    """
    options: list[list[str]] = []
    negated = False
    for word in WORD.findall(spec):
        if word == "!":
            negated = True
        elif word.startswith("-") or not options:
            options.append(["!", word] if negated else [word])
            negated = False
        else:
            options[-1].append(word)
    skipping = False
    for option in options:
        if option[0] in ("-j", "-g"):
            return
        if option[0] == "-m":
            name = _REAL.get(option[-1], option[-1])
            skipping = name in opaque or name not in _NATIVE
            if skipping:
                yield f"-m {name}"
        elif not skipping:
            yield " ".join(option)
