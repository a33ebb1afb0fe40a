"""All that is kept of a network namespace beside packets and rules: as the kernel says it, whole.

Kind of snapshot (`recording.kinds`) -> content. Nothing is interpreted here: see `decode.snapshots`.
"""

from __future__ import annotations

from typing import Final

from iptrec.kernel import host, ipsets, links, owners, policies, sockets, sysctls

SOURCES: Final = {
    "ipsets": "ipset",
    "sysctls": "/proc/sys",
    "counters": "/proc/net",
    "groups": "/proc/net",
    "sockets": "sock_diag",
    "owners": "/proc",
    "policies": "xfrm",
    "timezone": "gettimeofday",
}  # or rtnetlink


def first() -> dict[str, bytes]:
    """What may be read while tracing is switched on: all but the settings, some of which that changes."""
    found = _lists()
    return {**found, "owners": owners.dump(found["sockets"])}


def last() -> dict[str, bytes]:
    """Once more in the end: what is there both times was, or came and went.

    By then there is no right to ask whose the sockets are.
    """
    return {**_lists(), "sysctls": sysctls.settings()}


def _lists() -> dict[str, bytes]:
    return {
        "sockets": sockets.dumps(),
        **links.dumps(),
        **ipsets.dumps(),
        "policies": policies.dumps(),
        "counters": sysctls.counters(),
        "groups": sysctls.groups(),
        "timezone": host.timezone(),
    }
