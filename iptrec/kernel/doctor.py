"""What recording needs of a host, looked at one by one: what is there, what is missing, how to mend it.

Nothing is changed. Asking for an extension of iptables may make the kernel load its module, as recording
would; no table is loaded.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from iptrec.errors import HostError, strerror
from iptrec.kernel import host, netns, privileges
from iptrec.kernel import iptables as xtables
from iptrec.kernel.detect import used
from iptrec.kernel.drops import monitor
from iptrec.kernel.drops.alerts import AlertSource
from iptrec.kernel.drops.source import DropSource
from iptrec.kernel.legacy import digest, logger, nflog
from iptrec.kernel.legacy.replacements import Replacements
from iptrec.kernel.nft import listing, nftrace
from iptrec.kernel.senders.source import SenderSource
from iptrec.kernel.undo import leftovers
from iptrec.libc import libc
from iptrec.names import BACKEND_NAMES, FAMILIES, Family

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.names import Backend

Level = Literal["ok", "note", "warning", "failure"]

_NEEDED: Final[tuple[tuple[Literal["match", "target"], str], ...]] = (
    ("target", "TRACE"), ("match", "bpf"), ("match", "comment"),
)  # fmt: skip
_GOOD_BUFFER: Final = 32 << 20  # bytes: some hundred milliseconds of a flood
_A_HEADER: Final = 64  # bytes
_LITTLE_SPACE: Final = 1 << 30  # bytes
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronized
_TIMEX_BYTES: Final = 208  # struct timex on 64-bit Linux


@dataclass(frozen=True, slots=True)
class Finding:
    """``fact`` is what was seen of ``what``; a "failure" would keep recording from working."""

    level: Level
    what: str
    fact: str
    fix: str = ""


def inspect(directory: Path) -> Iterator[Finding]:
    """Look at the current network namespace, and at the directory for recordings."""
    yield Finding("ok", "kernel", host.kernel())
    yield from _rights()
    try:
        backends = used(FAMILIES)
    except HostError as error:
        yield Finding("failure", "backends", str(error))
        backends = ("legacy",)
    else:
        yield _backends(backends)
    for family in FAMILIES:
        for backend in backends:
            yield from _commands(family, backend)
        if "legacy" in backends:
            yield from _extensions(family)
            yield from _logger(family)
            yield from _rules(family)
    if "legacy" in backends:
        yield from _group()
        yield _replacements()
    if "nft" in backends:
        yield from _traces()
    yield _drops()
    yield _senders()
    yield from _bridges()
    yield from _left_behind()
    yield from _clock()
    yield from _space(directory)


def _rights() -> Iterator[Finding]:
    try:
        privileges.require_net_admin()
    except HostError:
        fix = "run iptrec with sudo, or give it CAP_NET_ADMIN and CAP_NET_RAW"
        yield Finding("failure", "rights", "no CAP_NET_ADMIN", fix)
    else:
        yield Finding("ok", "rights", "CAP_NET_ADMIN")


def _commands(family: Family, backend: Backend) -> Iterator[Finding]:
    what, iptables = f"{family} commands", True
    try:
        if backend == "nft":
            iptables = listing.iptables_speaks((family,))
        else:
            xtables.require(family)
    except HostError as error:
        fact, _, fix = str(error).partition("; ")
        yield Finding("failure", what, fact, fix)
        return
    if iptables:
        yield Finding("ok", what, f"iptables-{backend} is installed")
    else:
        yield Finding(
            "note", what, "nft is installed, iptables-nft is not",
            "filters of protocols, addresses and ports only; on Debian: apt-get install iptables",
        )  # fmt: skip


def _extensions(family: Family) -> Iterator[Finding]:
    try:
        with digest.Tables(family) as tables:
            missing = [name for kind, name in _NEEDED if not tables.knows(kind, name)]
    except HostError as error:
        yield Finding("failure", f"{family} extensions", str(error))
        return
    if missing:
        modules = " ".join(f"xt_{name}" for name in missing)
        yield Finding(
            "failure", f"{family} extensions", f"the kernel has no {', '.join(missing)}",
            f"on the host, run: modprobe -a {modules}",
        )  # fmt: skip
    else:
        yield Finding("ok", f"{family} extensions", "TRACE, bpf, comment")


def _logger(family: Family) -> Iterator[Finding]:
    path = logger.FILES[family]
    name = f"net.netfilter.nf_log.{path.name}"
    try:
        now = path.read_text().strip()
    except OSError as error:
        yield Finding(
            "failure", f"{family} logger", f"{name}: {strerror(error)}", "load nfnetlink_log"
        )
        return
    if now != "nfnetlink_log" and not os.access(path, os.W_OK):
        fix = logger.advice_for_host()
        yield Finding("failure", f"{family} logger", f"{name} is {now} and cannot be written", fix)
    else:
        yield Finding("ok", f"{family} logger", f"{name} is {now}")


def _rules(family: Family) -> Iterator[Finding]:
    """TRACE rules that are not ours: their events are recorded, too."""
    if "raw" not in (digest.loaded(family) or ()):
        return
    try:
        _, text = xtables.save(family, table="raw", counters=False)
    except HostError as error:
        yield Finding("failure", f"{family} raw table", str(error))
        return
    foreign = [
        line.decode("utf-8", "backslashreplace")
        for line in text.splitlines()
        if line.endswith(b"-j TRACE") and b"iptrec:" not in line
    ]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        yield Finding(
            "warning", f"{family} TRACE rules", f"{foreign[0]}{more}",
            "somebody else traces: those packets will be in the recording, too",
        )  # fmt: skip


def _backends(backends: tuple[Backend, ...]) -> Finding:
    """Which of legacy and nf_tables have rules here."""
    if len(backends) > 1:
        fact = "legacy iptables and nf_tables both have rules: packets pass both, and both are recorded"
        return Finding(
            "warning", "backends", fact, "iptables -V says which one your commands change"
        )
    return Finding("ok", "backends", f"{BACKEND_NAMES[backends[0]]} is recorded")


def _traces() -> Iterator[Finding]:
    """Listen to nf_tables' traces for a moment, as recording does."""
    try:
        with nftrace.NftraceSocket() as source:
            room, tap = source.receive_buffer, _tap(source.untapped)
    except HostError as error:
        fact, _, fix = str(error).partition("; ")
        yield Finding("failure", "nf_tables traces", fact, fix)
        return
    yield Finding("ok", "nf_tables traces", "can be listened to")
    yield _room(room)
    yield tap


def _group() -> Iterator[Finding]:
    """Bind nflog group 0 for a moment, as recording does."""
    if (holder := nflog.holder()) is not None:
        yield Finding("failure", "nflog group 0", f"taken by {holder}", "stop that program first")
        return
    try:
        with nflog.NflogSocket(snaplen=64) as source:
            room, conntrack = source.receive_buffer, source.conntrack
            tap = _tap(source.untapped)
    except HostError as error:
        fact, _, fix = str(error).partition("; ")
        yield Finding("failure", "nflog group 0", fact, fix)
        return
    yield Finding("ok", "nflog group 0", "free")
    yield _room(room)
    yield tap
    if not conntrack:
        yield Finding("note", "conntrack ids", "this kernel does not put them into events")


def _replacements() -> Finding:
    """Load and attach the programs that see tables replaced, as recording does."""
    try:
        with Replacements(netns.inode()):
            return Finding("ok", "changes of rules", "the kernel tells when a table is replaced")
    except HostError as error:
        fact, _, fix = str(error).partition("; ")
        more = "packets near a change may be ambiguous"
        return Finding("note", "changes of rules", f"found by looking, {more}: {fact}", fix)


def _room(size: int) -> Finding:
    if size < _GOOD_BUFFER:
        fix = "bursts may be lost: raise the host's net.core.rmem_max, or record as its root"
        return Finding("warning", "receive buffer", f"{size:,} bytes are granted", fix)
    return Finding("ok", "receive buffer", f"{size:,} bytes")


def _tap(untapped: str) -> Finding:
    """Whether the tap works that was just tried."""
    if not untapped:
        return Finding("ok", "tap", "events come with the time at which the kernel sent them")
    fact, _, fix = untapped.partition("; ")
    return Finding("note", "tap", f"events have the time of their receipt: {fact}", fix)


def _drops() -> Finding:
    """Load and attach the program that tells why packets are dropped, as recording does.

    Where that is refused, whether the drop monitor could tell: it is looked for, and not started.
    """
    try:
        with DropSource(netns.inode(), _A_HEADER):
            return Finding(
                "ok", "drop reasons", "the kernel tells why it drops packets behind the rules"
            )
    except HostError as error:
        fact, _, fix = str(error).partition("; ")
    try:
        with monitor.asking() as asking, AlertSource(asking, netns.inode(), _A_HEADER):
            fix = "record --drops yes lets the host's drop monitor tell, which costs more and knows less"
    except HostError as error:
        fix = "; ".join(filter(None, (fix, str(error))))
    return Finding("note", "drop reasons", f"not recorded: {fact}", fix)


def _senders() -> Finding:
    """Load and attach the program that tells which programs send packets, as recording does."""
    try:
        with SenderSource():
            return Finding("ok", "senders", "the kernel tells which programs send packets")
    except HostError as error:
        fact, _, fix = str(error).partition("; ")
        return Finding("note", "senders", f"not recorded: {fact}", fix)


def _bridges() -> Iterator[Finding]:
    """What a bridge passes from port to port meets rules of ip and ip6 only by br_netfilter."""
    from pyroute2 import IPRoute, NetlinkError  # noqa: PLC0415 - takes a tenth of a second

    try:
        with IPRoute() as route:
            bridges = [one.get_attr("IFLA_IFNAME") for one in route.get_links(kind="bridge")]
    except (NetlinkError, OSError) as error:
        fact = strerror(error) if isinstance(error, OSError) else os.strerror(error.code)
        yield Finding("warning", "bridges", f"cannot list interfaces: {fact}")
        return
    for name in ("iptables", "ip6tables") if bridges else ():
        setting = f"net.bridge.bridge-nf-call-{name}"
        path = Path("/proc/sys", *setting.split(".", 2))
        if not path.exists():
            fact, fix = "br_netfilter is not loaded", "modprobe br_netfilter"
        elif host.read(path).strip() == "0":
            fact, fix = f"{setting} is 0", f"sysctl {setting}=1"
        else:
            continue
        yield Finding(
            "note", f"{name} of bridges",
            f"{', '.join(sorted(bridges))}: packets between its ports pass no rules of {name}: {fact}",
            f"if they are to, run: {fix}",
        )  # fmt: skip


def _left_behind() -> Iterator[Finding]:
    try:
        found = leftovers.find(Path("/proc/thread-self/ns/net"))
    except (HostError, OSError):
        return
    for one in found:
        if one.in_use is None:
            waits = one.changes is not None and one.changes.out
            fact = (
                "it took out rules, and did not put them back"
                if waits
                else "its recorder was killed"
            )
            yield Finding("warning", "left behind", f"{one.comment}: {fact}", "run: iptrec cleanup")


def _clock() -> Iterator[Finding]:
    state = libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state == _TIME_ERROR:
        yield Finding("note", "clock", "not synchronized: times are this host's own")
    else:
        yield Finding("ok", "clock", "synchronized")


def _space(directory: Path) -> Iterator[Finding]:
    try:
        free = shutil.disk_usage(directory).free
    except OSError as error:
        yield Finding(
            "failure", "space", f"{directory}: {strerror(error)}", "use another directory"
        )
        return
    level: Level = "warning" if free < _LITTLE_SPACE else "ok"
    fix = "a flood writes some megabytes a second" if level == "warning" else ""
    yield Finding(level, "space", f"{free:,} bytes free in {directory}", fix)
