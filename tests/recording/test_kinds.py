"""Each kind of stream and of snapshot is known before it is written, and somebody reads it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from iptrec.decode.rtnetlink import LAYOUTS
from iptrec.recording.kinds import SNAPSHOTS, STREAMS
from iptrec.recording.writer import Writer
from iptrec.rulesets.backends import BACKENDS

PACKAGE = Path(__file__).parents[2] / "iptrec"
READERS = [
    path.read_text()
    for room in ("context", "packets", "answers", "views")
    for path in (PACKAGE / room).rglob("*.py")
]
# Kept as evidence: people look at them with `iptrec info` and `iptrec query`.
EVIDENCE = {
    "nftables", "raw-table", "routes", "ip-rules", "neighbours", "fdb", "counters",
}  # fmt: skip


@pytest.mark.parametrize("kind", [*STREAMS, *SNAPSHOTS])
def test_somebody_reads_it(kind):
    of_backends = {kind for one in BACKENDS.values() for kind in (one.stream, *one.snapshots)}
    assert kind in EVIDENCE | of_backends or any(re.search(rf'"{kind}"', text) for text in READERS)


@pytest.mark.parametrize("kind", [one.name for one in SNAPSHOTS.values() if one.media == "netlink"])
def test_answers_of_the_kernel_are_decoded(kind):
    """Without a layout `iptrec query` would show an empty list; sets have a decoder of their own."""
    assert kind in {*LAYOUTS, "ipsets", "sockets", "policies"}


def test_nothing_else_is_written(tmp_path, facts):
    with Writer.create(tmp_path / "a.db", facts) as writer:
        namespace = writer.add_namespace(None, 1)
        with pytest.raises(KeyError):
            writer.add_stream(namespace, "of nobody", {})
        with pytest.raises(KeyError):
            writer.add_snapshot(namespace, "of nobody", 0, "", b"")
