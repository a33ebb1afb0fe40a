"""The base chains of nf_tables after each commit: those that there were, and what the kernel told since.

Who asks for them now and then does not see a chain that was away for a moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.kernel.netlink import netfilter_attributes
from iptrec.kernel.nft import bases, transactions
from iptrec.names import NFT_FAMILIES

if TYPE_CHECKING:
    from iptrec.kernel.netlink import Message
    from iptrec.kernel.nft.bases import Base

_FAMILIES: Final = {number: name for name, number in NFT_FAMILIES.items()}
_OF_TABLES: Final = (transactions.NEW_TABLE, transactions.DELETE_TABLE)
_OF_CHAINS: Final = (transactions.NEW_CHAIN, transactions.DELETE_CHAIN)

_Table = tuple[str, str]  # its family and name


class Attached:
    """Knows them by their tables and handles: a chain may get another name."""

    def __init__(self) -> None:
        self._chains: dict[tuple[_Table, int], Base] = {}
        self._dormant: set[_Table] = set()

    def begin(self) -> None:
        """Ask for all of them. Raises `HostError`."""
        self._dormant = {(one.family, one.name) for one in bases.tables() if one.dormant}
        self._chains = {
            ((one.family, one.table), handle): one for handle, one in bases.with_handles()
        }

    def take(self, message: Message) -> None:
        """A message that the kernel told of changes."""
        kind = message.kind - transactions.SUBSYSTEM
        if kind not in (*_OF_TABLES, *_OF_CHAINS) or message.body[0] not in _FAMILIES:
            return
        family, found = _FAMILIES[message.body[0]], netfilter_attributes(message)
        if kind in _OF_TABLES:
            self._table(bases.table(family, found), gone=kind == transactions.DELETE_TABLE)
            return
        handle, chain = bases.handle(found), bases.read(family, found)
        if kind == transactions.DELETE_CHAIN and chain is None:  # else it has lost a device
            self._chains.pop(((family, bases.holder(found)), handle), None)
        elif kind == transactions.NEW_CHAIN and chain is not None:
            self._chains[(family, chain.table), handle] = chain

    def _table(self, table: bases.Table, *, gone: bool) -> None:
        name = table.family, table.name
        if table.dormant and not gone:
            self._dormant.add(name)
        else:
            self._dormant.discard(name)
        if gone:
            self._chains = {key: one for key, one in self._chains.items() if key[0] != name}

    @property
    def there(self) -> list[Base]:
        """Those that packets meet."""
        return [one for (table, _), one in self._chains.items() if table not in self._dormant]
