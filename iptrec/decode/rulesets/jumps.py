"""The names of chains in the text of rules that jump to them."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iptrec.decode.rulesets.types import Rule, Syntax

# In quotes are comments and names of interfaces; within those of JSON each quote is behind a backslash.
_JUMPS: Final[dict[Syntax, re.Pattern[str]]] = {
    "iptables": re.compile(r'"(?:\\.|[^"\\])*"|(?<!\S)(?P<how>-[jg] )(?P<chain>\S+)'),
    "nft": re.compile(r'"[^"]*"|(?<!\S)(?P<how>(?:jump|goto) )(?P<chain>[^\s,}]+)'),
}
_JSON_JUMPS: Final = re.compile(r'(?P<how>"(?:jump|goto)":\s*\{"target":\s*")(?P<chain>[^"\\]+)')


def chains(rule: Rule) -> set[str]:
    """The names that follow a jump or goto in its text."""
    return {
        found["chain"]
        for found in _jumps(rule.spec, rule.syntax).finditer(rule.spec)
        if found["chain"]
    }


def in_new_names(rule: Rule, names: Mapping[str, str]) -> Rule:
    """A rule with the new names of chains; ``names``: by the old ones."""
    if not names:
        return rule
    native = None if rule.native is None else _renamed(rule.native, "nft", names)
    target = None if rule.target is None else names.get(rule.target, rule.target)
    return replace(rule, spec=_renamed(rule.spec, rule.syntax, names), native=native, target=target)


def text_in_new_names(text: str, names: Mapping[str, str]) -> str:
    """The same of what nft prints of an element of a verdict map."""
    return _renamed(text, "nft", names) if names else text


def _jumps(text: str, syntax: Syntax) -> re.Pattern[str]:
    """What finds them; ``nft -j`` prints a list of statements."""
    return _JSON_JUMPS if syntax == "nft" and text.startswith(("[", "{")) else _JUMPS[syntax]


def _renamed(text: str, syntax: Syntax, names: Mapping[str, str]) -> str:
    return _jumps(text, syntax).sub(
        lambda found: (
            f"{found['how']}{names[found['chain']]}" if found["chain"] in names else found[0]
        ),
        text,
    )
