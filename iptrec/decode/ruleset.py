r"""What iptables-save and ip6tables-save print, legacy and nft, read back into rules.

Most of a rule is words between blanks, interface and chain names among them, whatever odd characters
they hold. Free text is printed as such a word too if it is only letters, digits, '-' and '_', else
between double quotes, where '"', '\' and "'" have a '\' before them (libxtables/xtables.c,
xtables_save_string) and blanks and even newlines stand for themselves. So a rule is not a line, and
a "-j" may be a comment or an interface.

One regular expression reads one entry wherever it ends. All its repetitions are possessive: there
is one way to read a text, and hostile text costs no more time.
"""

from __future__ import annotations

import re
from typing import Final

_QUOTED: Final = r'"(?:[^"\\]++|\\.)*+"(?![^ \n])'
_WORD: Final = r'(?!")[^ \n]++'
_NAME: Final = r"[^ \n]++"
# iptables lets no chain start with '-' or '!' (iptables/xshared.c, assert_valid_chain_name): a "-j"
# before "-j ACCEPT" is text.
_TARGET_FLAG: Final = r"-[jg] ++[^ \n!-]"
_COUNTERS: Final = r"\[(\d{1,20}):(\d{1,20})\]"

_ENTRY: Final = re.compile(
    rf"""
      (?: {_COUNTERS}[ ])?+ -A[ ] (?P<chain>{_NAME}) [ ]?+
      (?P<spec>
        (?P<matches>
          (?: (?!{_TARGET_FLAG})
              (?> -[io][ ]++{_NAME}
                | --comment[ ]++ (?P<comment> {_QUOTED} | {_WORD} )
                | {_QUOTED}
                | {_WORD} )
              [ ]*+ )*+ )
        (?: -(?P<flag>[jg]) [ ]++ (?P<target>{_NAME}) [ ]*+
            (?P<args> (?: (?> {_QUOTED} | {_WORD} ) [ ]*+ )*+ ) )?+
      )
    | : (?P<declared>{_NAME}) [ ] (?P<policy>{_NAME}) (?: [ ]{_COUNTERS} )?+ [ ]*+
    | \* (?P<table>{_NAME}) [ ]*+
    | (?P<commit>COMMIT) [ ]*+
    | (?P<ignored> [#][^\n]*+ | [ \t\r]*+ )
    """,
    re.VERBOSE | re.DOTALL,
)
