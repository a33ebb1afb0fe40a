"""Coverage-guided fuzzing of everything that reads a stranger's bytes (atheris).

usage: python fuzz/decoders.py TARGET [libFuzzer's options] [fuzz/corpus/TARGET]

The targets' names are those of the functions below and of files.TARGETS. A finding is a traceback and a file
crash-...; put that file into the corpus with the fix. Instrumented code grows by 10 to 200 KB a run:
long runs want -rss_limit_mb=0.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import atheris
import files

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.decode.events import TraceEvents

with atheris.instrument_imports(include=["iptrec"]):
    import numpy as np

    from iptrec.decode import conntrack, nftrace, packet, prefix, rtnetlink, snapshots
    from iptrec.decode import nflog as messages
    from iptrec.decode.rulesets import iptables_save, nft_json
    from iptrec.errors import RecordingError
    from iptrec.recording.reader import Reader


def nflog(data: bytes) -> None:
    """Datagrams of arbitrary lengths back to back: offsets never leave the buffer."""
    _events(data, messages.decode)


def traces(data: bytes) -> None:
    """The same of nf_tables' traces; each names a place."""
    events = _events(data, nftrace.decode)
    assert all(isinstance(one, nftrace.NftSite) for one in events.sites)  # noqa: S101


def _events(data: bytes, decode: Callable[..., TraceEvents]) -> TraceEvents:
    count = data[0] % 4 + 1 if data else 1
    rest = data[1 + count :]
    lengths = [min(one * 2, len(rest)) for one in data[1 : 1 + count]] or [0]
    rest = rest[: sum(lengths)].ljust(sum(lengths), b"\0")
    times = np.zeros(len(lengths), np.int64)
    events = decode(rest, np.array(lengths, np.uint32), times)
    for row in range(len(events)):
        events.packet(row)
        assert events.payload[row] + events.payload_length[row] <= len(events.buffer)  # noqa: S101
        assert events.link[row] + events.link_length[row] <= len(events.buffer)  # noqa: S101
    return events


def prefixes(data: bytes) -> None:
    """A log prefix: a place, or none."""
    found = prefix.parse(data)
    assert found is None or found.rulenum >= 0  # noqa: S101
    prefix.table(data)


def headers(data: bytes) -> None:
    """A packet from its IP header on, and a link header."""
    for family in (2, 10):
        packet.header(data, family)
    packet.link(data)


def rulesets(data: bytes) -> None:
    """What iptables-save printed, or one line about what is wrong."""
    try:
        iptables_save.parse(data)
    except RecordingError as error:
        assert "\n" not in str(error)  # noqa: S101, PT017


def listings(data: bytes) -> None:
    """What nft printed as JSON and, behind zero bytes, as text, and what iptables-nft-save printed."""
    listing, text, saved, *_ = (*data.split(b"\0", 2), b"", b"")
    try:
        nft_json.parse(listing, text, {"ip": iptables_save.parse(saved)})
    except RecordingError as error:
        assert "\n" not in str(error)  # noqa: S101, PT017


def links(data: bytes) -> None:
    """Messages of rtnetlink."""
    list(rtnetlink.link_changes(data))


def evidence(data: bytes) -> None:
    """A list of the kernel's, of any kind: values, or one line about what is wrong; all of it as JSON."""
    snapshots.state(data, snapshots.NETLINK)
    for kind in (*rtnetlink.LAYOUTS, "ipsets"):
        json.loads(snapshots.shown(kind, data, snapshots.NETLINK))
    for media in (snapshots.NETLINK, "json"):
        with contextlib.suppress(RecordingError):
            snapshots.links(data, media)
            snapshots.addresses(data, media)
        with contextlib.suppress(RecordingError):
            for one in snapshots.ipsets(data, media).values():
                assert one.index is None or isinstance(one.lengths, list)  # noqa: S101


def connections(data: bytes) -> None:
    """Messages of ctnetlink."""
    list(conntrack.connections(data))


def recordings(data: bytes) -> None:
    """A file: rows, or one line about what is wrong."""
    with tempfile.NamedTemporaryFile(suffix=".db", dir=_MEMORY) as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(RecordingError), Reader(file.name) as reader:
            _ = reader.facts, reader.losses, list(reader.snapshots()), list(reader.chunks())


_MEMORY = next((one for one in ("/dev/shm", None) if one is None or os.access(one, os.W_OK)), None)  # noqa: S108
TARGETS = (
    nflog, traces, prefixes, headers, rulesets, listings, links, evidence, connections, recordings,
    *files.TARGETS,
)  # fmt: skip


def main() -> None:
    """Fuzz one target."""
    named = {target.__name__: target for target in TARGETS}
    if len(sys.argv) < 2 or sys.argv[1] not in named:  # noqa: PLR2004
        sys.exit(f"usage: {Path(sys.argv[0]).name} {'|'.join(named)} [options] [corpus]")
    target = named[sys.argv.pop(1)]
    bounds = files.BOUNDS if target in files.TARGETS else ()
    atheris.Setup([sys.argv[0], *bounds, *sys.argv[1:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
