"""Rules of nf_tables of which an imported text told the words, but not which ones of their chains they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.decode.rulesets import nft_text

if TYPE_CHECKING:
    from collections.abc import Iterable

KIND: Final = "nft-pasted"


def texts(snapshots: Iterable[bytes]) -> dict[tuple[str, str, int], str]:
    """Them by family, table, and handle or the number in its place."""
    return {key: spec for one in snapshots for key, spec in nft_text.texts(one)[0].items()}
