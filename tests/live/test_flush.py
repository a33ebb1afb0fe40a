"""--flush takes out what it can put back as it was, says what it cannot, and lets nobody come between."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time

import pytest
from warm import ALONE

from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

IPTREC = (sys.executable, "-m", "iptrec")
CLEANUP = (*ALONE, *IPTREC, "cleanup")
BACKENDS = ("legacy", "nft")
LOCK = "/run/xtables.lock"


def rules(lab, backend, family="ipv4"):
    """The raw table with counters."""
    name = "iptables" if family == "ipv4" else "ip6tables"
    saved = lab.run([f"{name}-{backend}-save", "-c", "-t", "raw"]).stdout
    return [line for line in saved.splitlines() if line.startswith("[")]


def add(lab, backend, *rule):
    lab.run([f"iptables-{backend}", "-w", "-t", "raw", *rule])


def record(lab, tmp_path, backend, *options, command=("true",)):
    """A recording from beginning to end."""
    path = ["-o", str(tmp_path / "t.db"), "--force", "--backend", backend, "--family", "ipv4"]
    return lab.run([*IPTREC, "record", *path, *options, "--", *command], check=False)


def recording(lab, tmp_path, *options):
    """One of legacy iptables that records."""
    options = ["-o", str(tmp_path / "t.db"), "--backend", "legacy", "--family", "ipv4", *options]
    child = lab.popen([*IPTREC, "record", *options], stderr=subprocess.PIPE, text=True)
    line = child.stderr.readline()
    assert line.startswith("recording to"), line + child.stderr.read()
    return child


def stopped(child):
    child.send_signal(signal.SIGTERM)
    _, stderr = child.communicate(timeout=60)
    return child.returncode, stderr


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def instead_of(lab, tmp_path, name, script):
    """A program of iptables is another one meanwhile, in the lab alone; ``$REAL`` is the true one."""
    real = lab.run(["sh", "-c", f"command -v {name}"]).stdout.strip()
    place = tmp_path / "bin"
    place.mkdir(exist_ok=True)
    (place / name).write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
    (place / name).chmod(0o755)
    lab.run(["mount", "--bind", str(place), "/usr/local/sbin"])  # root looks there first
    try:
        yield
    finally:
        lab.run(["umount", "--lazy", "/usr/local/sbin"])  # a killed one may still run


@pytest.fixture
def quiet(lab):
    """A lab with its lock file."""
    lab.run(["touch", LOCK])
    return lab


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_list_of_addresses_is_not_let_go(quiet, tmp_path, backend):
    """-m recent keeps its list as long as a rule names it: refused; the list is as before, and blocks."""
    add(quiet, backend, "-A", "OUTPUT", "-m", "comment", "--comment", "a -m recent b")
    assert record(quiet, tmp_path, backend, "--flush").returncode == 0
    add(quiet, backend, "-A", "OUTPUT", "-m", "recent", "--name", "bad", "--rcheck", "-j", "DROP")
    quiet.run(["sh", "-c", "echo +127.0.0.1 > /proc/net/xt_recent/bad"])
    before = rules(quiet, backend)
    done = record(quiet, tmp_path, backend, "--flush")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "rule 2 of OUTPUT" in done.stderr
    assert "its list of addresses goes with it; record without --flush" in done.stderr
    assert rules(quiet, backend) == before
    assert record(quiet, tmp_path, backend).returncode == 0
    assert quiet.run(["cat", "/proc/net/xt_recent/bad"]).stdout.startswith("src=127.0.0.1 ")
    assert quiet.run(["ping", "-c1", "-W1", "127.0.0.1"], check=False).returncode != 0


COUNTING = {
    "limit": "-m limit --limit 1/hour --limit-burst 3",
    "quota": "-m quota --quota 300",
    "hashlimit": "-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 3 --hashlimit-name many",
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [["--flush"], []], ids=["flush", ""])
@pytest.mark.parametrize("name", COUNTING)
def test_what_counts_from_the_beginning_again_is_told(quiet, tmp_path, backend, options, name):
    """Where it does, as packets show: three are matched again; where it does not, nothing is said."""
    add(quiet, backend, "-A", "OUTPUT", "-d", "127.0.0.1", *COUNTING[name].split())
    ping = ["ping", "-q", "-c9", "-i0.01", "127.0.0.1"]
    quiet.run(ping)
    (before,) = rules(quiet, backend)
    assert before.startswith("[3:252]")
    done = record(quiet, tmp_path, backend, *options)
    assert done.returncode == 0
    assert rules(quiet, backend) == [before]
    quiet.run(ping)
    again = not rules(quiet, backend)[0].startswith("[3:252]")
    assert again == (bool(options) or (backend == "legacy" and name != "hashlimit"))
    assert (
        f"count from the beginning again, as at every time that they are loaded: {name}\n"
        in done.stderr
    ) == again


def test_a_quota_of_nft_goes_on(quiet, tmp_path):
    """nf_tables takes back how much of it was used, and nothing is said."""
    add(quiet, "nft", "-A", "OUTPUT", "-d", "127.0.0.1")
    quiet.run(
        ["nft", "add", "rule", "ip", "raw", "OUTPUT", "quota over 1 mbytes used 500 bytes drop"]
    )
    quiet.run(["ping", "-q", "-c3", "-i0.01", "127.0.0.1"])
    before = quiet.run(["nft", "list", "table", "ip", "raw"]).stdout
    assert "used 500 bytes" not in before
    done = record(quiet, tmp_path, "nft", "--flush")
    assert (done.returncode, "from the beginning" in done.stderr) == (0, False)
    assert quiet.run(["nft", "list", "table", "ip", "raw"]).stdout == before


def ipset(what):
    """Create or destroy a set."""
    text = f"from pyroute2 import IPSet\nwith IPSet() as sets: sets.{what}('named')"
    return [sys.executable, "-c", text]


EXTENSIONS = """\
-p tcp -m tcp --tcp-flags SYN,RST SYN -j ACCEPT
-p tcp -m tcp --tcp-option 2
-p tcp -m tcp ! --sport 1:9 --dport 5
-p sctp -m sctp --dport 9 -j DROP
-p udplite -m multiport --dports 80,443 -j DROP
-p udp -m multiport ! --ports 80,443:500
! -p udp -m length --length 1:2000
-p esp -m esp --espspi 1:5 -j DROP
-p icmp -m icmp ! --icmp-type 8 -g mine
-m conntrack --ctstate INVALID
-m conntrack --ctstate NEW,ESTABLISHED --ctproto 6 --ctorigsrc 192.0.2.0/24
-m limit --limit 5/sec -m comment --comment "hello, \\"world\\" -j DROP"
-m string --algo bm --string "x \\"y" --to 100
-m string --algo kmp --hex-string "|00ff|z"
-m quota --quota 1000
-m statistic --mode nth --every 2 --packet 0
-m statistic --mode random --probability 0.3
-m hashlimit --hashlimit-above 5/sec --hashlimit-name many
-m hashlimit --hashlimit-upto 7/min --hashlimit-mode srcip,dstport --hashlimit-name other
-m addrtype --dst-type MULTICAST -j RETURN
-m mark ! --mark 0x1/0xff
-m connmark --mark 0x3
-m dscp --dscp 0x0a
-m tos --tos 0x10/0x3f
-m ttl --ttl-lt 5
-m iprange --src-range 192.0.2.1-192.0.2.9
-m mac --mac-source 02:00:00:00:00:01
-m pkttype --pkt-type broadcast
-m time --timestart 10:00 --timestop 11:30 --weekdays Mon,Fri
-m u32 --u32 "6&0xFF=0x6"
-m bpf --bytecode "4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0"
-m set --match-set named src -j DROP
-m cpu --cpu 0
-m rpfilter --loose
-m socket --transparent
-m owner --uid-owner 7 -j DROP
-f -j DROP
-i lo+ -s 192.0.2.1/255.0.255.0 ! -d 192.0.2.9 -j mine
-o lo -j mine
-j MARK --set-xmark 0x2/0xff
-j CONNMARK --save-mark
-j CT --notrack
-p tcp -j CT --zone 5
-j LOG --log-prefix "one \\"two" --log-level 7
-j NFLOG --nflog-group 5 --nflog-prefix "one two"
-j TEE --gateway 192.0.2.1
-j TTL --ttl-set 9
-j SET --add-set named src --exist
-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1000
-p udp -j TRACE
"""


def test_rules_of_every_kind_come_back(quiet, tmp_path):
    """Of legacy iptables, each of them: it is deleted by what iptables-save printed, and made from it."""
    quiet.run(ipset("create"))
    add(quiet, "legacy", "-N", "mine")
    taken = 0
    for at, rule in enumerate(EXTENSIONS.splitlines()):
        for chain in (
            "PREROUTING",
            "OUTPUT",
        ):  # what this kernel or chain does not know is left out
            text = f"*raw\n[{at}:{at * 9}] -A {chain} {rule}\nCOMMIT\n"
            restore = ["iptables-legacy-restore", "--noflush", "--counters"]
            taken += quiet.run(restore, stdin=text, check=False).returncode == 0
    before = rules(quiet, "legacy")
    assert len(before) == taken > 50
    count = "iptables-legacy-save -t raw | grep -c -e '-A PREROUTING' -e '-A OUTPUT'"
    look = ["sh", "-c", f"echo there: $({count}) >&2"]
    done = record(quiet, tmp_path, "legacy", "--flush", command=look)
    assert done.returncode == 0, done.stderr
    assert "there: 2\n" in done.stderr
    assert rules(quiet, "legacy") == before


def test_thousands_of_rules_come_back(quiet, tmp_path):
    """Of legacy iptables; where the chain of hundreds is gone, the others do."""
    kept = [f"[{n}:1] -A OUTPUT -d 10.0.{n >> 8}.{n & 255}/32" for n in range(3000)]
    lost = [f"[{n}:1] -A OUTPUT -p udp -m udp --dport {n + 1} -j mine" for n in range(300)]
    lines = "\n".join(["*raw", ":mine - [0:0]", *kept, *lost, "COMMIT", ""])
    quiet.run(["iptables-legacy-restore", "-c"], stdin=lines)
    before = rules(quiet, "legacy")
    done = record(quiet, tmp_path, "legacy", "--flush")
    assert done.returncode == 0, done.stderr
    assert rules(quiet, "legacy") == before
    done = record(
        quiet, tmp_path, "legacy", "--flush", command=["iptables-legacy", "-w", "-t", "raw", "-X"]
    )
    assert (done.returncode, "(300 rules)" in done.stderr) == (2, True), done.stderr
    assert rules(quiet, "legacy") == kept


def test_a_rule_whose_set_is_gone(quiet, tmp_path):
    """It stays out alone, the user's own TRACE rule included, and comes back with its set."""
    quiet.run(ipset("create"))
    for rule in ("-d 192.0.2.1", "-m set --match-set named dst -j TRACE", "-d 192.0.2.2"):
        add(quiet, "legacy", "-A", "OUTPUT", *rule.split())
    before = rules(quiet, "legacy")
    done = record(quiet, tmp_path, "legacy", "--flush", command=ipset("destroy"))
    assert (done.returncode, "(1 rule)" in done.stderr) == (2, True), done.stderr
    assert rules(quiet, "legacy") == [before[0], before[2]]
    again = quiet.run([*CLEANUP, "--restore"], check=False)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "make the chains and sets that they name" in again.stderr
    quiet.run(ipset("create"))
    assert quiet.run([*CLEANUP, "--restore"]).stdout.endswith(": removed\n")
    assert rules(quiet, "legacy") == [before[0], before[2], before[1]]


def test_a_rule_that_the_kernel_refuses(quiet, tmp_path):
    """It does not say which one: none goes back by itself, and cleanup --restore appends the others."""
    user = ["[1:10] -A PREROUTING -s 192.0.2.1/32 -j DROP", "[2:20] -A PREROUTING -j mine"]
    lines = "\n".join(["*raw", ":mine - [0:0]", *user, "COMMIT", ""])
    quiet.run(["iptables-legacy-restore", "-c"], stdin=lines)
    child = recording(quiet, tmp_path, "--flush")
    add(quiet, "legacy", "-A", "mine", "-m", "owner", "--uid-owner", "7")  # not in PREROUTING
    status, stderr = stopped(child)
    assert (status, "(2 rules)" in stderr) == (2, True)
    again = quiet.run([*CLEANUP, "--restore"], check=False)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert f"the kernel refuses 1 rule of the ipv4 raw table, such as `{user[1]}`" in again.stderr
    owner = "[0:0] -A mine -m owner --uid-owner 7"
    assert rules(quiet, "legacy") == [user[0], owner]
    add(quiet, "legacy", "-F", "mine")
    assert quiet.run([*CLEANUP, "--restore"]).stdout.endswith(": removed\n")
    assert rules(quiet, "legacy") == user


def test_a_rule_of_somebody_without_the_lock_stays(quiet, tmp_path):
    """He adds it after we looked: what we looked at is deleted, one by one, and nothing else."""
    user = "-A OUTPUT -d 192.0.2.1/32 -j DROP"
    add(quiet, "legacy", *user.split())
    added = user.replace("2.1", "2.2")
    script = f"""\
if [ -e {tmp_path}/on ]; then
    rm {tmp_path}/on
    XTABLES_LOCKFILE=/proc/self/environ iptables-legacy -t raw {added}
fi
exec $REAL "$@"
"""
    (tmp_path / "on").touch()
    with instead_of(quiet, tmp_path, "iptables-legacy-restore", script):
        done = record(quiet, tmp_path, "legacy", "--flush")
    assert done.returncode == 0
    assert not (tmp_path / "on").exists()
    assert rules(quiet, "legacy") == [f"[0:0] {user}", f"[0:0] {added}"]


def test_a_rule_that_iptables_does_not_find_again(quiet, tmp_path):
    """As it happens to connlimit: it is named, and nothing is changed."""
    add(quiet, "legacy", "-A", "OUTPUT", "-d", "192.0.2.1", "-j", "DROP")
    add(quiet, "legacy", "-A", "OUTPUT", "-m", "connlimit", "--connlimit-above", "5")
    before = rules(quiet, "legacy")
    done = record(quiet, tmp_path, "legacy", "--flush")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "does not take `-D OUTPUT -m connlimit --connlimit-above 5" in done.stderr
    assert done.stderr.endswith("; record without --flush\n")
    assert rules(quiet, "legacy") == before


def free(lab):
    """Whether nobody has the lock."""
    return lab.run(["flock", "-n", LOCK, "true"], check=False).returncode == 0


@pytest.mark.parametrize("end", ["TERM", "KILL"])
def test_the_lock_is_held_from_the_look_to_the_deed(quiet, tmp_path, end):
    """Killed in between: as long as iptables-restore is at work. Then the guardian undoes it."""
    add(quiet, "legacy", "-A", "OUTPUT", "-d", "192.0.2.1", "-j", "DROP")
    before = rules(quiet, "legacy")
    script = f"""\
[ -e {tmp_path}/begun ] || {{ touch {tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; }}
exec $REAL "$@"
"""
    options = ["-o", str(tmp_path / "t.db"), "--backend", "legacy", "--flush"]
    with instead_of(quiet, tmp_path, "iptables-legacy-restore", script):
        child = quiet.popen([*IPTREC, "record", *options], stderr=subprocess.PIPE, text=True)
        until((tmp_path / "begun").exists)
        assert not free(quiet)
        if end == "KILL":
            child.kill()
            child.communicate()
            assert not free(quiet)
        (tmp_path / "go").touch()
        if end == "TERM":
            assert child.stderr.readline().startswith("recording to")
            assert free(quiet)
            assert stopped(child)[0] == 0
        until(lambda: rules(quiet, "legacy") == before)
    until(lambda: quiet.run(CLEANUP).stdout == "nothing is left behind\n")
    assert rules(quiet, "legacy") == before


@pytest.mark.parametrize("other", [False, True], ids=["", "XTABLES_LOCKFILE"])
def test_a_lock_that_cannot_be_had(quiet, tmp_path, other):
    """Somebody keeps it: told after ten seconds, and nothing is changed; somebody's other one is left alone."""
    add(quiet, "legacy", "-A", "OUTPUT", "-d", "192.0.2.1", "-j", "DROP")
    before = rules(quiet, "legacy")
    path = f"{tmp_path}/lock" if other else LOCK
    held = ["flock", path, "sh", "-c", "echo held; read _"]
    holder = quiet.popen(held, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    done = record(quiet, tmp_path, "legacy", "--flush")
    assert done.returncode == (0 if other else 2)
    if other:
        done = quiet.run(["env", f"XTABLES_LOCKFILE={path}", *done.args], check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"holds the xtables lock for more than 10 s; find it with: fuser {path}\n" in done.stderr
    holder.communicate("\n")
    assert rules(quiet, "legacy") == before


@pytest.mark.alone
def test_what_we_do_under_the_lock_is_not_somebodys_change(quiet, tmp_path):
    """Somebody deletes our rules, we put them back: no state of the table is told as one that nobody saw."""
    add(quiet, "legacy", "-A", "OUTPUT", "-d", "192.0.2.1", "-j", "DROP")
    child = recording(quiet, tmp_path, "--flush")
    add(quiet, "legacy", "-D", "OUTPUT", "1")
    assert "put back" in child.stderr.readline()
    assert stopped(child)[0] == 0
    with Reader(tmp_path / "t.db") as reader:
        kinds = [one.kind for one in reader.snapshots()]
    assert "iptables-unknown" not in kinds
    assert kinds.count("iptables-save") >= 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_comment_with_what_ends_lines_elsewhere(quiet, tmp_path, backend):
    """Unicode has line ends that iptables knows nothing of, and blanks that its names may hold."""
    comment = "a\u2028b\x85c\u2009d"
    add(quiet, backend, "-N", "e\u2009f")
    add(quiet, backend, "-A", "PREROUTING", "-m", "comment", "--comment", comment, "-j", "e\u2009f")
    saved = [f"iptables-{backend}-save", "-t", "raw"]
    before = [one for one in quiet.run(saved).stdout.split("\n") if one[:1] != "#"]
    assert "u2009" in ascii(before)
    done = record(quiet, tmp_path, backend, "--flush")
    assert (done.returncode, "PREROUTING" in done.stderr) == (0, False), done.stderr
    assert [one for one in quiet.run(saved).stdout.split("\n") if one[:1] != "#"] == before
