"""Whatever ends a recorder: what it did is undone, by itself, its guardian or cleanup, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import recorder
from command import IPTREC, iptrec
from recorder import guardians, proc, processes, until
from warm import ALONE

from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

# It sees the namespaces of the lab alone: others on this machine may be at work in theirs.
CLEANUP = (*ALONE, *IPTREC, "cleanup")
KILLS = int(os.environ.get("IPTREC_KILLS", "6"))  # for each backend
RAW = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
[7:700] -A PREROUTING -s 192.0.2.1/32 -j NOTRACK
[3:300] -A OUTPUT -d 192.0.2.9/32 -j DROP
COMMIT
"""
# Of the IPv4 raw table of iptables-nft half is there.
NFT = """\
table inet fw {
	chain forwarded { type filter hook forward priority filter; policy accept; counter; }
}
table ip raw {
	chain OUTPUT {
		type filter hook output priority raw; policy accept;
		ip daddr 192.0.2.9 counter packets 3 bytes 300 drop;
		ip daddr 192.0.2.10 counter packets 4 bytes 400 drop;
	}
}
"""
STATE = (
    "iptables-legacy-save -c; ip6tables-legacy-save -c; nft list ruleset;"
    " cat /proc/sys/net/netfilter/nf_log/2 /proc/sys/net/netfilter/nf_log/10; ls -A /run"
)


def state(lab):
    """Rules with counters, loggers, and what is in /run."""
    found = lab.run(["sh", "-c", STATE]).stdout
    return [line for line in found.splitlines() if line[:1] not in {"#", ":"}]


def rules(lab):
    """Rules alone."""
    return [line for line in state(lab) if "-A" in line]


@pytest.fixture
def quiet_lab(lab):
    """Rules of its own in the raw tables, and everything loaded that a recording loads."""
    lab.run(["touch", "/run/xtables.lock"])
    ipv6 = RAW.replace("192.0.2.", "fd00::").replace("/32", "/128")
    lab.run(["iptables-legacy-restore", "-c"], stdin=RAW)
    lab.run(["ip6tables-legacy-restore", "-c"], stdin=ipv6)
    lab.run(["nft", "-f", "-"], stdin=NFT)
    lab.run(["ip6tables-nft-restore", "-c"], stdin=ipv6)
    return lab


def start(lab, path, *options, backend="legacy"):
    command = [*IPTREC, "record", "-o", str(path), "--backend", backend, *options]
    return lab.popen(command, stderr=subprocess.PIPE, text=True)


def recording(lab, path, *options, backend="legacy"):
    """One that records."""
    return recorder.start(lab, "-o", path, "--backend", backend, *options)


def stopped(child, number=signal.SIGTERM):
    """End a recorder; its exit status and what it said."""
    child.send_signal(number)
    _, stderr = child.communicate(timeout=60)
    return child.returncode, stderr


def clean(lab):
    """After the guardian's death: everything is undone, and a second look finds nothing."""
    lab.run(CLEANUP)
    again = lab.run([*CLEANUP])
    assert again.stdout == "nothing is left behind\n"


@pytest.mark.timeout(120 + 20 * KILLS)
@pytest.mark.parametrize("backend", ["legacy", "nft", "both"])
def test_killed_at_any_moment(quiet_lab, tmp_path, backend):
    """SIGKILL in set-up, recording and clean-up, in half of the rounds of the guardian as well.

    Rules, counters, loggers and /run are as before, nobody is left, and cleanup finds nothing.
    """
    before, alive = state(quiet_lab), processes(quiet_lab)
    started = time.monotonic()
    child = recording(quiet_lab, tmp_path / "t.db", "--flush", backend=backend)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert processes(quiet_lab) == alive
    assert state(quiet_lab) == before
    whole = time.monotonic() - started
    for number in range(KILLS):
        options = random.choice(([], ["--flush"], ["--conntrack"], ["--flush", "--conntrack"]))  # noqa: S311
        child = start(
            quiet_lab, tmp_path / f"{number}.db", "--duration", "50ms", *options, backend=backend
        )
        moment = random.uniform(0, 1.3 * whole)  # noqa: S311
        time.sleep(moment)  # the moment to kill is what is tested, nothing is waited for
        if number % 2:
            child.send_signal(signal.SIGSTOP)  # it would start another one
        guardian = [pid for pid in guardians(quiet_lab) if number % 2]
        for pid in guardian:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.kill()
        child.communicate()
        what = f"{backend} {options} killed after {moment:.3f} s, {len(guardian)} guardians with it"
        until(lambda: processes(quiet_lab) == alive, lambda what=what: what)
        if guardian:
            clean(quiet_lab)
        assert state(quiet_lab) == before, what
        for path in tmp_path.glob(f"{number}.db"):
            done = iptrec("info", "--json", str(path))
            assert done.returncode in {0, 2}
            assert "Traceback" not in done.stderr
    clean(quiet_lab)


def test_what_was_recorded_is_kept(quiet_lab, tmp_path):
    """The file opens, and says that it was cut off."""
    child = recording(quiet_lab, tmp_path / "t.db", "icmp")
    quiet_lab.run(["ping", "-c3", "-i0.2", "127.0.0.1"])

    def datagrams():
        with Reader(tmp_path / "t.db") as reader:
            return sum(len(chunk.lengths) for chunk in reader.chunks())

    until(lambda: datagrams() >= 18, datagrams)
    child.kill()
    child.communicate()
    told = json.loads(iptrec("info", "--json", str(tmp_path / "t.db")).stdout)
    assert not told["closed"]
    assert told["packets"] >= 8


def xtables_locked(lab):
    """Who holds the lock of iptables until he is told a line."""
    command = ["flock", "/run/xtables.lock", "sh", "-c", "echo held; read _"]
    holder = lab.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


def test_the_guardian_waits_for_a_change_under_way(quiet_lab, tmp_path):
    """Killed while iptables-restore waits for the lock: what it then does is undone as well."""
    before, alive = state(quiet_lab), processes(quiet_lab)
    holder = xtables_locked(quiet_lab)
    alive |= {holder.pid} | processes(quiet_lab)
    child = start(quiet_lab, tmp_path / "t.db")

    def restoring():
        return any(
            proc(pid, "comm").startswith("iptables-legac") for pid in processes(quiet_lab) - alive
        )

    until(restoring, lambda: processes(quiet_lab))
    child.kill()
    child.communicate()
    holder.communicate("\n")
    until(lambda: processes(quiet_lab) <= alive, lambda: processes(quiet_lab))
    assert state(quiet_lab) == before


def has_a_list(pid):
    """Whether a process has a recorder's list of changes open."""
    with contextlib.suppress(OSError):
        files = [os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir()]  # noqa: PTH115
        return any(one.startswith("/run/iptrec/") for one in files)
    return False


def test_cleanup_waits_for_a_change_under_way(quiet_lab, tmp_path):
    """The same where the guardian was killed as well: what iptables still does is taken away."""
    before, alive = state(quiet_lab), processes(quiet_lab)
    holder = xtables_locked(quiet_lab)
    alive |= {holder.pid} | processes(quiet_lab)
    child = start(quiet_lab, tmp_path / "t.db")

    def restoring():
        commands = [proc(pid, "cmdline") for pid in processes(quiet_lab) - alive]
        return any("-restore" in one and "--noflush" in one for one in commands)

    until(restoring, lambda: processes(quiet_lab))
    child.send_signal(signal.SIGSTOP)
    for pid in guardians(quiet_lab):
        os.kill(pid, signal.SIGKILL)
    child.kill()
    child.communicate()
    others = processes(quiet_lab)
    cleanup = quiet_lab.popen(CLEANUP, stdout=subprocess.PIPE, text=True)

    def waits():
        assert cleanup.poll() is None, cleanup.communicate()
        return any(map(has_a_list, processes(quiet_lab) - others))

    until(waits)
    holder.communicate("\n")
    told, _ = cleanup.communicate(timeout=60)
    assert "): removed" in told
    until(lambda: processes(quiet_lab) <= alive, lambda: processes(quiet_lab))
    assert state(quiet_lab) == before


def test_nothing_is_put_back_that_somebody_replaced(quiet_lab, tmp_path):
    """--flush took rules out, somebody loads others, then we are killed: those others stay, alone."""
    child = recording(quiet_lab, tmp_path / "t.db", "--flush", "--family", "ipv4")
    other = "*raw\n-A PREROUTING -s 192.0.2.77/32 -j NOTRACK\nCOMMIT\n"
    quiet_lab.restore(None, "ipv4", other)
    assert "put back" in child.stderr.readline()
    child.kill()
    child.communicate()
    saved = ["iptables-legacy-save", "-t", "raw"]
    until(lambda: "TRACE" not in quiet_lab.run(saved).stdout, lambda: quiet_lab.run(saved).stdout)
    rules = [line for line in quiet_lab.run(saved).stdout.splitlines() if line.startswith("-A")]
    assert rules == ["-A PREROUTING -s 192.0.2.77/32 -j NOTRACK"]


def at_work(pid):
    """The children of a process that have not ended."""
    found = set()
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for one in map(int, listed.read_text().split()):
            if proc(one, "stat").rpartition(")")[2].split()[:1] not in ([], ["Z"]):
                found.add(one)
    return found


def stopped_alone(child, guardian):
    """Whether the recorder is stopped while nobody works for it.

    An iptables that it has just started would put rules in place after it, and may wait for what it writes.
    """
    child.send_signal(signal.SIGSTOP)
    until(lambda: proc(child.pid, "stat").rpartition(")")[2].split()[0] == "T")
    alone = at_work(child.pid) <= {guardian}
    if not alone:
        child.send_signal(signal.SIGCONT)
    return alone


def kill_both(lab, child):
    """The recorder and its guardian, which it would start again."""
    (guardian,) = guardians(lab)
    until(lambda: stopped_alone(child, guardian), lambda: at_work(child.pid))
    os.kill(guardian, signal.SIGKILL)
    child.kill()
    child.communicate()


@pytest.mark.parametrize("backend", ["legacy", "both"])
@pytest.mark.parametrize("listed", [True, False], ids=["", "without-its-list"])
def test_cleanup(quiet_lab, tmp_path, listed, backend):
    """Guardian killed as well: cleanup tells what is left, and takes that away, nobody else's."""
    quiet_lab.host("other")
    before = state(quiet_lab)
    other = recording(quiet_lab, tmp_path / "other.db", "--netns", "other")
    options = ["--flush"] if listed else []
    kill_both(quiet_lab, recording(quiet_lab, tmp_path / "t.db", *options, backend=backend))
    if not listed:
        quiet_lab.run(["sh", "-c", "rm $(grep -l /t.db /run/iptrec/*)"])
    left = state(quiet_lab)
    assert left != before
    told = quiet_lab.run([*CLEANUP, "--dry-run"]).stdout.splitlines()
    fates = sorted(line.rpartition("): ")[2].split(":")[0] for line in told)
    assert fates == ["found", "kept"]
    assert state(quiet_lab) == left
    done = quiet_lab.run(CLEANUP).stdout.splitlines()
    (removed,) = [line for line in done if ": removed" in line]
    assert removed.endswith("): removed") == listed
    assert ("if it recorded in a container" in removed) != listed
    assert len([line for line in done if "kept" in line]) == 1
    raw = ["nsenter", "--net=/run/netns/other", "iptables-legacy-save", "-t", "raw"]
    assert quiet_lab.run(raw).stdout.count("-j TRACE") == 2
    other.send_signal(signal.SIGINT)
    other.communicate(timeout=30)
    assert other.returncode == 0
    if listed:
        assert state(quiet_lab) == before
    else:  # nobody knows any more which loggers there were
        assert rules(quiet_lab) == [line for line in before if "-A" in line]
    assert quiet_lab.run(CLEANUP).stdout == "nothing is left behind\n"


def test_cleanup_from_outside_of_a_container(quiet_lab, tmp_path):
    """The rules go; the rest is in the list of the other /run: cleanup says so, and does it there."""
    before = rules(quiet_lab)
    kill_both(quiet_lab, recording(quiet_lab, tmp_path / "t.db", "--flush"))
    outside = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run; exec "$@"', "sh")
    done = quiet_lab.run([*outside, *CLEANUP])
    assert "if it recorded in a container, run iptrec cleanup there as well" in done.stdout
    assert not [line for line in rules(quiet_lab) if "TRACE" in line]
    assert rules(quiet_lab) != before
    clean(quiet_lab)
    assert rules(quiet_lab) == before


def command(family, backend):
    return f"{'iptables' if family == 'ipv4' else 'ip6tables'}-{backend}"


def chains(lab, backend, family="ipv4"):
    """The raw table's rules with counters."""
    saved = lab.run([f"{command(family, backend)}-save", "-c", "-t", "raw"]).stdout
    return [line for line in saved.splitlines() if line.startswith("[")]


def bare(lines):
    """Rules without their counters."""
    return [line.partition("] ")[2] for line in lines]


def delete(lab, backend, family, gone):
    """Our rule alone, which is the first one while --flush has taken the others out."""
    lines = "".join(f"-D {chain} 1\n" for chain in gone)
    restore = [f"{command(family, backend)}-restore", "-w", "10", "--noflush"]
    lab.run(restore, stdin=f"*raw\n{lines}COMMIT\n")


GONE = {
    "one-chain": {"ipv4": ["OUTPUT"]},
    "one-family": {"ipv6": ["OUTPUT", "PREROUTING"]},
    "all": {"ipv4": ["OUTPUT", "PREROUTING"], "ipv6": ["PREROUTING", "OUTPUT"]},
}


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize("end", ["TERM", "KILL", "cleanup"])
@pytest.mark.parametrize(
    ("options", "gone"),
    [*((["--flush"], one) for one in GONE), ([], "all")],
    ids=[*GONE, "no-flush"],
)
def test_our_rules_that_somebody_deletes_take_nothing_along(
    raw_lab, tmp_path, backend, end, gone, options
):
    """Rules and counters of the user are as before, whether ours were put back in between or not."""
    before, alive = state(raw_lab), processes(raw_lab)
    for wait in (True, False):
        child = recording(raw_lab, tmp_path / f"{wait}.db", *options, backend=backend)
        for family, deleted in GONE[gone].items():
            delete(raw_lab, backend, family, deleted)
        for _ in GONE[gone] if wait else ():
            assert "put back" in child.stderr.readline()
        if wait:
            until(lambda: len(ours(raw_lab, backend)) == 4, lambda: ours(raw_lab, backend))
        if end == "TERM":
            assert stopped(child)[0] == 0
        elif end == "KILL":
            child.kill()
            child.communicate()
            until(lambda: processes(raw_lab) == alive, lambda: processes(raw_lab))
        else:
            kill_both(raw_lab, child)
            clean(raw_lab)
        assert state(raw_lab) == before


def ours(lab, backend):
    return [
        line
        for family in ("ipv4", "ipv6")
        for line in chains(lab, backend, family)
        if line.endswith("-j TRACE")
    ]


@pytest.fixture
def raw_lab(quiet_lab):
    """The same raw table in both chains, families and backends."""
    quiet_lab.run(["iptables-nft-restore", "-c"], stdin=RAW)
    return quiet_lab


OTHER = "*raw\n-A OUTPUT -p tcp -j ACCEPT\nCOMMIT\n"
TAKEN = [
    "[7:700] -A PREROUTING -s 192.0.2.1/32 -j NOTRACK",
    "[3:300] -A OUTPUT -d 192.0.2.9/32 -j DROP",
]
LISTED = [
    "PREROUTING ip saddr 192.0.2.1 counter packets 7 bytes 700 notrack",
    "OUTPUT ip daddr 192.0.2.9 counter packets 3 bytes 300 drop",
]


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize("end", ["TERM", "KILL", "cleanup"])
@pytest.mark.parametrize("choice", ["--restore", "--discard"])
def test_what_cannot_be_put_back_is_kept_and_told(raw_lab, tmp_path, backend, end, choice):
    """Somebody replaces the raw table under --flush: his stands, and cleanup has what was there before."""
    alive = processes(raw_lab)
    child = recording(raw_lab, tmp_path / "t.db", "--flush", "--family", "ipv4", backend=backend)
    raw_lab.restore(None, "ipv4", OTHER, backend)
    assert "put back" in child.stderr.readline()
    if end == "TERM":
        status, stderr = stopped(child)
        assert (status, stderr.count("\n")) == (2, 1)
        assert "was not put back (2 rules)" in stderr
        assert "iptrec cleanup --restore" in stderr
    elif end == "KILL":
        child.kill()
        child.communicate()
        until(lambda: processes(raw_lab) == alive, lambda: processes(raw_lab))
    else:
        kill_both(raw_lab, child)
    for _ in range(2):
        told = raw_lab.run(CLEANUP, check=False)
        assert told.returncode == 1
        printed = [line.partition(": ")[2] for line in told.stdout.splitlines()[1:]]
        assert [" ".join(line.split()) for line in printed] == (
            TAKEN if backend == "legacy" else LISTED
        )
        assert chains(raw_lab, backend) == ["[0:0] -A OUTPUT -p tcp -j ACCEPT"]
    assert raw_lab.run([*CLEANUP, choice]).stdout.endswith(": removed\n")
    back = TAKEN if choice == "--restore" else [None, None]
    there = [back[0], "[0:0] -A OUTPUT -p tcp -j ACCEPT", back[1]]
    assert chains(raw_lab, backend) == [line for line in there if line]
    assert raw_lab.run(CLEANUP).stdout == "nothing is left behind\n"


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_a_chain_that_somebody_empties_is_filled_again(raw_lab, tmp_path, backend):
    """Whether he emptied it or deleted our rule cannot be told apart: nothing is lost."""
    before = state(raw_lab)
    child = recording(raw_lab, tmp_path / "t.db", "--flush", backend=backend)
    raw_lab.run([command("ipv4", backend), "-w", "-t", "raw", "-F", "OUTPUT"])
    assert stopped(child)[0] == 0
    assert state(raw_lab) == before


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_rules_that_somebody_adds_stay_where_he_put_them(raw_lab, tmp_path, backend):
    """Under --flush: the first stays the first, the last the last, and ours were between them."""
    child = recording(raw_lab, tmp_path / "t.db", "--flush", "--family", "ipv4", backend=backend)
    add = [command("ipv4", backend), "-w", "-t", "raw"]
    raw_lab.run([*add, "-I", "OUTPUT", "1", "-p", "tcp", "-j", "ACCEPT"])
    raw_lab.run([*add, "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT"])
    assert stopped(child)[0] == 0
    first, last = (f"[0:0] -A OUTPUT -p {one} -j ACCEPT" for one in ("tcp", "udp"))
    assert chains(raw_lab, backend) == [TAKEN[0], first, TAKEN[1], last]


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_rules_that_somebody_loads_again_do_not_come_twice(raw_lab, tmp_path, backend):
    """Under --flush a firewall is reloaded: its rules are there, and nothing has to be told."""
    child = recording(raw_lab, tmp_path / "t.db", "--flush", "--family", "ipv4", backend=backend)
    raw_lab.restore(None, "ipv4", RAW, backend)
    assert stopped(child)[0] == 0
    assert bare(chains(raw_lab, backend)) == bare(TAKEN)


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_rules_whose_chain_is_gone_stay_out(raw_lab, tmp_path, backend):
    """Under --flush somebody deletes a chain that one jumped to: that one stays out alone, and is told."""
    rules = RAW.replace("COMMIT", "-A OUTPUT -j mine\nCOMMIT").replace("[7", ":mine - [0:0]\n[7")
    raw_lab.restore(None, "ipv4", rules, backend)
    child = recording(raw_lab, tmp_path / "t.db", "--flush", "--family", "ipv4", backend=backend)
    raw_lab.run([command("ipv4", backend), "-w", "-t", "raw", "-X", "mine"])
    status, stderr = stopped(child)
    assert (status, "(1 rule)" in stderr) == (2, True)
    assert bare(chains(raw_lab, backend)) == bare(TAKEN)
    assert raw_lab.run(CLEANUP, check=False).stdout.count("OUTPUT") == 1
    again = raw_lab.run([*CLEANUP, "--restore"], check=False)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "the kernel refuses 1 rule" in again.stderr
    assert raw_lab.run(CLEANUP, check=False).stdout.count("OUTPUT") == 1
    raw_lab.run([command("ipv4", backend), "-w", "-t", "raw", "-N", "mine"])
    raw_lab.run([*CLEANUP, "--restore"])
    assert bare(chains(raw_lab, backend)) == bare([*TAKEN, "[0:0] -A OUTPUT -j mine"])


NATIVE = """\
{ip} saddr {a}1-{a}9 counter packets 7 bytes 70
{ip} saddr < {a}4 counter packets 1 bytes 40 accept
{ip} daddr {a}4 drop
{ip} daddr {a}4 drop comment "hello, { you }"
{ip} daddr @named counter packets 2 bytes 80 drop
udp dport vmap @fates
update @seen { {ip} saddr }
{icmp} type != echo-request drop
meta l4proto 6-17 counter packets 3 bytes 120
udp length 50 drop
tcp flags & (syn | rst) == syn counter packets 4 bytes 160 limit rate 5/second
counter packets 5 bytes 200 counter packets 6 bytes 240
counter name kept
continue
jump mine
quota over 1 mbytes used 500 bytes drop
numgen inc mod 2 == 1 meta mark set 0x1
iifname "lo" udp dport 9 notrack
log prefix "one two" group 7
add @seen { {ip} saddr limit rate 5/second }
update @late { {ip} saddr timeout 1m }
tcp option maxseg size set 1000
"""
EXTENSIONS = """\
-p tcp -m tcp --tcp-flags SYN,RST SYN -j ACCEPT
-p tcp -m tcp --tcp-option 2
-p tcp -m tcp ! --sport 1:9 --dport 5
-p sctp -m sctp --dport 9 -j DROP
-p udplite -m multiport --dports 80,443 -j DROP
-p udp -m multiport ! --ports 80,443:500
! -p udp -m length --length 1:2000
-p esp -m esp --espspi 1:5 -j DROP
-m conntrack --ctstate INVALID
-m limit --limit 5/sec -m comment --comment "hello, world"
-m string --algo bm --string x --to 100
-m quota --quota 1000
-m statistic --mode nth --every 2 --packet 0
-m hashlimit --hashlimit-above 5/sec --hashlimit-name many
-m addrtype --dst-type MULTICAST -j RETURN
-m mark ! --mark 0x1/0xff
-j MARK --set-xmark 0x2/0xff
-p tcp -j CT --notrack
-p tcp -j CT --zone 5
-p udp -j TRACE
-j NFLOG --nflog-group 5 --nflog-prefix "one two"
"""
ONLY_OUT = """\
-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1000
-m owner --uid-owner 7 -j DROP
"""
OBJECTS = """\
table {ip} raw {
  set named { type {ip}v4_addr; elements = { {a}7 }; }
  set seen { type {ip}v4_addr; flags dynamic; size 9; }
  set late { type {ip}v4_addr; flags dynamic,timeout; size 9; }
  map fates { type inet_service : verdict; elements = { 9 : drop }; }
  counter kept { packets 8 bytes 320; }
  chain mine { counter packets 9 bytes 360; }
}
"""


def of_family(text, family):
    """A text of nft's with the words of a family."""
    if family == "ipv4":
        words = {"{ip}v4": "ipv4", "{ip}": "ip", "{icmp}": "icmp", "{a}": "192.0.2."}
    else:
        words = {"{ip}v4": "ipv6", "{ip}": "ip6", "{icmp}": "icmpv6", "{a}": "fd00::"}
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text


@pytest.fixture
def rich_lab(quiet_lab):
    """All kinds of rules, nft's own and those of iptables-nft, in both chains and families, with counters."""
    for family in ("ipv4", "ipv6"):
        name = of_family("{ip} raw", family)
        quiet_lab.run(["nft", "-f", "-"], stdin=of_family(OBJECTS, family))
        for chain in ("PREROUTING", "OUTPUT"):
            for rule in (EXTENSIONS + (ONLY_OUT if chain == "OUTPUT" else "")).splitlines():
                restore = [f"{command(family, 'nft')}-restore", "--noflush"]
                quiet_lab.run(restore, stdin=f"*raw\n-A {chain} {rule}\nCOMMIT\n")
            for rule in of_family(NATIVE, family).splitlines():
                quiet_lab.run(["nft", "add", "rule", *name.split(), chain, rule])
    quiet_lab.run(["ping", "-c2", "-i0.2", "-W1", "127.0.0.1"], check=False)
    quiet_lab.run(["ping", "-c2", "-i0.2", "-W1", "::1"], check=False)
    return quiet_lab


def raw_chain(lab, family, chain):
    """Its rules as nft lists them."""
    listed = lab.run(["nft", "list", "chain", *of_family("{ip} raw", family).split(), chain]).stdout
    return [line.strip() for line in listed.splitlines() if line.startswith("\t\t")][1:]


@pytest.mark.parametrize("end", ["TERM", "KILL", "cleanup"])
def test_rules_of_nf_tables_come_back_as_the_kernel_had_them(rich_lab, tmp_path, end):
    """Whoever made them: their matches, order, comments, counters, quotas."""
    before, alive = state(rich_lab), processes(rich_lab)
    counted = [line for line in before if "counter packets" in line and " packets 0 " not in line]
    assert len(counted) > 60
    child = recording(rich_lab, tmp_path / "t.db", "--flush", backend="nft")
    for family in ("ipv4", "ipv6"):
        for chain in ("PREROUTING", "OUTPUT"):
            (only,) = raw_chain(rich_lab, family, chain)
            assert "nftrace set 1" in only
    if end == "TERM":
        assert stopped(child)[0] == 0
    elif end == "KILL":
        child.kill()
        child.communicate()
        until(lambda: processes(rich_lab) == alive, lambda: processes(rich_lab))
    else:
        kill_both(rich_lab, child)
        clean(rich_lab)
    assert state(rich_lab) == before
    with Reader(tmp_path / "t.db") as reader:
        kept = [one for one in reader.snapshots() if one.kind == "raw-table"]
    lines = [line for one in kept for line in json.loads(one.content)]
    assert any('comment "hello, { you }"' in line for line in lines)


def test_a_rule_that_became_impossible_stays_out_alone(lab, tmp_path):
    """Under --flush somebody adds to the chain that it jumps to what must not be reached from there."""
    lab.run(["touch", "/run/xtables.lock"])
    raw = "chain mine { }\n chain OUTPUT { type filter hook output priority raw;"
    rules = ["ip daddr 192.0.2.1 drop", "jump mine", "ip daddr 192.0.2.2 drop"]
    lab.run(["nft", "-f", "-"], stdin=f"table ip raw {{ {raw} {';'.join(rules)}; }}\n }}")
    child = recording(lab, tmp_path / "t.db", "--flush", "--family", "ipv4", backend="nft")
    lab.run(["nft", "add", "rule", "ip", "raw", "mine", "masquerade"])
    status, stderr = stopped(child)
    assert (status, "(1 rule)" in stderr) == (2, True)
    assert raw_chain(lab, "ipv4", "OUTPUT") == [rules[0], rules[2]]
    assert lab.run(CLEANUP, check=False).stdout.endswith(": OUTPUT jump mine\n")
    lab.run(["nft", "flush", "chain", "ip", "raw", "mine"])
    lab.run([*CLEANUP, "--restore"])
    assert raw_chain(lab, "ipv4", "OUTPUT") == [rules[0], rules[2], rules[1]]


def test_thousands_of_rules_come_back(quiet_lab, tmp_path):
    """In one piece; and where hundreds of them cannot, the others do."""
    rules = [f"ip daddr 10.0.{n >> 8}.{n & 255} counter packets {n} bytes 1" for n in range(3000)]
    rules += [f"udp dport {n + 1} jump mine" for n in range(500)]
    quiet_lab.run(["nft", "add", "chain", "ip", "raw", "mine"])
    quiet_lab.run(
        ["nft", "-f", "-"], stdin="".join(f"add rule ip raw OUTPUT {one}\n" for one in rules)
    )
    before = state(quiet_lab)
    child = recording(quiet_lab, tmp_path / "t.db", "--flush", "--family", "ipv4", backend="nft")
    assert stopped(child)[0] == 0
    assert state(quiet_lab) == before
    child = recording(quiet_lab, tmp_path / "u.db", "--flush", "--family", "ipv4", backend="nft")
    quiet_lab.run(["nft", "delete", "chain", "ip", "raw", "mine"])
    status, stderr = stopped(child)
    assert (status, "(500 rules)" in stderr) == (2, True)
    assert len(raw_chain(quiet_lab, "ipv4", "OUTPUT")) == 2 + 3000


NAMELESS = {
    "set": (
        "a set without a name",
        "ip saddr { 192.0.2.7, 192.0.2.9 } counter packets 7 bytes 70 drop",
    ),
    "map": ("a map without a name", "udp dport vmap { 7 : drop, 9 : accept }"),
    "chain": (
        "a chain without a name",
        "udp dport 9 counter packets 7 bytes 70 jump { tcp dport 7 drop; }",
    ),
    "meter": ("what it refers to", "meter many { ip saddr limit rate 5/second }"),
}


@pytest.mark.parametrize("kind", NAMELESS)
def test_what_would_die_with_its_rule_is_not_taken_out(quiet_lab, tmp_path, kind):
    """A set or chain without a name, a meter: refused before anything is changed; recorded without --flush."""
    quiet_lab.run(["nft", "add", "rule", "ip", "raw", "OUTPUT", NAMELESS[kind][1]])
    before, alive = state(quiet_lab), processes(quiet_lab)
    child = start(quiet_lab, tmp_path / "f.db", "--flush", backend="nft")
    _, stderr = child.communicate(timeout=30)
    assert (child.returncode, stderr.count("\n")) == (2, 1)
    assert "rule 3 of OUTPUT" in stderr
    assert f"{NAMELESS[kind][0]} goes with it; record without --flush" in stderr
    until(lambda: processes(quiet_lab) == alive, lambda: processes(quiet_lab))
    assert state(quiet_lab) == before
    child = recording(quiet_lab, tmp_path / "t.db", backend="nft")
    assert stopped(child)[0] == 0
    assert state(quiet_lab) == before


# One as nobody makes it: an extension that is for TCP alone, and nothing in the rule that says so.
STRANGE = """
from iptrec.kernel.netlink import attributes, packed
from iptrec.kernel.nft import raw, rule as nft_rule
from iptrec.kernel.nft.transactions import batch
rule = raw._rules("ipv4")[-1]
_, _, *rest = attributes(rule.expressions)
request = raw._new("ipv4", rule._replace(expressions=packed(rest)))
compat = dict(rule.new(2))[nft_rule.COMPAT]
assert not batch("ipv4", [request._replace(values=[*request.values, (nft_rule.COMPAT, compat)])])
"""


def test_rules_that_the_kernel_would_not_take_again_are_not_taken_out(quiet_lab, tmp_path):
    """That is tried before anything is changed."""
    add = [
        "iptables-nft",
        "-t",
        "raw",
        "-A",
        "OUTPUT",
        "-p",
        "tcp",
        "-m",
        "tcp",
        "--tcp-option",
        "2",
    ]
    quiet_lab.run(add)
    quiet_lab.run([sys.executable, "-c", STRANGE])
    before = state(quiet_lab)
    child = start(quiet_lab, tmp_path / "t.db", "--flush", backend="nft")
    _, stderr = child.communicate(timeout=30)
    assert (child.returncode, stderr.count("\n")) == (2, 1)
    assert "could not put back rule 4 of OUTPUT" in stderr
    assert "Invalid argument; record without --flush" in stderr
    assert state(quiet_lab) == before


def test_rules_that_iptables_nft_cannot_say(quiet_lab, tmp_path):
    """Our rules are found beside them all the same."""
    native = "add rule ip raw OUTPUT oifname lo notrack"
    sets = "add set ip raw bad { type ipv4_addr; }\nadd rule ip raw OUTPUT ip daddr @bad drop"
    for rules in (native, sets):
        quiet_lab.run(["nft", "flush", "chain", "ip", "raw", "OUTPUT"])
        quiet_lab.run(["nft", "-f", "-"], stdin=rules)
        before = state(quiet_lab)
        for options in ([], ["--flush"]):
            path = tmp_path / f"{len(rules)}{len(options)}.db"
            child = recording(quiet_lab, path, *options, backend="nft")
            assert stopped(child)[0] == 0
            assert state(quiet_lab) == before
            path = tmp_path / f"k{len(rules)}{len(options)}.db"
            child = recording(quiet_lab, path, *options, backend="nft")
            kill_both(quiet_lab, child)
            clean(quiet_lab)
            assert state(quiet_lab) == before


def test_a_table_that_iptables_nft_cannot_use(lab, tmp_path):
    """The message says what to do."""
    chain = "chain OUTPUT { type filter hook output priority -301; }"
    lab.run(["nft", "-f", "-"], stdin=f"table ip raw {{ {chain}\n }}")
    before = state(lab)
    child = start(lab, tmp_path / "t.db", "--flush", backend="nft")
    _, stderr = child.communicate(timeout=30)
    assert (child.returncode, stderr.count("\n")) == (2, 1)
    assert "give that table another name" in stderr
    assert state(lab) == before


def test_rules_of_a_table_that_is_gone(raw_lab, tmp_path):
    """Under --flush somebody deletes the table: it stays deleted, and cleanup --restore makes it anew."""
    before = state(raw_lab)
    child = recording(raw_lab, tmp_path / "t.db", "--flush", "--family", "ipv4", backend="nft")
    kill_both(raw_lab, child)
    raw_lab.run(["nft", "delete", "table", "ip", "raw"])
    told = raw_lab.run(CLEANUP, check=False)
    assert (told.returncode, told.stdout.count("\n")) == (1, 3)
    assert "table ip raw {" not in state(raw_lab)
    raw_lab.run([*CLEANUP, "--restore"])
    assert sorted(state(raw_lab)) == sorted(before)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("end", ["TERM", "KILL", "cleanup"])
@pytest.mark.parametrize("there", [False, True], ids=["nothing-there", "raw-there"])
def test_two_recorders_of_nf_tables(lab, tmp_path, first, end, there):
    """Whoever ends first, and however: what recorders made of the raw tables goes, what was there stays."""
    lab.run(["touch", "/run/xtables.lock"])
    if there:
        lab.run(["iptables-nft", "-t", "raw", "-S"])
        lab.run(
            ["nft", "-f", "-"],
            stdin="table ip raw { chain OUTPUT { type filter hook output priority raw; }\n}",
        )
    before, alive = state(lab), processes(lab)
    both = [recording(lab, tmp_path / f"{number}.db", backend="nft") for number in (1, 2)]
    child = both.pop(first)
    if end == "cleanup":
        child.send_signal(signal.SIGSTOP)
        (guardian,) = children(lab, child)
        os.kill(guardian, signal.SIGKILL)
    child.send_signal(signal.SIGTERM if end == "TERM" else signal.SIGKILL)
    child.communicate(timeout=30)
    if end == "KILL":
        until(lambda: len(guardians(lab)) == 1, lambda: guardians(lab))
    assert stopped(both[0])[0] == 0
    if end == "cleanup":
        clean(lab)
    until(lambda: processes(lab) == alive, lambda: processes(lab))
    assert state(lab) == before


@pytest.mark.parametrize("flushes", [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("end", ["TERM", "KILL", "cleanup"])
def test_two_recorders_that_flush(raw_lab, tmp_path, flushes, first, end):
    """The rules of one are not the user's to the other; the user's are there when both have ended."""
    before, alive = state(raw_lab), processes(raw_lab)
    both = [
        recording(raw_lab, tmp_path / f"{number}.db", *["--flush"] * flush, backend="nft")
        for number, flush in enumerate(flushes)
    ]
    child = both.pop(first)
    if end == "cleanup":
        child.send_signal(signal.SIGSTOP)
        (guardian,) = children(raw_lab, child)
        os.kill(guardian, signal.SIGKILL)
    child.send_signal(signal.SIGTERM if end == "TERM" else signal.SIGKILL)
    child.communicate(timeout=30)
    if end == "KILL":
        until(lambda: len(guardians(raw_lab)) == 1, lambda: guardians(raw_lab))
    assert stopped(both[0])[0] == 0
    if end == "cleanup":
        clean(raw_lab)
    until(lambda: processes(raw_lab) == alive, lambda: processes(raw_lab))
    assert state(raw_lab) == before


def children(lab, child):
    """The guardian of one recorder."""
    return [pid for pid in guardians(lab) if f"PPid:\t{child.pid}\n" in proc(pid, "status")]


@pytest.mark.parametrize("backend", ["legacy", "nft", "both"])
def test_a_guardian_that_is_killed_is_started_again(quiet_lab, tmp_path, backend):
    """That is told, and the new one does what the old one would have done."""
    before, alive = state(quiet_lab), processes(quiet_lab)
    child = recording(quiet_lab, tmp_path / "t.db", "--flush", backend=backend)
    (first,) = until(lambda: guardians(quiet_lab))
    os.kill(first, signal.SIGKILL)
    assert "somebody killed the guardian: started again" in child.stderr.readline()
    (second,) = until(lambda: guardians(quiet_lab))
    assert second != first
    child.kill()
    child.communicate()
    until(lambda: processes(quiet_lab) == alive, lambda: processes(quiet_lab))
    assert state(quiet_lab) == before


def test_a_copy_that_is_asked_of_all_processes(quiet_lab, tmp_path):
    """SIGUSR1 to the guardian, too, as `systemctl kill` sends it: a copy comes, and nobody dies of it."""
    child = recording(quiet_lab, tmp_path / "t.db", "--ring", "10m")
    (guardian,) = until(lambda: guardians(quiet_lab))
    os.kill(guardian, signal.SIGUSR1)
    child.send_signal(signal.SIGUSR1)
    assert "written: " in until(child.stderr.readline)
    assert guardians(quiet_lab) == [guardian]
    status, _ = stopped(child, signal.SIGINT)
    assert status == 0


def test_a_guardian_that_dies_at_the_end_leaves_no_list(quiet_lab, tmp_path):
    """The recorder removes the list by itself."""
    before = state(quiet_lab)
    child = recording(quiet_lab, tmp_path / "t.db")
    (guardian,) = guardians(quiet_lab)
    child.send_signal(signal.SIGSTOP)
    os.kill(guardian, signal.SIGKILL)
    child.send_signal(signal.SIGTERM)
    child.send_signal(signal.SIGCONT)
    child.communicate(timeout=30)
    assert child.returncode == 0
    assert state(quiet_lab) == before


@pytest.mark.parametrize("most", [9, 11, 12])
def test_few_descriptors(quiet_lab, tmp_path, most):
    """Refused, in a line; nothing is left, the guardian's list included."""
    before, alive = state(quiet_lab), processes(quiet_lab)
    record = [
        *IPTREC,
        "record",
        "-o",
        str(tmp_path / "t.db"),
        "--backend",
        "legacy",
        "--duration",
        "50ms",
    ]
    done = quiet_lab.run(["prlimit", f"--nofile={most}", *record], check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    until(lambda: processes(quiet_lab) == alive, lambda: processes(quiet_lab))
    assert state(quiet_lab) == before


BROKEN = {
    "fails": "exit 1",
    "prints something else": "echo hello",
    "leaves our rules out": '"$REAL" "$@" | grep -v TRACE',
}


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize("options", [["--flush"], []], ids=["flush", ""])
@pytest.mark.parametrize("broken", BROKEN)
def test_an_iptables_save_that_does_not_tell_the_truth(raw_lab, tmp_path, backend, options, broken):
    """From the beginning: refused before anything is changed. Later: told, and the guardian goes on trying.

    Of nf_tables nothing depends on it.
    """
    text = BROKEN[broken]
    names = [f"{command(family, backend)}-save" for family in ("ipv4", "ipv6")]
    for name in names:
        real = raw_lab.run(["sh", "-c", f"command -v {name}"]).stdout.strip()
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f'#!/bin/sh\nREAL={real}\n[ ! -e {tmp_path}/on ] && exec $REAL "$@"\n{text}\n'
        )
        path.chmod(0o755)
    # Root looks there first; in the lab's mount namespace alone.
    raw_lab.run(["mount", "--bind", str(tmp_path / "bin"), "/usr/local/sbin"])
    before = state(raw_lab)
    record = [*IPTREC, "record", "-q", "-o", str(tmp_path / "t.db"), "--backend", backend, *options]
    on = ["touch", f"{tmp_path}/on"]
    if "TRACE" not in text and backend == "legacy":
        raw_lab.run(on)
        done = raw_lab.run([*record, "--duration", "50ms"], check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        raw_lab.run(["rm", f"{tmp_path}/on"])
        assert state(raw_lab) == before
    done = raw_lab.run([*record, "--", *on], check=False)
    raw_lab.run(["umount", "--lazy", "/usr/local/sbin"])  # the guardian may just run one
    if backend == "legacy":
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "could be undone" in done.stderr
        until(lambda: not guardians(raw_lab), lambda: guardians(raw_lab))  # it goes on trying
    else:  # rules of nf_tables are found without it
        assert done.returncode == 0
    assert state(raw_lab) == before


def test_lists_that_say_nothing(quiet_lab):
    """Empty ones are removed, those of nobody knows whom are kept and named."""
    empty, strange = (f"/run/iptrec/{digit * 8}-0000-0000-0000-000000000000.json" for digit in "ab")
    quiet_lab.run(
        ["sh", "-c", f"mkdir -m 700 /run/iptrec && : > {empty} && echo '{{}}' > {strange}"]
    )
    done = quiet_lab.run(CLEANUP, check=False)
    assert "(a list without changes): removed" in done.stdout
    assert f"({strange}, a list that cannot be read): kept: look into it" in done.stdout
    assert done.returncode == 1
    assert quiet_lab.run(["ls", "/run/iptrec"]).stdout.split() == [Path(strange).name]


def test_a_list_of_another_namespace_is_not_undone_here(quiet_lab, tmp_path):
    """A namespace may get the number of one that is gone: its rules are not those of that one."""
    child = recording(quiet_lab, tmp_path / "t.db", "--flush")
    kill_both(quiet_lab, child)
    for name in ("iptables-legacy", "ip6tables-legacy"):
        quiet_lab.run([name, "-t", "raw", "-F"])
    before = rules(quiet_lab)
    quiet_lab.run(["sh", "-c", "sed -i 's/\"cookie\": /&1/' /run/iptrec/*"])
    assert "a namespace that is gone" in quiet_lab.run(CLEANUP).stdout
    assert rules(quiet_lab) == before
    assert quiet_lab.run(CLEANUP).stdout == "nothing is left behind\n"
