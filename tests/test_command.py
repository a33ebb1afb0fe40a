"""Answers in this process are those of a process of its own."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import warm
from command import iptrec, program

SAMPLES = Path(__file__).parents[1] / "samples"
HAIRPIN = str(SAMPLES / "docker_hairpin.db")
LOOPBACK = str(SAMPLES / "loopback.db")
SQL = "SELECT char(9731), verdict FROM packets"
QUESTIONS = {  # words, exit status
    "nothing": ([], 2),
    "version": (["--version"], 0),
    "help": (["show", "--help"], 0),
    "text": (["show", LOOPBACK], 0),
    "a filter of libpcap's": (["show", "--json", LOOPBACK, "icmp6"], 0),
    "no packet": (["show", HAIRPIN, "udp"], 1),
    "wrong use": (["show", "--zzz"], 2),
    "no file": (["why", "/nope.db"], 2),
    "expectations": (["check", LOOPBACK, "/dev/null"], 2),
    "no difference": (["diff", LOOPBACK], 0),
    "ends of lines": (["query", LOOPBACK, SQL, "--csv"], 0),
    "bytes": (["export", "ndjson", LOOPBACK, "-o", "-"], 0),
    "a device": (["export", "ndjson", LOOPBACK, "-o", "/dev/stdout"], 0),
    "a namespace that is not there": (["cleanup", "--netns", "/nope"], 2),
}


@pytest.mark.parametrize("case", QUESTIONS)
def test_the_same_answer(case):
    """Status, stdout and stderr; and the same again: nothing is kept from one question to the next."""
    words, status = QUESTIONS[case]
    with warm.cold(all_of_them=True):
        there = program(*words)
    forked = program(*words)
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        there.returncode, there.stdout, there.stderr,
    )  # fmt: skip
    for _ in range(2):
        here = iptrec(*words)
        assert (here.returncode, here.stdout, here.stderr) == (
            there.returncode, there.stdout, there.stderr,
        )  # fmt: skip
    assert there.returncode == status


def state():
    """What a command could change in its process."""
    return (
        dict(os.environ), sys.argv, sys.stdout, sys.stderr, Path.cwd(), os.geteuid(),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        sorted(os.listdir("/proc/self/fd")),  # noqa: PTH208
    )  # fmt: skip


@pytest.mark.parametrize("case", QUESTIONS)
def test_nothing_is_left(case):
    """The process is what it was."""
    iptrec(*QUESTIONS[case][0])
    before = state()
    iptrec(*QUESTIONS[case][0])
    assert state() == before


def test_an_error_in_the_code_is_seen(monkeypatch):
    """A traceback and status 1, as Python has them."""
    monkeypatch.setattr("iptrec.cli.main", lambda: 1 / 0)
    done = iptrec("show")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_more_than_a_pipe_holds():
    """Is read while it is written."""
    many = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)"
    done = iptrec("query", LOOPBACK, f"{many} SELECT hex(zeroblob(5000)) AS a FROM n", "--json")
    assert done.returncode == 0
    assert len(done.stdout) > 5_000_000
