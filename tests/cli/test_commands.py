"""The commands as a user types them: answers, exit statuses, one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[2] / "samples"
HAIRPIN = str(SAMPLES / "docker_hairpin.db")
LOOPBACK = str(SAMPLES / "loopback.db")


def iptrec(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "iptrec", *arguments], capture_output=True, text=True, check=False
    )


ERRORS = {
    "missing": (["show", "/nope.db"], "iptrec: cannot open /nope.db: No such file or directory"),
    "no recording": (["show", "/etc/passwd"], "iptrec: /etc/passwd is not an iptrec recording"),
    "directory": (["info", "/"], "iptrec: cannot open /: Is a directory"),
    "option": (["show", "--zzz"], "iptrec show: No such option: --zzz; see iptrec show --help"),
    "command": (["nonsense"], "iptrec: No such command 'nonsense'; see iptrec --help"),
    "filter": (["show", HAIRPIN, "foo bar"], 'iptrec: filter "foo bar": '),
    "chain": (["show", HAIRPIN, "--chain", "FORWARD"], "iptrec: --chain 'FORWARD' is not TABLE/CHAIN"),
    "color": (["show", HAIRPIN, "--color", "pink"], "iptrec: --color 'pink' is none of"),
    "output": (["show", HAIRPIN, "-o", "/nope/x"], "iptrec: cannot write /nope/x"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_error_is_one_line_and_exit_status_2(case):
    """What is wrong, with which object; never a traceback."""
    arguments, message = ERRORS[case]
    done = iptrec(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_selection_and_exit_status():
    """Filter, verdict and number choose packets; nothing that fits is status 1."""
    assert iptrec("show", HAIRPIN, "tcp", "port", "1242").stdout.count("#1 ") == 1
    assert iptrec("show", LOOPBACK, "--verdict", "DROP").stdout.count(" DROP by ") == 2
    done = iptrec("show", HAIRPIN, "udp")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "iptrec show: no packet fits\n"
    lines = iptrec("show", LOOPBACK, "--json", "--packet", "10").stdout.splitlines()
    assert [json.loads(line)["packet"] for line in lines] == [10]


def test_filter_matches_any_stage():
    """The packet is found by its address before and after the translation."""
    for host in ("172.17.0.3", "172.23.0.2"):
        assert iptrec("show", HAIRPIN, "dst host", host).returncode == 0


def test_chain_limits_the_steps():
    """--chain prints only these steps, of all packets."""
    shown = iptrec("show", HAIRPIN, "--chain", "filter/DOCKER-USER").stdout
    assert shown.count("\n\t") == 3
    assert "\tfilter DOCKER-USER NFMARK=0x0\n" in shown


def test_output_goes_to_a_file(tmp_path):
    """-o FILE."""
    done = iptrec("show", HAIRPIN, "--json", "-o", str(tmp_path / "out"))
    assert done.stdout == ""
    assert json.loads((tmp_path / "out").read_text())["verdict"] == "DROP"


def test_closed_pipe_is_quiet():
    """`iptrec show | head` ends without a word."""
    command = f"{sys.executable} -m iptrec show {LOOPBACK} | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["", "record", "show", "info", "trace", "demo"])
def test_help(command):
    """Each command explains itself."""
    done = iptrec(*command.split(), "--help")
    assert done.returncode == 0
    assert "Usage: iptrec" in done.stdout


def test_info():
    """Completeness first; the JSON has the numbers."""
    assert iptrec("info", HAIRPIN).stdout.startswith("complete:    yes\n")
    assert json.loads(iptrec("info", HAIRPIN, "--json").stdout)["verdicts"] == {"DROP": 1}


def test_no_arguments_is_help():
    """`iptrec` alone explains itself, exit status 2."""
    done = iptrec()
    assert done.returncode == 2
    assert "Usage: iptrec" in done.stdout + done.stderr
