"""Which logger TRACE goes to: net.netfilter.nf_log.2 (IPv4) and .10 (IPv6), one a namespace."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from iptrec.errors import HostError, strerror
from iptrec.kernel import host

if TYPE_CHECKING:
    from collections.abc import Callable

_LOGGER: Final = "nfnetlink_log"
FILES: Final = {
    "ipv4": Path("/proc/sys/net/netfilter/nf_log/2"),
    "ipv6": Path("/proc/sys/net/netfilter/nf_log/10"),
}


@dataclass(slots=True)
class Switched:
    """A logger that is nfnetlink_log now; ``before`` is what somebody else set last."""

    family: str
    before: str

    def keep(self, expect: Callable[[str], None]) -> bool:
        """Switch again where somebody has set another logger meanwhile; whether that was so.

        ``expect`` is called with it, before.
        """
        path = FILES[self.family]
        now = host.read(path).strip()
        if now == _LOGGER:
            return False
        expect(now)
        self.before = now
        path.write_text(_LOGGER)
        return True

    def undo(self) -> None:
        """Put the other logger back, unless somebody has set yet another one meanwhile."""
        path = FILES[self.family]
        if self.before != _LOGGER and path.read_text().strip() == _LOGGER:
            path.write_text(self.before)


def advice_for_host() -> str:
    """How to switch what cannot be switched here, all families at once; PID is one that the host knows."""
    names = []
    for path in FILES.values():
        with contextlib.suppress(OSError):
            if host.read(path).strip() != _LOGGER:
                names.append(f"net.netfilter.nf_log.{path.name}={_LOGGER}")
    return (
        f"on the host, run: nsenter --net --target PID sysctl -w {' '.join(names)} (PID: of any process in"
        " this container, as the host numbers it); or start the container with"
        " --security-opt systempaths=unconfined (podman: unmask=/proc/sys)"
    )


def switch(
    family: Literal["ipv4", "ipv6"], *, modprobe: bool, expect: Callable[[str], None]
) -> Switched:
    """Let TRACE of the current namespace go to nfnetlink_log.

    ``expect`` is called with the logger that was set, before another one is.
    Raises `HostError` with what to set on the host: /proc/sys is read-only in most containers.
    """
    path = FILES[family]
    try:
        before = path.read_text().strip()
        if before == _LOGGER:
            return Switched(family, before)
        expect(before)
        try:
            path.write_text(_LOGGER)
        except OSError as error:
            if error.errno != errno.ENOENT or not modprobe or not host.modprobe(_LOGGER):
                raise
            path.write_text(_LOGGER)
    except OSError as error:
        missing = error.errno == errno.ENOENT
        advice = f"on the host, run: modprobe {_LOGGER}" if missing else advice_for_host()
        raise HostError(f"cannot write {path}: {strerror(error)}; {advice}") from None
    return Switched(family, before)
