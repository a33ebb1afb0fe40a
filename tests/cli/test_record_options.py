"""What `iptrec record` refuses before it touches anything: one line that says what is accepted."""

from __future__ import annotations

import pytest
from command import iptrec

VERDICTS = "ACCEPT, DROP, REJECT, QUEUE, STOLEN, REASSEMBLED, DISCARDED, UNKNOWN"
EXPECTED = f"expected verdicts ({VERDICTS}) and rules (TABLE/CHAIN/N), then a filter"
SYNTAX = 'filter "bogus": can\'t parse filter expression: syntax error'
SIZE_OR_TIME = "expected a size (500k, 100M, 2G) or a time (30s, 10m, 24h)"
REFUSED = {
    "--stop-on BOGUS": f"--stop-on 'BOGUS': BOGUS is not a verdict; {EXPECTED}",
    "--stop-on a/b/c": f"--stop-on 'a/b/c': a/b/c is not a rule; {EXPECTED}",
    "--stop-on bogus": f"--stop-on 'bogus': {SYNTAX}; {EXPECTED}",
    "--stop-on ": f"--stop-on '': it is empty; {EXPECTED}",
    "--after 5s": "--after is the time to go on for after --stop-on: say what to stop on",
    "--after 0s": "--after is the time to go on for after --stop-on: say what to stop on",
    "--ring 10x": f"--ring '10x': {SIZE_OR_TIME}",
    "--ring m": f"--ring 'm': {SIZE_OR_TIME}",
    "--ring 10d": f"--ring '10d': {SIZE_OR_TIME}",
    "--ring 10": f"--ring '10': {SIZE_OR_TIME}",
    "--rotate 10": f"--rotate '10': {SIZE_OR_TIME}",
    "--rotate 0s": "--rotate must be more than 0",
    "--keep 3": "--keep is how many files --rotate keeps: say when to rotate",
    "--ring 0s": "--ring must be more than 0",
    "--max-size 3T": "--max-size '3T' is not a size; write 500k, 100M or 2G",
    "--drops maybe": "--drops 'maybe': must be one of auto, yes, no",
    "--duration 3d": "--duration '3d' is not a time; write 500ms, 30s, 5m or 1h",
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_refusals(words):
    """Exit status 2. Nothing could be recorded there: a test that fails must not trace the host."""
    option, _, value = words.partition(" ")
    done = iptrec("record", option, value, "-o", "/nonexistent/t.db")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"iptrec: {REFUSED[words]}\n"


def test_files_that_follow_each_other_are_no_devices():
    """Beside /dev/null nobody wants files."""
    done = iptrec("record", "--rotate", "1h", "-o", "/dev/null", "bogus")
    said = "/dev/null exists and is not a regular file; use another -o"
    assert (done.returncode, done.stderr) == (2, f"iptrec: {said}\n")


@pytest.mark.parametrize("command", ["record", "trace"])
def test_levels(command):
    """Also "warn", as most programs have it; what is none names those that there are."""
    known = "must be one of error, warning, info, debug"
    for level, said in (("much", f"--log-level 'much': {known}"), ("warn", 'filter "bogus": ')):
        done = iptrec(command, "--log-level", level, "-o", "/nonexistent/t.db", "bogus")
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "record -filter=tcp",
            "-filter=tcp: the filter is an argument: iptrec record tcp port 443",
        ),
        ("trace -filter tcp", "-filter: the filter is an argument: iptrec trace tcp port 443"),
        ("record -netns=web", "-netns=web: did you mean --netns=web?"),
        ("record -iface eth0", "-iface: did you mean --iface?"),
        ("show -verdict=DROP t.db", "-verdict=DROP: did you mean --verdict=DROP?"),
    ],
)
def test_one_dash(words, said):
    """As programs in Go have it, and an older tracer: -iface=eth0 is not -i with the value "face=eth0"."""
    done = iptrec(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"iptrec: {said}")


@pytest.mark.parametrize("command", ["record", "trace"])
def test_habits_of_tcpdump(command):
    """-n, -c, -i and -w are understood; what is wrong is the filter alone."""
    done = iptrec(command, *["-n", "-c", "3", "-i", "nope0", "-w", "/nonexistent/t.db", "bogus"])
    assert done.stderr == f"iptrec: {SYNTAX}\n"
