"""What readers call a table.

Where a recording holds the rules of both backends, each table of iptables is there twice: its name is told with
the backend's, "legacy filter" and "nft filter". Else it is "filter". Other tables of nf_tables are called by
family and name, "inet fw".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, get_args

from iptrec.decode.rulesets.types import OF_IPTABLES
from iptrec.names import OF_NFT, Backend

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.decode.rulesets.types import TableName
    from iptrec.names import Family

_OF_BOTH: Final = frozenset({"inet", "bridge", "netdev", "arp"})
_OF_A_RECORDER: Final = re.compile(r"(?:ip6?|inet|bridge) iptrec-[0-9a-f-]{36}")
BACKENDS: Final[tuple[Backend, ...]] = get_args(Backend)


def called(backend: Backend, table: str, *, single: bool) -> str:
    """A table of iptables; ``single``: no other backend's rules were recorded."""
    return table if single else f"{backend} {table}"


def table_name(table: TableName, *, single: bool) -> str:
    """A table of nf_tables; it depends on no rule of it."""
    if table[0] in OF_NFT and table[1] in OF_IPTABLES:
        return called("nft", table[1], single=single)
    return " ".join(table)


def plain(name: str) -> str:
    """The same without the backend."""
    backend, _, table = name.partition(" ")
    return table if backend in BACKENDS and table in OF_IPTABLES else name


def backend_of(name: str) -> str:
    """Whose a table is in a recording of both."""
    return name.partition(" ")[0] if plain(name) != name else "nft"


def tell_backends(names: Iterable[str]) -> bool:
    """Whether these are the tables of a recording of both."""
    return any(plain(one) != one for one in names)


def is_of_a_recorder(name: str) -> bool:
    """Whether it is called as those tables of nf_tables are that recorders make."""
    return _OF_A_RECORDER.fullmatch(name) is not None


def family_of(table: str, family: Family) -> str:
    """Whose a table is: the packets' family, or its own where packets of both pass it ("inet fw")."""
    own, _, name = table.partition(" ")
    return own if name and own in _OF_BOTH else family
