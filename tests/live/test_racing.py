"""Under --flush others go on changing the raw table: none of their rules is lost, none changes its place."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys

import pytest

IPTREC = (sys.executable, "-m", "iptrec")
ROUNDS = int(os.environ.get("IPTREC_RACES", "3"))  # for each test and backend
pytestmark = [pytest.mark.live, pytest.mark.timeout(300 + 30 * ROUNDS)]
RAW = """\
*raw
-A PREROUTING -s 192.0.2.1/32 -j ACCEPT
-A PREROUTING -s 192.0.2.2/32 -j ACCEPT
-A PREROUTING -s 192.0.2.3/32 -j ACCEPT
-A OUTPUT -d 192.0.2.9/32 -j DROP
COMMIT
"""
USERS = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
# Prints the number of each rule that is in, until it can print no more.
ADD = """\
n=0
while n=$((n + 1)); do
    rule="-s 10.0.$((n >> 8)).$((n & 255)) -m comment --comment n$n -j ACCEPT"
    iptables-{backend} -w 10 -t raw {where} $rule && echo $n
    [ ! -e {stop} ] || exit 0
    sleep 0.005
done
"""


@contextlib.contextmanager
def adding(lab, tmp_path, backend, where):
    """Somebody adds one rule after the other; the numbers of these are filled in in the end."""
    stop = tmp_path / "stop"
    stop.unlink(missing_ok=True)
    script = ADD.format(backend=backend, where=where, stop=stop)
    child = lab.popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
    added = [int(child.stdout.readline())]
    try:
        yield added
    finally:
        stop.touch()
        with (
            child.stdout as rest
        ):  # communicate() with a time limit leaves out what is read already
            added += map(int, rest)
        assert child.wait(timeout=60) == 0


def sources(lab, backend):
    """The rules of PREROUTING: addresses of the user, numbers of the one who adds."""
    saved = lab.run([f"iptables-{backend}-save", "-t", "raw"]).stdout
    rule = re.compile(r"^-A PREROUTING -s ([0-9.]+)/32 (?:.*--comment n(\d+) )?", re.MULTILINE)
    found = rule.findall(saved)
    return [int(number) if number else address for address, number in found]


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize("where", ["-A PREROUTING", "-I PREROUTING 1"], ids=["append", "insert"])
def test_rules_that_somebody_adds_all_the_time(lab, tmp_path, backend, where):
    """While ours go in and come out: each is there afterwards, on its side of the user's, in its order."""
    lab.run(["touch", "/run/xtables.lock"])
    record = [
        *IPTREC,
        "record",
        "-q",
        "--force",
        "-o",
        str(tmp_path / "t.db"),
        "--backend",
        backend,
    ]
    for number in range(ROUNDS):
        lab.restore(None, "ipv4", RAW, backend)
        with adding(lab, tmp_path, backend, where) as added:
            done = lab.run([*record, "--family", "ipv4", "--flush", "--", "true"], check=False)
        assert done.returncode == 0, done.stderr
        expected = [*USERS, *added] if "-A" in where else [*reversed(added), *USERS]
        assert sources(lab, backend) == expected, number
        saved = lab.run([f"iptables-{backend}-save", "-t", "raw"]).stdout
        assert "TRACE" not in saved
        assert saved.count("-A OUTPUT -d 192.0.2.9/32 -j DROP") == 1
