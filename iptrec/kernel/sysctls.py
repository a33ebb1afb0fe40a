"""Files of /proc that tell how the current network namespace is set, and what it has counted.

A file that is not there is left out; one that cannot be read has {"error": ...} in the place of its text.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from typing import TYPE_CHECKING, Final

from iptrec.errors import strerror

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# The first ones first where there are too many: each interface has a hundred of its own, and these are in the
# snapshot "links", too (IFLA_AF_SPEC).
_SETTINGS: Final = (
    "net/ipv4/*",
    "net/ipv6/*",
    "net/netfilter/*",
    "net/netfilter/nf_log/*",
    "net/bridge/*",
    "net/ipv4/conf/all/*",
    "net/ipv6/conf/all/*",
    "net/ipv4/conf/default/*",
    "net/ipv6/conf/default/*",
    "net/ipv4/vs/*",
    "net/ipv4/conf/*/forwarding",
    "net/ipv4/conf/*/rp_filter",
    "net/ipv4/conf/*/accept_local",
    "net/ipv4/conf/*/route_localnet",
    "net/ipv4/conf/*/src_valid_mark",
    "net/ipv4/conf/*/accept_source_route",
    "net/ipv4/conf/*/proxy_arp",
    "net/ipv4/conf/*/disable_policy",
    "net/ipv4/conf/*/disable_xfrm",
    "net/ipv6/conf/*/forwarding",
    "net/ipv6/conf/*/disable_ipv6",
    "net/ipv6/conf/*/proxy_ndp",
    "net/ipv6/conf/*/mtu",
    "net/ipv6/conf/*/force_forwarding",
    "net/ipv6/conf/*/disable_policy",
)
_GROUPS: Final = ("igmp", "igmp6")
_COUNTERS: Final = (
    "snmp",
    "netstat",
    "snmp6",
    "dev",
    "stat/nf_conntrack",
    "stat/synproxy",
    "xfrm_stat",
)
ROOT: Final = "/proc/sys/"
_NET: Final = "/proc/thread-self/net/"
MOST_FILES: Final = 10_000
_MOST_BYTES: Final = 4 << 20
_PAGES: Final = 1 << 16  # at a time: of megabytes /proc/sys says ENOMEM
_READABLE: Final = 0o444


def settings() -> bytes:
    """The snapshot "sysctls": path below /proc/sys -> text. Of forwarding, netfilter, connection tracking.

    Files that only their owner may read hold secrets (tcp_fastopen_key, stable_secret) and stay out.
    """
    names = (name for pattern in _SETTINGS for name in _below(ROOT, pattern))
    return json.dumps(_read(ROOT, names)).encode()


def counters() -> bytes:
    """The snapshot "counters": path below /proc/net -> text. Of protocols, interfaces, connection tracking."""
    return json.dumps(_read(_NET, _COUNTERS)).encode()


def groups() -> bytes:
    """The snapshot "groups": path below /proc/net -> text. Of multicast, as interfaces have joined them."""
    return json.dumps(_read(_NET, _GROUPS)).encode()


def forwards() -> bool:
    """Whether packets may be forwarded in the current network namespace, by any interface."""
    names = [
        name
        for family in ("ipv4", "ipv6")
        for name in _below(ROOT, f"net/{family}/conf/*/forwarding")
        if "/default/" not in name
    ]
    return any(one != "0" for one in _read(ROOT, names).values())


def hands_over() -> bool:
    """Whether br_netfilter hands frames of bridges in the current network namespace over to IP's chains."""
    names = [f"net/bridge/bridge-nf-call-{one}" for one in ("iptables", "ip6tables")]
    return any(one != "0" for one in _read(ROOT, names).values())


def _below(root: str, pattern: str) -> Iterator[str]:
    """The files below ``root`` that a pattern with one "*" names, in order."""
    directory, _, name = pattern.partition("*")
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir(root + directory)):  # noqa: PTH208 - ten times as fast
            yield directory + entry + name


def _read(root: str, names: Iterable[str]) -> dict[str, str | dict[str, str]]:
    found: dict[str, str | dict[str, str]] = {}
    room = _MOST_BYTES
    for name in names:
        if name in found:
            continue
        if len(found) >= MOST_FILES or room <= 0:
            found[name] = {"error": "cut"}
            break
        try:
            text = _text(root + name, room)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except OSError as error:
            found[name] = {"error": errno.errorcode.get(error.errno or 0, strerror(error))}
            continue
        if text is not None:
            found[name] = text
            room -= len(text)
    return found


def _text(path: str, room: int) -> str | None:
    """What the file says, without the last newline; None for a secret."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_mode & _READABLE != _READABLE:
            return None
        content = b""
        while len(content) < room and (more := os.read(descriptor, _PAGES)):
            content += more
    finally:
        os.close(descriptor)
    return content[:room].decode("utf-8", "backslashreplace").rstrip("\n")
