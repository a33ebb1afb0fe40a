"""What redact does to everything that a recording may hold; a kind or a column that is not here fails."""

from __future__ import annotations

import re
from types import SimpleNamespace

from iptrec.recording.kinds import SNAPSHOTS, STREAMS
from iptrec.recording.schema import SCHEMA
from iptrec.redact.key import Key
from iptrec.redact.maps import Redaction, surveyed
from iptrec.redact.recorded import Redacted, _Changes

KEPT, MAPPED, GONE, MADE = "kept", "mapped", "gone", "made anew"
COLUMNS = {
    "recording": {
        "id": KEPT, "uuid": KEPT, "iptrec": KEPT, "kernel": KEPT, "host": GONE, "command": GONE,
        "filter": MAPPED,
        "families": KEPT, "interfaces": MAPPED, "snaplen": KEPT, "byte_order": KEPT, "started_ns": KEPT,
        "started_monotonic_ns": KEPT, "stopped_ns": KEPT, "stop_reason": KEPT, "closed": KEPT,
    },
    "namespace": {"id": KEPT, "name": MAPPED, "inode": KEPT},
    "stream": {"id": KEPT, "namespace": KEPT, "kind": KEPT, "detail": MAPPED},
    "chunk": {
        "id": KEPT, "stream": KEPT, "first_ns": KEPT, "last_ns": KEPT, "datagrams": KEPT, "noted": KEPT,
        "encoding": KEPT, "size": MADE, "data": MAPPED,
    },
    "blob": {"sha256": MADE, "encoding": KEPT, "size": MADE, "data": MAPPED},
    "snapshot": {
        "id": KEPT, "namespace": KEPT, "kind": KEPT, "media": KEPT, "time_ns": KEPT, "after_ns": KEPT,
        "source": MAPPED, "blob": MADE,
    },
    "loss": {"id": MADE, "stream": KEPT, "first_ns": KEPT, "last_ns": KEPT, "events": KEPT, "how": KEPT},
}  # fmt: skip
OF_STREAMS = {
    "nflog": MAPPED, "nftrace": MAPPED, "nftables": MAPPED, "drops": MAPPED, "senders": MAPPED,
    "conntrack": MAPPED,
    "sockets": MAPPED, "route-answers": MAPPED, "rtnetlink": MAPPED,
}  # fmt: skip
OF_SNAPSHOTS = {
    **dict.fromkeys(
        ("iptables-save", "ip6tables-save", "iptables-unknown", "ip6tables-unknown", "iptables-nft-save",
         "ip6tables-nft-save", "nft-rules", "nft-text", "nft", "nft-missed", "nft-pasted", "raw-table", "links",
         "addresses", "routes", "ip-rules", "policies", "neighbours", "fdb", "ipsets", "sysctls", "sockets",
         "owners", "sender-cgroups", "groups", "counters"),
        MAPPED,
    ),
    **dict.fromkeys(
        ("nft-generation", "nft-generations", "timezone", "drop-reasons", "drop-places", "trace-rules"), KEPT
    ),
    "nft-unknown": GONE,
}  # fmt: skip


def changes():
    key = Key(b"any")
    addresses, _ = surveyed(key, ())
    return _Changes(Redaction(key, addresses, (), ()), {})


def test_every_column_of_the_file_has_its_fate():
    """Who adds one has to say what redact does to it."""
    tables = {
        name: set(re.findall(r"^  (\w+) (?:INTEGER|TEXT|BLOB)", body, re.MULTILINE))
        for name, body in re.findall(r"CREATE TABLE (\w+) \((.*?)\n\) STRICT", SCHEMA, re.DOTALL)
    }
    assert tables == {name: set(columns) for name, columns in COLUMNS.items()}


def test_every_stream_has_its_fate():
    """And redact knows it."""
    assert set(STREAMS) == set(OF_STREAMS) == set(changes().streams)


def test_every_snapshot_has_its_fate():
    """And redact knows it."""
    assert set(SNAPSHOTS) == set(OF_SNAPSHOTS) == set(changes().snapshots.kinds)


def test_what_is_not_known_goes_and_is_told():
    """A kind of a later version."""
    made = changes()
    one = SimpleNamespace(kind="tomorrow", content=b"10.1.2.3", source="x", media="text")
    assert made.snapshots(one) is None
    assert made.maps.removals == {"snapshots of the kind tomorrow": 1}


def test_a_snapshot_that_cannot_be_read_goes():
    """Whatever a stranger wrote into it."""
    made = changes()
    for kind in ("nft", "owners", "sysctls", "nft-rules", "counters", "groups", "nft-generation"):
        one = SimpleNamespace(kind=kind, content=b'{"secret', source="x", media="json")
        assert made.snapshots(one) is None, kind


def test_a_stream_that_is_not_known_goes():
    """With its chunks and losses."""
    stream = SimpleNamespace(id=1, kind="tomorrow", detail={})
    loss = SimpleNamespace(stream=1)
    source = SimpleNamespace(
        streams=[stream], losses=[loss], chunks=lambda _=None: [SimpleNamespace(stream=1)]
    )
    made = changes()
    redacted = Redacted(source, made.maps, made)
    assert not [*redacted.streams(), *redacted.chunks(), *redacted.losses()]
