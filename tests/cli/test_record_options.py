"""What `iptrec record` refuses before it touches anything: one line that says what is accepted."""

from __future__ import annotations

import pytest
from command import iptrec

VERDICTS = "ACCEPT, DROP, REJECT, QUEUE, STOLEN, REASSEMBLED, UNKNOWN"
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
    "--ring 0s": "--ring must be more than 0",
    "--max-size 3T": "--max-size '3T' is not a size; write 500k, 100M or 2G",
    "--duration 3d": "--duration '3d' is not a time; write 500ms, 30s, 5m or 1h",
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_refusals(words):
    """Exit status 2. Nothing could be recorded there: a test that fails must not trace the host."""
    option, _, value = words.partition(" ")
    done = iptrec("record", option, value, "-o", "/nonexistent/t.db")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"iptrec: {REFUSED[words]}\n"


@pytest.mark.parametrize("command", ["record", "trace"])
def test_levels(command):
    """Also "warn", as most programs have it; what is none names those that there are."""
    known = "must be one of error, warning, info, debug"
    for level, said in (("much", f"--log-level 'much': {known}"), ("warn", 'filter "bogus": ')):
        done = iptrec(command, "--log-level", level, "-o", "/nonexistent/t.db", "bogus")
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
