"""What snapshots hold, as plain values: one place for every kind, and for what is wrong with one.

A snapshot's ``media`` says how it is written. "netlink" is what the kernel answered to a request for a list,
its messages back to back, the one that ends it included; "json" of the same kind is what format 1 of the file
had.
Recordings come from strangers: whatever is in a snapshot, the answer is values or a `RecordingError`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import struct
from typing import TYPE_CHECKING, Any, Final

from iptrec.decode import policies, sockets
from iptrec.decode.attributes import headers
from iptrec.decode.ipsets import IpSet
from iptrec.decode.ipsets import ipsets as sets_of
from iptrec.decode.rtnetlink import LAYOUTS, rows
from iptrec.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address

NETLINK: Final = "netlink"
WHOLE: Final = "whole"
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_DUMP_INTR: Final = 0x10  # NLM_F_DUMP_INTR
_CODE: Final = struct.Struct(
    "<i"
)  # struct nlmsgerr, or that of NLMSG_DONE: 0, or an errno, negative
# Linux's (asm-generic/errno.h), wherever the recording is read.
_ERRORS: Final = {
    1: "EPERM", 2: "ENOENT", 12: "ENOMEM", 13: "EACCES", 22: "EINVAL", 93: "EPROTONOSUPPORT",
    95: "EOPNOTSUPP", 97: "EAFNOSUPPORT", 105: "ENOBUFS",
}  # fmt: skip
_NEEDED: Final = {"links": "name", "addresses": "address"}
_MINUTES: Final = 24 * 60
_MOST_ROWS: Final = 100_000  # that are shown as JSON


def state(content: bytes, media: str) -> str:
    """How the answer ended: "whole", "cut", "changed" while it was read, or why it was refused: "EPERM".

    Other snapshots than lists of the kernel's are whole.
    """
    if media != NETLINK:
        return WHOLE
    changed = False
    for kind, flags, start, end in headers(content):
        changed |= bool(flags & _DUMP_INTR)
        if kind in (_NLMSG_ERROR, _NLMSG_DONE):
            code = _CODE.unpack_from(content, start)[0] if end - start >= _CODE.size else 0
            if code:
                return _ERRORS.get(-code, f"errno {-code}")
            return "changed" if changed else WHOLE
    return "cut"


def links(content: bytes, media: str) -> list[tuple[int, str]]:
    """Index and name of each interface."""
    with _undamaged("interfaces"):
        return [(int(one["index"]), _text(one["name"])) for one in _rows("links", content, media)]


def described_links(content: bytes, media: str) -> list[dict[str, Any]]:
    """All that is known of each interface."""
    with _undamaged("interfaces"):
        return [dict(one) for one in _rows("links", content, media)]


def addresses(content: bytes, media: str) -> list[tuple[int, IP]]:
    """Interface's index and address, of each address of the host's own."""
    with _undamaged("addresses"):
        return [
            (int(one["index"]), ipaddress.ip_address(one["address"]))
            for one in _rows("addresses", content, media)
            if one["address"] is not None
        ]


def counters(content: bytes) -> dict[str, str]:
    """What was counted: path below /proc/net -> text, of those that could be read."""
    with _undamaged("counters"):
        return {
            str(name): text for name, text in json.loads(content).items() if isinstance(text, str)
        }


def minutes_west(content: bytes) -> int | None:
    """How far west of UTC the kernel's timezone was, less than a day; None where it did not tell."""
    with _undamaged("timezones"):
        told = json.loads(content)["kernel_minutes_west"]
        return told if isinstance(told, int) and abs(told) < _MINUTES else None


def owners(content: bytes) -> tuple[list[tuple[tuple[int, str, str], list[int]]], dict[int, str]]:
    """Processes (pid, comm, /proc/PID/cgroup) with the inodes of their sockets; control groups' paths."""
    with _undamaged("owners"):
        told = json.loads(content)
        processes = [
            (
                (int(one["pid"]), _text(one["comm"]), _text(one["cgroup"])),
                [int(inode) for inode in one["sockets"]],
            )
            for one in told["processes"]
        ]
        return processes, {int(one): _text(path) for one, path in told["cgroups"].items()}


def routing(kind: str, content: bytes) -> list[dict[str, Any]]:
    """The rows of a list of routes or of routing rules, as the kernel told them."""
    with _undamaged(kind):
        return [row for row in rows(LAYOUTS[kind], content) if "family" in row]


def ipsets(content: bytes, media: str) -> dict[str, IpSet]:
    """The sets by their names; those of which members are missing say so."""
    with _undamaged("ipsets"):
        if media != NETLINK:
            return {name: _of_format_1(name, one) for name, one in json.loads(content).items()}
        found = sets_of(content)
        if state(content, media) != WHOLE:  # the one that was cut, and whether another follows
            found = found[:-1]
        return {one.name: one for one in found}


def shown(kind: str, content: bytes, media: str) -> str:
    """A snapshot as text: what was printed, or the values of a list of the kernel's as JSON."""
    if media != NETLINK:
        return content.decode("utf-8", "backslashreplace")
    with _undamaged(kind):
        return json.dumps(list(itertools.islice(_rows(kind, content, media), _MOST_ROWS)))


def _rows(kind: str, content: bytes, media: str) -> Iterator[Mapping[str, Any]]:
    if media != NETLINK:
        yield from json.loads(content)
    elif kind == "ipsets":
        for one in sets_of(content):
            members = list(itertools.islice(one.members, _MOST_ROWS))
            yield {
                "name": one.name, "type": one.type, "family": one.family, "revision": one.revision,
                **one.options, "members": members,
            }  # fmt: skip
    elif kind == "sockets":
        yield from sockets.rows(content)
    elif kind == "policies":
        yield from policies.rows(content)
    elif kind in LAYOUTS:
        for row in rows(LAYOUTS[kind], content):
            if _NEEDED.get(kind, "family") in row:
                yield _own(row) if kind == "addresses" else row


def _own(row: dict[str, Any]) -> dict[str, Any]:
    """IFA_LOCAL is the host's; IFA_ADDRESS, where it is another one, that of the other end of the link."""
    local = row.pop("local", None)
    return (
        row if local in (None, row["address"]) else row | {"address": local, "peer": row["address"]}
    )


def _of_format_1(name: str, one: Mapping[str, Any]) -> IpSet:
    """A set of addresses or networks, without exceptions; of others the members are null."""
    members = one["members"]
    networks = [ipaddress.ip_network(member) for member in members or ()]
    families = {network.version for network in networks}
    return IpSet(
        name,
        "hash:net",
        {4: 2, 6: 10}[families.pop()] if len(families) == 1 else 0,
        known=members is not None,
        networks=[str(network) for network in networks],
    )


@contextlib.contextmanager
def _undamaged(what: str) -> Iterator[None]:
    try:
        yield
    except (
        ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
    ):  # fmt: skip
        raise RecordingError(
            f"the recording's list of {what} is damaged: it is not one that iptrec writes"
        ) from None


def _text(name: object) -> str:
    r"""JSON can have half a character, which no file can: \ud800."""
    return str(name).encode("utf-8", "backslashreplace").decode()
