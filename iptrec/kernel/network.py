"""All that is kept of a network namespace beside packets and rules: as the kernel says it, whole.

Kind of snapshot (`recording.kinds`) -> content. Nothing is interpreted here: see `decode.snapshots`.
"""

from __future__ import annotations

from typing import Final

from iptrec.kernel import ipsets, links, sockets, sysctls

SOURCES: Final = {
    "ipsets": "ipset",
    "sysctls": "/proc/sys",
    "counters": "/proc/net",
    "groups": "/proc/net",
    "sockets": "sock_diag",
}  # or rtnetlink


def first() -> dict[str, bytes]:
    """What may be read while tracing is switched on: all but the settings, some of which that changes."""
    return {
        "sockets": sockets.dumps(),
        **links.dumps(),
        **ipsets.dumps(),
        "counters": sysctls.counters(),
        "groups": sysctls.groups(),
    }


def last() -> dict[str, bytes]:
    """All of it, once more in the end: what is there both times was, or came and went."""
    return {**first(), "sysctls": sysctls.settings()}
