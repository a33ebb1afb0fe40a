"""The commands as a user types them: answers, exit statuses, one-line errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from command import IPTREC, iptrec

SAMPLES = Path(__file__).parents[2] / "samples"
HAIRPIN = str(SAMPLES / "docker_hairpin.db")
LOOPBACK = str(SAMPLES / "loopback.db")


ERRORS = {
    "missing": (["show", "/nope.db"], "iptrec: cannot open /nope.db: No such file or directory"),
    "no recording": (["show", "/etc/passwd"], "iptrec: /etc/passwd is not an iptrec recording"),
    "directory": (["info", "/"], "iptrec: cannot open /: Is a directory"),
    "option": (["show", "--zzz"], "iptrec show: No such option: --zzz; see iptrec show --help"),
    "command": (["nonsense"], "iptrec: No such command 'nonsense'; see iptrec --help"),
    "filter": (["show", HAIRPIN, "foo bar"], 'iptrec: filter "foo bar": '),
    "chain": (["show", HAIRPIN, "--chain", "filter/"], "iptrec: --chain 'filter/': expected TABLE/CHAIN"),
    "color": (["show", HAIRPIN, "--color", "pink"], "iptrec: --color 'pink': must be one of"),
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
    assert iptrec("show", LOOPBACK, "--verdict", "DROP").stdout.count(" DROP udp ") == 2
    done = iptrec("show", HAIRPIN, "udp")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "iptrec show: no packet matches\n"
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
    assert "\tfilter DOCKER-USER\n" in shown


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


@pytest.mark.parametrize(
    "command", ["", "record", "show", "why", "paths", "rules", "diff", "info", "trace", "demo"]
)
def test_help(command):
    """Each command explains itself."""
    done = iptrec(*command.split(), "--help")
    assert done.returncode == 0
    assert "Usage: iptrec" in done.stdout


def test_info():
    """Completeness first; the JSON has the numbers."""
    assert iptrec("info", HAIRPIN).stdout.startswith("complete:    yes\n")
    assert json.loads(iptrec("info", HAIRPIN, "--json").stdout)["verdicts"] == {"DROP": 1}


SELECTIONS = {  # on the loopback sample: the packets that are left
    "everything": ([], 16),
    "filter": (["icmp6"], 4),
    "verdict": (["--verdict", "drop"], 2),
    "verdicts": (["--verdict", "DROP,ACCEPT"], 14),
    "chain": (["--chain", "filter/gone"], 4),
    "chains": (["--chain", "filter/gone,filter/BYE"], 5),
    "chain_of_any_table": (["--chain", "gone"], 4),
    "time_of_day": (["--since", "16:03", "--until", "16:04"], 16),
    "time_of_day_in_utc": (["--since", "16:03", "--utc"], 0),
    "rule": (["--rule", "filter/INPUT/4"], 1),
    "rules": (["--rule", "filter/INPUT/4,filter/BYE/1"], 2),
    "rule_that_is_not_there": (["--rule", "filter/INPUT/9"], 0),
    "iface": (["--iface", "lo"], 16),
    "other_iface": (["--iface", "eth0"], 0),
    "mark": (["--mark", "0"], 13),
    "mark_with_mask": (["--mark", "0xa/0xf"], 6),
    "complete": (["--complete"], 14),
    "incomplete": (["--incomplete"], 2),
    "since": (["--since", "0s"], 16),
    "until": (["--until", "0s"], 0),
    "before_the_end": (["--since", "-1h", "--until", "-0s"], 16),
    "absolute": (["--since", "2020-01-01", "--until", "2020-01-02T00:00:00+01:00"], 0),
    "netns": (["--netns", "web"], 0),
    "all_at_once": (["--verdict", "DROP", "--chain", "filter/BYE", "--iface", "lo", "udp"], 1),
}


@pytest.mark.parametrize("case", SELECTIONS)
def test_selections_are_the_same_everywhere(case):
    """Show and paths count the same packets; none is exit status 1."""
    options, expected = SELECTIONS[case]
    shown = iptrec("show", "--json", LOOPBACK, *options)
    counted = iptrec("paths", "--json", LOOPBACK, *options)
    assert len(shown.stdout.splitlines()) == expected
    assert sum(json.loads(line)["packets"] for line in counted.stdout.splitlines()) == expected
    assert {shown.returncode, counted.returncode} == {0 if expected else 1}


BAD_SELECTIONS = {
    "rule": (["--rule", "filter/INPUT"], "--rule 'filter/INPUT': expected TABLE/CHAIN/N"),
    "mark": (["--mark", "blue"], "--mark 'blue': expected VALUE[/MASK]"),
    "mark_outside_mask": (
        ["--mark", "0x100/0xff"],
        "--mark '0x100/0xff': the value has bits that the mask leaves out, so nothing can match",
    ),
    "big_mark": (["--mark", "0x100000000"], "--mark '0x100000000': expected VALUE[/MASK]"),
    "time": (["--since", "yesterday"], "--since 'yesterday' is not a time"),
    "verdict": (["--verdict", "MAYBE"], "--verdict 'MAYBE': must be one of ACCEPT"),
}


@pytest.mark.parametrize("case", BAD_SELECTIONS)
@pytest.mark.parametrize("command", ["show", "paths"])
def test_selection_that_cannot_be_meant(command, case):
    """One line, exit status 2."""
    options, message = BAD_SELECTIONS[case]
    done = iptrec(command, LOOPBACK, *options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


def test_path_lists_its_packets():
    """What paths counts, show --path lists, whatever else is selected."""
    for line in iptrec("paths", "--json", LOOPBACK).stdout.splitlines():
        path = json.loads(line)
        shown = iptrec("show", "--json", LOOPBACK, "--path", str(path["path"])).stdout.splitlines()
        assert len(shown) == path["packets"]
        packets = [json.loads(one) for one in shown]
        assert packets[0]["packet"] == path["example"]
        assert {one["verdict"] for one in packets} == {path["verdict"]}
        fewer = iptrec("show", "--json", LOOPBACK, "--path", str(path["path"]), "icmp").stdout
        assert set(fewer.splitlines()) <= set(shown)


def test_rules_that_were_hit_or_not():
    """--hit and --unused share the rules out between them."""
    sides = [
        {
            (chain["table"], chain["chain"], rule["rule"])
            for line in iptrec("rules", "--json", LOOPBACK, *options).stdout.splitlines()
            for chain in [json.loads(line)]
            for rule in chain["rules"]
        }
        for options in (["--hit"], ["--unused"], [])
    ]
    assert sides[0]
    assert sides[1]
    assert sides[0] | sides[1] == sides[2]
    assert not sides[0] & sides[1]
    assert iptrec("rules", LOOPBACK, "--table", "raw", "--hit").returncode == 1
    assert (
        "the tables of this recording are 'filter', 'mangle', 'raw'"
        in iptrec("rules", LOOPBACK, "--table", "flter").stderr
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(closed):
    """What cannot be said is not said; no file gets a number that something else is printed to."""
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *IPTREC, "show", HAIRPIN],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"-- 2026-11-23 ") == (" >&-" not in f" {closed}")


def test_current_directory_is_gone(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    words = ["sh", "-c", 'rmdir "$PWD" && "$@"', "sh", *IPTREC, "show", "trace.db"]
    done = warm.run(words, capture_output=True, text=True, check=False, cwd=gone)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.cold
def test_a_line_on_stderr_is_written_at_once(tmp_path):
    """Also where Python is told not to buffer: another program may write there, too."""
    reading, writing = os.pipe2(os.O_DIRECT)  # as many reads as writes
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [*IPTREC, "show", str(tmp_path / "missing.db")]
    subprocess.run(command, stderr=writing, env=environment, check=False)
    os.close(writing)
    assert os.read(reading, 4096).endswith(b"No such file or directory\n")
    os.close(reading)
