r"""What iptables-save and ip6tables-save print, legacy and nft, read back into rules.

A rule is words between blanks; interface and chain names stand there as they are, whatever odd
characters they hold. Free text is a word too if it is only letters, digits, '-' and '_'. Else it
stands between double quotes, where '"', '\' and "'" have a '\' before them and all else, newlines
too, stands for itself (libxtables/xtables.c, xtables_save_string). So a rule may be several lines,
and a "-j" may be a comment or the name of an interface.

One regular expression reads one entry, however far it goes. Its repetitions are possessive: there
is one way to read a text, and a hostile one costs no more time.
"""

from __future__ import annotations

import re
from typing import Final

from iptrec.decode.rule import Chain, Rule, Ruleset
from iptrec.errors import RecordingError

_QUOTED: Final = r'"(?:[^"\\]++|\\.)*+"(?![^ \n])'
_NAME: Final = r"[^ \n]++"  # also tried after _QUOTED: some extensions print odd names as they are
# No chain's name starts with '-' or '!' (iptables/xshared.c, assert_valid_chain_name), and after a
# name or a text comes an option, '!' or the end. So this cannot be a name or text "-j".
_TARGET_FLAG: Final = r"-[jg][ ]++[^ \n!-]"
_COUNTERS: Final = r"\[(\d{1,20}):(\d{1,20})\]"

_RULE: Final = re.compile(
    rf"""
    (?: {_COUNTERS}[ ] )?+ -A[ ]({_NAME})
    (?: [ ]
      (                                                             # the specification
        (                                                           # the matches
          (?: (?! {_TARGET_FLAG} )
              (?> -[io][ ]++ (?! {_TARGET_FLAG} ) {_NAME}
                | --comment[ ]++ (?! {_TARGET_FLAG} ) ( {_QUOTED} | {_NAME} )
                | {_QUOTED}
                | {_NAME}
              ) [ ]*+
          )*+
        )
        (?: -([jg])[ ]++ ({_NAME}) [ ]*+                            # the target
            ( (?: (?> {_QUOTED} | {_NAME} ) [ ]*+ )*+ )             # its options
        )?+
      )
    )?+
    (?= \n | \Z )
    """,
    re.VERBOSE | re.DOTALL,
)
_CHAIN: Final = re.compile(rf":({_NAME}) ({_NAME})(?: {_COUNTERS})?+ *+(?=\n|\Z)")
_TABLE: Final = re.compile(rf"\*({_NAME}) *+(?=\n|\Z)")
_COMMIT: Final = re.compile(r"COMMIT *+(?=\n|\Z)")
_NOTHING: Final = re.compile(r"(?:#[^\n]*+|[ \t\r]*+)(?=\n|\Z)")

_ESCAPED: Final = re.compile(r"""\\(["'\\])""")


def parse(text: bytes) -> Ruleset:
    r"""Read the output of iptables-save, with counters or without.

    Comments and blank lines between the entries do not matter; bytes that are not UTF-8 become
    ``\xNN``. `Rule.conditional` is true for any match at all, ``-m comment`` included, as the
    kernel's own test has it (net/ipv4/netfilter/ip_tables.c, unconditional) but for a goto, which
    the kernel always calls conditional. `Rule.comment` is the last one, if there are several.

    Raises RecordingError with the line number for any other text, also one that ends in the middle.
    """
    return _Reader(text.decode("utf-8", "backslashreplace")).ruleset()


class _Reader:
    """Reads one text from the front to the end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._tables: dict[str, dict[str, Chain]] = {}
        self._table: str | None = None  # the one that is being read
        self._policies: dict[str, str] = {}  # of its chains
        self._rules: dict[str, list[Rule]] = {}

    def ruleset(self) -> Ruleset:
        entries = (
            (_RULE, self._add_rule),
            (_NOTHING, self._add_nothing),
            (_CHAIN, self._add_chain),
            (_TABLE, self._begin),
            (_COMMIT, self._commit),
        )
        while self._at < len(self._text):
            for pattern, add in entries:
                if found := pattern.match(self._text, self._at):
                    add(found)
                    self._at = found.end() + 1
                    break
            else:
                raise self._damaged("iptables-save prints nothing like this")
        if self._table is not None:
            raise self._damaged(f"table {self._table!a} ends without COMMIT")
        return Ruleset(self._tables)

    def _add_rule(self, found: re.Match[str]) -> None:
        packets, size, chain, spec, matches, comment, flag, target, options = found.groups()
        if (rules := self._rules.get(chain)) is None:
            raise self._damaged(f"the table declares no chain {chain!a}")
        rules.append(
            Rule(
                spec=spec or "",
                target=target,
                target_args=(options and options.rstrip(" ")) or None,
                goto=flag == "g",
                comment=comment and _unquoted(comment),
                conditional=bool(matches),
                counters=None if packets is None else (int(packets), int(size)),
            )
        )

    def _add_nothing(self, _: re.Match[str]) -> None:
        pass

    def _add_chain(self, found: re.Match[str]) -> None:
        name, policy = found[1], found[2]
        if self._table is None or name in self._rules:
            raise self._damaged(f"chain {name!a} is declared twice, or outside of a table")
        self._policies[name] = policy
        self._rules[name] = []

    def _begin(self, found: re.Match[str]) -> None:
        name = found[1]
        if self._table is not None or name in self._tables:
            raise self._damaged(f"table {name!a} is there twice, or inside of another")
        self._table = name

    def _commit(self, _: re.Match[str]) -> None:
        if self._table is None:
            raise self._damaged("COMMIT is outside of a table")
        self._tables[self._table] = {
            name: Chain(name, None if policy == "-" else policy, tuple(self._rules[name]))
            for name, policy in self._policies.items()
        }
        self._table, self._policies, self._rules = None, {}, {}

    def _damaged(self, fact: str) -> RecordingError:
        line = self._text.count("\n", 0, self._at) + 1
        return RecordingError(
            f"ruleset, line {line}: {fact}; the recording is damaged, record again"
        )


def _unquoted(word: str) -> str:
    """The text of a word, without the quotes it may stand in."""
    if not word.startswith('"'):
        return word
    return _ESCAPED.sub(r"\1", word[1:-1]) if "\\" in word else word[1:-1]
