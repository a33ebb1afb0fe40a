"""Which backends there are, and which of them a recording uses: a new one is one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.kernel.detect import used

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.recorder.backend import Setting, TraceBackend


def _legacy(setting: Setting) -> TraceBackend:
    from iptrec.recorder.legacy import LegacyBackend  # noqa: PLC0415 - see BACKENDS

    return LegacyBackend(setting)


def _nft(setting: Setting) -> TraceBackend:
    from iptrec.recorder.nft import NftBackend  # noqa: PLC0415 - see BACKENDS

    return NftBackend(setting)


# Each loads what it needs when it is made: a recorder has one of them, as a rule.
BACKENDS: Final[dict[str, Callable[[Setting], TraceBackend]]] = {"legacy": _legacy, "nft": _nft}
_BOTH: Final = ("legacy", "nft")


def chosen(setting: Setting) -> list[TraceBackend]:
    """Those that are recorded: what they need is there. Raises `IptrecError` where it is not."""
    wanted = setting.options.backend
    names: tuple[str, ...] = _BOTH if wanted == "both" else (wanted,)
    if wanted == "auto":
        names = used(setting.options.bytecodes)
        if len(names) > 1:
            setting.report.note(
                "legacy iptables and nf_tables both have rules here: both are recorded"
            )
    return [BACKENDS[name](setting) for name in names]
