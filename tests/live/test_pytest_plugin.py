"""The plugin of pytest, in pytest processes of their own, on the real kernel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import documents
import pytest
from recorder import until

pytestmark = pytest.mark.live

PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
RULES = {
    "legacy": "iptables-legacy -A INPUT -p udp --dport 6 -j ACCEPT;"
    " iptables-legacy -A INPUT -p udp --dport 7 -m comment --comment closed -j DROP",
    "nft": "nft add table ip f; nft add chain ip f INPUT '{ type filter hook input priority 0; }';"
    " nft add rule ip f INPUT udp dport 6 accept;"
    " nft add rule ip f INPUT udp dport 7 counter drop comment closed",
}
TEXT = {
    "legacy": "-p udp -m udp --dport 7 -m comment --comment closed -j DROP",
    "nft": "udp dport 7 counter",
}
TABLE = {"legacy": "filter", "nft": "ip f"}
PAGE = {
    "legacy": "iptables-legacy -A OUTPUT -p tcp --dport 5432 -j DROP",
    "nft": "nft add table ip f; nft add chain ip f o '{ type filter hook output priority 0; }';"
    " nft add rule ip f o tcp dport 5432 drop",
}
SEND = """
import socket
def send(port, count=1):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        for _ in range(count):
            one.sendto(b"x", ("127.0.0.1", port))
"""


@pytest.fixture
def run(lab, tmp_path, backend):
    """Run tests of this text in the lab: status, what was said, and the cases of the JUnit report."""
    lab.run(["sh", "-c", RULES[backend]])

    def run(text, *words, ini="", before=()):
        (tmp_path / "pytest.ini").write_text(f"[pytest]\n{ini}\n")
        (tmp_path / "test_it.py").write_text(SEND + text.replace("BACKEND", repr(backend)))
        report = tmp_path / "report.xml"
        done = lab.run(
            [*before, *PYTEST, f"--rootdir={tmp_path}", f"--junitxml={report}",
             f"--basetemp={tmp_path / 'base'}", *words, str(tmp_path / "test_it.py")],
            check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr, list(ET.parse(report).iter("testcase"))  # noqa: S314

    yield run
    assert "iptrec" not in lab.run(["sh", "-c", "iptables-legacy-save; nft list ruleset"]).stdout


def properties(case):
    return {one.get("name"): one.get("value") for one in case.iter("property")}


CLOSED = """
def test_closed(iptrec_recording):
    with iptrec_recording("udp", backend=BACKEND) as recording:
        send(7, 3)
    assert recording.path.exists()
    """


def test_what_is_expected_comes_true(run, backend, tmp_path):
    """The report names the file, which --iptrec-directory keeps."""
    status, said, (case,) = run(
        CLOSED
        + f"""
    rule = ({TABLE[backend]!r}, "INPUT", 2)
    dropped = [one for one in recording.packets("udp dst port 7") if one.verdict == "DROP"]
    assert [one.decided_by.rule for one in dropped] == [2, 2, 2]
    assert recording.expect(packet=dropped[0].number, verdict="DROP", rule=rule, chain=rule[:2])
    assert len(recording.expect("udp dst port 7", min=3, max=6)) == 6
    assert recording.expect("udp dst port 5", count=0) == []
    with recording.open() as opened:
        assert opened.facts.filter == "udp"
""",
        f"--iptrec-directory={tmp_path / 'kept'}",
    )
    assert status == 0, said
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.name == "test_closed-1.db"
    told = properties(case)
    assert told.pop("iptrec_recording") == str(kept)
    assert sorted(told.pop("iptrec_verdicts").split(", ")) == ["ACCEPT 3", "DROP 3"]
    assert not told


def test_a_failure_says_who_and_why(run, backend):
    """Protocol, addresses and ports, the rule with its text, and why the one before did not match."""
    expected = 'recording.expect("udp dst port 7", iface="lo", verdict="ACCEPT")'
    status, said, (case,) = run(CLOSED + expected)
    assert status == 1
    where = f"{TABLE[backend]}/INPUT rule 2"
    assert re.search(
        rf"E +AssertionError: FAIL .*: packet #\d+ is DROP by {where}, expected ACCEPT", said
    )
    flow = rf"udp 127\.0\.0\.1:\d+ > 127\.0\.0\.1:7 in lo by {where}: {re.escape(TEXT[backend])}"
    assert re.search(rf"^E .*DROP {flow}", said, re.MULTILINE)
    assert re.search(r"^E +#1 +.*<- no: (--dport|udp dport) 6 \(it is 7\)", said, re.MULTILINE)
    assert "expected.py" not in said  # the traceback ends in the user's line
    assert re.search(flow, properties(case)["iptrec_failure"])
    assert re.search(flow, case.find("failure").get("message"))


def test_a_failure_without_a_packet_lists_what_there_was(run):
    status, said, _ = run(CLOSED + 'recording.expect("udp dst port 9")')
    assert status == 1
    assert "FAIL udp dst port 9: 0 packets, expected at least 1" in said
    assert len(re.findall(r"^E .*#\d+ .* > 127\.0\.0\.1:7 ", said, re.MULTILINE)) == 6


@pytest.mark.parametrize("asked", ["count=0", "max=1, min=0", "max=2"])
def test_too_many_says_which(run, backend, asked):
    """The first beyond, with the rule and why the one before did not match, and a line for those after it."""
    status, said, (case,) = run(CLOSED + f'recording.expect("udp dst port 7", iface="lo", {asked})')
    most = int(asked.partition("=")[2][0])
    assert status == 1
    assert f"6 packets, expected at most {most}" in said
    flow = r"udp 127\.0\.0\.1:\d+ > 127\.0\.0\.1:7 "
    told = properties(case)["iptrec_failure"]
    first = re.search(rf" #(\d+) .* (\w+) {flow}", told)
    assert first, told
    errors = [line for line in said.splitlines() if line.startswith("E ")]
    listed = [re.match(rf"E .*#(\d+) .*{flow}", line) for line in errors]
    numbers = [int(one[1]) for one in listed if one]
    assert numbers[:2] == [int(first[1])] * 2  # the line of the failure, and the title of its why
    assert len(set(numbers)) == 6 - most
    assert numbers == sorted(numbers)
    assert numbers[0] == most + 1
    where = f"{TABLE[backend]}/INPUT rule 2: {re.escape(TEXT[backend])}"
    if most == 1:  # each is seen twice, going out and coming in, where it is dropped
        assert first[2] == "DROP"
        assert re.search(where, told)
        assert re.search(r"^E +#1 +.*<- no: (--dport|udp dport) 6 \(it is 7\)", said, re.MULTILINE)


def test_wrong_use_fails(run):
    """A filter, a verdict or a condition that cannot be meant; a question before the end."""
    wrong = {
        "filter": 'iptrec_recording("prot tcp").__enter__()',
        "must be one of ACCEPT": 'recording.expect(verdict="DROPPED")',
        "interface is not a condition": "recording.expect(interface='lo')",
        "ask behind the with block": "recording.running().packets()",
    }
    text = f"""
import pytest
@pytest.mark.parametrize("wrong", {[*wrong.values()]})
def test_wrong(iptrec_recording, wrong):
    with iptrec_recording("udp", backend=BACKEND) as recording:
        recording.running = lambda: recording
        if "running" in wrong:
            eval(wrong)
    eval(wrong)
"""
    status, said, cases = run(text)
    assert status == 1
    for reason, case in zip(wrong, cases, strict=True):
        told = case.find("failure").get("message")
        assert re.search(f"^iptrec.errors.UsageError: .*{reason}", told), said


@pytest.mark.parametrize(
    "how", ["raise ValueError", "os.kill(os.getpid(), signal.SIGINT)", "os._exit(9)"]
)
def test_nothing_stays_whatever_ends_the_test(lab, run, how):
    """The fixture ``run`` looks whether our rules are gone; where nobody could wait for it, in a moment."""
    text = """
import os, signal
def test_it(iptrec_recording):
    with iptrec_recording("udp", backend=BACKEND):
        send(7)
        HOW
"""
    if "_exit" not in how:
        status, said, _ = run(text.replace("HOW", how))
        assert status == (1 if "raise" in how else 2), said
        return
    with pytest.raises(OSError, match="report"):
        run(text.replace("HOW", how))
    until(
        lambda: (
            "iptrec" not in lab.run(["sh", "-c", "iptables-legacy-save; nft list ruleset"]).stdout
        )
    )


def test_several_at_once_and_one_after_the_other(lab, run):
    """In different network namespaces; each has a file of its own."""
    lab.host("far")
    status, said, (case,) = run("""
def test_two(iptrec_recording):
    with iptrec_recording("udp", backend=BACKEND) as near:
        with iptrec_recording("udp", backend=BACKEND, netns="far") as far:
            send(7)
    with iptrec_recording("udp", backend=BACKEND) as later:
        pass
    near.expect("udp")
    far.expect("udp", count=0)
    later.expect("udp", count=0)
    assert len({one.path for one in (near, far, later)}) == 3
""")
    assert status == 0, said
    assert len([*case.iter("property")]) == 6


@pytest.mark.parametrize("backend", ["legacy"], indirect=True)
@pytest.mark.parametrize("setting", ["", "iptrec_if_refused = skip", "iptrec_if_refused = fail"])
def test_a_host_that_refuses(run, setting):
    """A skip with the reason, or a failure."""
    status, said, (case,) = run(
        CLOSED, ini=setting, before=["setpriv", "--bounding-set=-net_admin"]
    )
    reason = "iptrec cannot record: recording needs CAP_NET_ADMIN, which this root does not have"
    if "fail" in setting:
        assert status == 1
        assert reason in said
        assert reason in case.find("failure").get("message")
    else:
        assert status == 0
        assert reason in case.find("skipped").get("message")


NEIGHBOUR = """
import os, signal, subprocess, sys, time
import pytest

@pytest.fixture
def neighbour(tmp_path):
    words = [sys.executable, "-m", "iptrec", "record", "udp", f"--backend={BACKEND}"]
    words += ["-o", str(tmp_path / "n.db"), "--duration=SECONDSs"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as child:
        assert "recording to" in child.stderr.readline()
        yield child
        child.terminate()
        child.communicate()

def test_it(neighbour, iptrec_recording):
    with iptrec_recording("udp dst port 7", backend=BACKEND) as recording:
        still = neighbour.poll() is None
        send(7)
    assert still or BACKEND == "legacy"
    recording.expect("udp dst port 7", min=2)
"""


@pytest.mark.parametrize("setting", ["", "iptrec_if_refused = fail"])
def test_a_neighbour_that_records_is_waited_for(run, setting):
    """With legacy iptables one can be at work in a namespace; with nft both are."""
    status, said, (case,) = run(NEIGHBOUR.replace("SECONDS", "3"), ini=setting)
    assert status == 0, said
    assert case.find("skipped") is None


@pytest.mark.parametrize("backend", ["legacy"], indirect=True)
@pytest.mark.parametrize("setting", ["", "iptrec_if_refused = skip"])
def test_a_neighbour_that_stays_is_no_refusal(run, setting):
    """A test that is skipped since another one ran would look as if it had passed."""
    status, said, (case,) = run(NEIGHBOUR.replace("SECONDS", "120"), ini=setting)
    assert status == 1, said
    told = case.find("failure").get("message")
    assert "iptrec cannot record: nflog group 0, which TRACE uses, is taken by " in told
    assert re.search(r"\(pid \d+\)", told)


@pytest.mark.parametrize("backend", ["legacy"], indirect=True)
def test_a_recorder_that_breaks_is_no_refusal(run):
    """A test that is skipped for ever would tell nobody."""
    breaking = """
import sys
from iptrec import child_recorder
def test_it(iptrec_recording, monkeypatch):
    broken = lambda *words, module: [sys.executable, "-c", "raise SystemExit(1)"]
    monkeypatch.setattr(child_recorder, "iptrec", broken)
    with iptrec_recording("udp", backend=BACKEND):
        pass
"""
    status, said, _ = run(breaking)
    assert status == 1
    assert "RecorderEndedError: the recorder failed (exit status 1)" in said


def test_the_page_is_true(lab, tmp_path, backend):
    """The program of docs/pytest.md, where a rule drops what it tries, and where none does; and its setting."""
    (program,) = (
        text for where, text in documents.of_kind("python") if where.startswith("docs/pytest.md")
    )
    (setting,) = (text for _, text in documents.of_kind("ini"))
    (tmp_path / "pytest.ini").write_text(setting)
    (tmp_path / "test_it.py").write_text(program)
    lab.run(["ip", "addr", "add", "10.0.0.5/32", "dev", "lo"])
    lab.run(["sh", "-c", PAGE[backend]])
    words = [
        *PYTEST,
        f"--rootdir={tmp_path}",
        f"--basetemp={tmp_path / 'base'}",
        str(tmp_path / "test_it.py"),
    ]
    done = lab.run(words, check=False)
    assert done.returncode == 0, done.stdout
    lab.run(["sh", "-c", "iptables-legacy -F; nft flush ruleset"])
    done = lab.run(words, check=False)
    assert done.returncode == 1
    assert re.search(
        r"^E +AssertionError: FAIL tcp dst port 5432: packet #1 is ", done.stdout, re.MULTILINE
    )


def test_it_costs_nothing_where_it_is_not_used(tmp_path):
    """Pytest has loaded all that it needs."""
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_it(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.hasplugin('iptrec')\n"
        "    loaded = {name for name in sys.modules if name.split('.')[0] in ('iptrec', 'numpy', 'typer')}\n"
        "    assert loaded == {'iptrec', 'iptrec.pytest_plugin'}\n"
    )
    words = [*PYTEST, f"--rootdir={tmp_path}", "-c", os.devnull, str(tmp_path / "test_it.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
