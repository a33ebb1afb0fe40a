r"""What iptables-save printed, as values.

The grammar is that of iptables-save(8): ``*table``, ``:chain policy [packets:bytes]``,
``[packets:bytes] -A chain spec``, ``COMMIT``; arguments with blanks are quoted with ``"``, in which
``"`` and ``\\`` are escaped with ``\\`` (xtables_save_string).
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Final

from iptrec.decode.rulesets.types import Chain, Rule, Ruleset
from iptrec.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Words of a rule, of which a quoted one may hold anything; a name may hold blanks that are not ASCII's.
WORD: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\S+', re.DOTALL | re.ASCII)
_UNQUOTED: Final = re.compile(r"\S+", re.ASCII)
_QUOTED: Final = re.compile(r'(?<= )"(?:[^"\\]|\\.)*"(?= |$)')
_ONE_QUOTED: Final = re.compile(r'[^"]* "[^"\\]*"(?: [^"]*)?')  # what most comments are
_CLOSES: Final = re.compile(r'(?<!\\)(?:\\\\)*"(?= |$)')
_TEXT_FOLLOWS: Final = ("--comment", "-i", "-o")
_JUMPS: Final = ("-j", "-g")
_ESCAPED: Final = re.compile(r"\\(.)")
_COUNTERS: Final = re.compile(r"\[(\d{1,20}):(\d{1,20})\] ?")
# Bytes of a line, as text: to the kernel a rule is at most 64 KB (next_offset is a __u16).
_LONGEST: Final = 1 << 19
_MOST_RULES: Final = 1_000_000  # and chains of one ruleset
_MOST_BYTES: Final = 200 << 20  # of all rules and chains of a family, about (sys.getsizeof)
_RULE_BYTES, _CHAIN_BYTES, _ENTRY_BYTES = 400, 300, 64  # beside a rule's text


class Known:
    """The rules of lines that were read before: rulesets which differ little are read quickly and share them.

    Raises `RecordingError` when they are too many to be kept: whoever wrote the file chose their number.
    """

    def __init__(self) -> None:
        self._rules: dict[str, tuple[str, Rule]] = {}
        self._chains: dict[tuple[str, str], Chain] = {}
        self._room = _MOST_BYTES

    def rule(self, line: str, number: int) -> tuple[str, Rule]:
        """The chain and the rule of a line."""
        if line not in self._rules:
            self._rules[line] = _rule(line, number)
            self._take(_RULE_BYTES + 2 * len(line))
        return self._rules[line]

    def chain(self, table: str, name: str, policy: str | None, rules: list[Rule]) -> Chain:
        """A chain; the one that was there before if it has not changed."""
        chain = Chain(name, policy, tuple(rules))
        before = self._chains.get((table, name))
        if before == chain:
            self._take(_ENTRY_BYTES)
            return before
        self._take(_CHAIN_BYTES + _ENTRY_BYTES * len(rules))
        self._chains[table, name] = chain
        return chain

    def _take(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise RecordingError(
                f"the rulesets take more than {_MOST_BYTES >> 20} MB of memory: this iptrec reads no more"
            )


def parse(text: bytes, known: Known | None = None) -> Ruleset:
    """Read the output of ``iptables-save`` or ``ip6tables-save``, with or without counters.

    ``known`` is added to. Raises `RecordingError` with the number of the line that cannot be read, or for
    what is too much.
    """
    known = known or Known()
    tables: dict[str, dict[str, Chain]] = {}
    policies: dict[str, str | None] = {}
    rules: dict[str, list[Rule]] = {}
    table: str | None = None
    number = count = 0
    for number, line in lines(text):
        match line[:1]:
            case "" | "#" | "\r":
                continue
            case "*":
                table, policies, rules = line[1:].strip(), {}, {}
            case ":" if table is not None:
                chain, policy = _declaration(line, number)
                policies[chain] = policy
                rules[chain] = []
                count += 1
            case "-" | "[" if table is not None:
                chain, rule = known.rule(line, number)
                if chain not in rules:
                    raise _unreadable(number, f"chain {chain} is not declared in table {table}")
                count += 1
                rules[chain].append(rule)
            case "C" if table is not None and line.strip() == "COMMIT":
                tables[table] = {
                    name: known.chain(table, name, policy, rules[name])
                    for name, policy in policies.items()
                }
                table = None
            case _:
                raise _unreadable(number, f"{line[:60]!r} is not a line of iptables-save")
        if count > _MOST_RULES:
            raise _unreadable(number, f"more than {_MOST_RULES:,} chains and rules")
    if table is not None:
        raise _unreadable(number, f"table {table} has no COMMIT")
    return Ruleset(tables)


def lines(text: bytes, errors: str = "backslashreplace") -> Iterator[tuple[int, str]]:
    """The lines with their numbers, without the line feeds at their ends; a quoted comment may hold some.

    ``errors``: what becomes of bytes that are not UTF-8, see `bytes.decode`. Raises `RecordingError` for a
    quote that is not closed, and for a line that is too long.
    """
    begun: list[str] = []
    first = size = 0
    for number, raw in enumerate(io.BytesIO(text), 1):  # line by line: a copy of all could be large
        size = size + len(raw) if begun else len(raw)
        if size > _LONGEST:
            raise _unreadable(first if begun else number, f"longer than {_LONGEST:,} bytes")
        line = raw.decode("utf-8", errors).rstrip("\n")
        if not begun and ('"' not in line or _ONE_QUOTED.fullmatch(line)):
            yield number, line
            continue
        first = first if begun else number
        comment = not begun and line.startswith("#")
        unfinished = not comment and _leaves_open(line, inside=bool(begun))
        begun.append(line)
        if not unfinished:
            yield first, "\n".join(begun)
            begun = []
    if begun:
        raise _unreadable(first, "a quote is not closed")


def _leaves_open(line: str, *, inside: bool) -> bool:
    """Whether a quote is open at the line's end. A quote in a name opens nothing."""
    if inside:
        closing = _CLOSES.search(line)
        if closing is None:
            return True
        line = line[closing.end() :]
    return ' "' in _QUOTED.sub("", line)


def _declaration(line: str, number: int) -> tuple[str, str | None]:
    words = _UNQUOTED.findall(line[1:])
    if len(words) < 2:  # noqa: PLR2004 - name and policy
        raise _unreadable(number, f"{line[:60]!r} declares no chain")
    return words[0], None if words[1] == "-" else words[1]


def _rule(line: str, number: int) -> tuple[str, Rule]:
    counters = None
    if line[0] == "[":
        found = _COUNTERS.match(line)
        if not found:
            raise _unreadable(number, f"{line[:60]!r} has no counters that can be read")
        counters = (int(found[1]), int(found[2]))
        line = line[found.end() :]
    if not line.startswith("-A "):
        raise _unreadable(number, f"{line[:60]!r} is not a rule")
    chain, _, spec = line[3:].rstrip("\r").partition(" ")
    return chain, _read_spec(spec, counters)


def _read_spec(spec: str, counters: tuple[int, int] | None) -> Rule:
    """Find target, arguments and comment; quoted words are never mistaken for options."""
    words = (WORD if '"' in spec else _UNQUOTED).findall(spec)
    at = _jump(words)
    comment = None
    if "--comment" in words[:at]:
        position = words.index("--comment") + 1
        comment = _unquoted(words[position]) if position < len(words) else None
    if at is None or at + 1 >= len(words):
        return Rule(spec, None, None, False, comment, bool(words), counters)
    return Rule(
        spec=spec,
        target=words[at + 1],
        target_args=" ".join(words[at + 2 :]) or None,
        goto=words[at] == "-g",
        comment=comment,
        conditional=at > 0,
        counters=counters,
    )


def _jump(words: list[str]) -> int | None:
    """Where -j or -g stands; a word of letters and '-' needs no quotes, not even as a comment."""
    before = ""
    for at, word in enumerate(words):
        if word in _JUMPS and before not in _TEXT_FOLLOWS:
            return at
        before = word
    return None


def _unquoted(word: str) -> str:
    if "\\" not in word:
        return word[1:-1] if word[:1] == '"' else word
    return _ESCAPED.sub(r"\1", word[1:-1]) if word[:1] == '"' else word


def _unreadable(number: int, fact: str) -> RecordingError:
    plain = fact if fact.isprintable() else ascii(fact)[1:-1]
    return RecordingError(f"ruleset line {number}: {plain[:200]}")
