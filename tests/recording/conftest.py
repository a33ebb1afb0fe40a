"""A small recording of every kind of row."""

from __future__ import annotations

import numpy as np
import pytest

from iptrec.recording.rows import Facts, Loss
from iptrec.recording.writer import Writer

FACTS = Facts("u", "0.1", "Linux", "h", ("iptrec", "record"), "tcp", ("ipv4",), ("lo",), 256, 5, 6)
BATCHES = ((10, [b"abc", b"x"]), (20, [b"defg"]))


def _write(path, batches=BATCHES, *, close=True):
    """Write it; ``batches``: (received_ns, datagrams) of recvmmsg calls."""
    with Writer.create(path, FACTS) as writer:
        namespace = writer.add_namespace("blue", 42)
        stream = writer.add_stream(namespace, "nflog", {"group": 0})
        for received, data in batches:
            lengths = np.array([len(one) for one in data], np.uint32)
            writer.append(stream, received, lengths, b"".join(data))
        writer.add_snapshot(namespace, "links", 1, "links", b"[]")
        writer.add_snapshot(namespace, "addresses", 2, "addresses", b"[]")
        writer.add_loss(Loss(stream, 1, 2, 3, "sequence"))
        if close:
            writer.close(99, "SIGINT")
    return path


@pytest.fixture(scope="session")
def facts():
    """Facts of a recording that has just begun."""
    return FACTS


@pytest.fixture(scope="session")
def write():
    """A function that writes the small recording to a path."""
    return _write
