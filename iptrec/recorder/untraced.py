"""Tells the user which base chains of nf_tables packets may pass untraced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.kernel.nft import bases

if TYPE_CHECKING:
    from iptrec.recorder.options import Report


def note_untraced(report: Report, priority: int) -> None:
    """Note those that are passed before tracing begins at this priority, and those that IP does not see."""
    if early := bases.passed_before(priority):
        report.note(
            f"{_listed(early)} may be passed before tracing begins: packets that are dropped there"
            " are not seen"
        )
    if beside := bases.passed_beside():
        report.note(f"{_listed(beside)}: frames that do not come through IP pass there untraced")


def _listed(chains: list[bases.Base]) -> str:
    return ", ".join(one.shown for one in chains)
