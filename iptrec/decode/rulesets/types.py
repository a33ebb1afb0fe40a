"""The rules of one family at one moment, as values. `iptables_save` and `nft_json` make them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iptrec.decode.rulesets.nft_matches import Condition, Match

Syntax = Literal["iptables", "nft"]
TableName = tuple[str, str]  # family as nft names it, name

OF_IPTABLES: Final = frozenset({"raw", "mangle", "nat", "filter", "security"})  # its tables


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as iptables-save or, where it is not one of iptables, nft prints it: ``syntax`` says whose.

    ``spec`` is the text after ``-A CHAIN `` exactly as printed. ``target`` is the word after ``-j``
    or ``-g`` (None for a rule without target), ``target_args`` the options after it (None if none),
    ``comment`` the unquoted text of ``--comment``, ``conditional`` whether it has any match at all.
    """

    spec: str
    target: str | None
    target_args: str | None
    goto: bool
    comment: str | None
    conditional: bool
    counters: tuple[int, int] | None = None  # packets, bytes
    handle: int | None = None  # nf_tables' own name for it, unique in its table
    native: str | None = None  # nft's text of a rule in iptables' words, where it tells all of it
    syntax: Syntax = "iptables"
    # Of nft's syntax: conditions that the kernel's rule has, whether nft prints them or not.
    compiled: tuple[Match, ...] = ()
    # Of nft's syntax: what must hold for the rule to match, and what it changes, in order.
    matches: tuple[Condition, ...] = field(default=(), compare=False)

    @property
    def listed(self) -> bool:
        """Whether its text is known; nft has no rule without any."""
        return self.syntax != "nft" or self.spec != ""


@dataclass(frozen=True, slots=True)
class Base:
    """Where a base chain of nf_tables is attached: enum nf_inet_hooks, and which of several is first.

    ``family``: the packets that pass it, as nft names them; ``type``: "filter", "nat" or "route". ``devices``:
    at ingress and egress those whose packets it sees; empty where nobody knows.
    """

    family: str
    hook: int
    priority: int
    type: str
    devices: frozenset[str] = field(default=frozenset(), compare=False)


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain; ``policy`` is None for a user's chain, "ACCEPT" or "DROP" for a built-in one.

    ``base``: of nf_tables' base chains. ``handle``: nf_tables' own name for it, unique in its table, which
    stays when the chain is renamed.
    """

    name: str
    policy: str | None
    rules: tuple[Rule, ...]
    base: Base | None = None
    handle: int | None = None


# Numbers that the kernel gives to no rule, of 19 digits as its own have at most: of one that is known by its
# text alone, and of those one whose text its chain has several times.
UNTOLD: Final = 1 << 63
SEVERAL: Final = UNTOLD + (1 << 59)


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All tables that were loaded: table name -> chain name -> chain.

    ``unlisted``: texts of rules of nf_tables whose place is not known, by family, table and handle.
    """

    tables: dict[str, dict[str, Chain]] = field(default_factory=dict)
    unlisted: Mapping[tuple[str, str, int], str] = field(default_factory=dict)
