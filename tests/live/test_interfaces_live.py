"""Interfaces that come and go while packets are recorded."""

from __future__ import annotations

import signal
import subprocess

import pytest
from command import IPTREC

from iptrec.answers.packets import Packets
from iptrec.answers.selection import Selection
from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live


@pytest.mark.alone  # names are known by when their changes are received
def test_index_given_to_another_interface(lab, tmp_path):
    """A veth is deleted and another one gets its index: each packet shows the name of its time."""
    lab.host("h")

    def plug(name):
        lab.ip(None, f"link add {name} index 77 type veth peer name eth0 netns h")
        lab.ip(None, f"address add 10.0.0.1/24 dev {name}\nlink set {name} up")
        lab.ip("h", "address add 10.0.0.2/24 dev eth0\nlink set eth0 up")
        lab.settle()

    def ping(seq):
        lab.run(["ping", "-c1", f"-s{seq}", "10.0.0.2"])

    plug("first")
    path = tmp_path / "t.db"
    child = lab.popen(
        [*IPTREC, "record", "icmp", "-o", str(path)], stderr=subprocess.PIPE, text=True
    )
    assert child.stderr.readline().startswith("recording to")
    ping(100)
    for number, (before, name) in enumerate((("first", "second"), ("second", "third")), 1):
        lab.ip(None, f"link del {before}")
        plug(name)
        ping(100 + number)
    lab.ip(None, "link set third down\nlink set third name fourth\nlink set fourth up")
    lab.settle()
    ping(103)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    with Reader(path) as reader:
        names = {(one.header["length"] - 28, one.in_ or one.out) for one in Packets(reader)}
        selected = [
            one.header["length"] - 28
            for one in Packets(reader, Selection(interfaces=frozenset({"second"})))
        ]
    assert names == {(100, "first"), (101, "second"), (102, "third"), (103, "fourth")}
    assert selected == [101, 101]
