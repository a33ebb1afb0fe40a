"""``diff TRACE.db@TIME`` with what nft printed at that time, right after the rules changed."""

from __future__ import annotations

import time

import pytest
import recorder
from command import iptrec

from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

DOUBT = "the rules of nf_tables changed about then"
RULES = "table inet fw { chain c { type filter hook forward priority 0; udp dport 1 drop; }; }"


def test_a_listing_that_may_be_older_is_said_to_be(lab, tmp_path):
    """The rules are printed only a while after they changed: nothing differs, or it is told why it may."""
    lab.run(["nft", RULES])
    path = tmp_path / "t.db"
    child = recorder.start(lab, "--backend", "nft", "-o", path, notes=True)
    files = []
    for number in range(2, 8):
        for more in range(
            3
        ):  # one after the other: the first is printed at once, the last one later
            lab.run(["nft", f"add rule inet fw c udp dport {10 * number + more} drop"])
        moment = time.clock_gettime_ns(time.CLOCK_REALTIME)
        file = tmp_path / f"{number}.nft"
        file.write_text(lab.run(["nft", "list", "table", "inet", "fw"]).stdout)
        files.append((moment, file))
        time.sleep(1)  # so long no rule changes
    recorder.stop(child)
    for moment, file in files:
        done = compared(path, moment, file)
        assert DOUBT in done.stderr or done.stdout == "no difference\n", (moment, done.stdout)
    with Reader(path) as reader:
        spans = [(one.after_ns, one.time_ns) for one in reader.snapshots("nft-text")][1:]
    assert len(spans) >= len(files)
    _, file = files[0]
    for after, printed in spans:
        assert DOUBT in compared(path, (after + printed) // 2, file).stderr
        assert DOUBT not in compared(path, printed, file).stderr


def compared(path, moment_ns, file):
    at = time.strftime("%FT%T", time.gmtime(moment_ns // 10**9)) + f".{moment_ns % 10**9:09}Z"
    return iptrec("diff", f"{path}@{at}", file)
