"""Which of legacy iptables and nf_tables has rules here: what `--backend auto` records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.errors import HostError
from iptrec.kernel import iptables
from iptrec.kernel.legacy import digest
from iptrec.kernel.nft.transactions import tables_there

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.names import Backend, Family


def used(families: Iterable[Family]) -> tuple[Backend, ...]:
    """Those that have rules in the current namespace; if none has, one that is installed."""
    nft = tables_there()
    legacy = False
    for family in families:
        tables = digest.loaded(family)
        if tables is None:  # nobody tells: what is not nf_tables' is thought to be legacy
            legacy = legacy or not nft
        elif tables:
            text = iptables.save(family)[1]
            legacy = legacy or b"] -A " in text or b" DROP [" in text
    if nft or legacy:
        return (*(("legacy",) if legacy else ()), *(("nft",) if nft else ()))
    try:
        for family in families:
            iptables.require(family)
    except HostError:
        return ("nft",)
    return ("legacy",)
