"""`iptrec record` on the real kernel: what it writes, what it refuses, and that it leaves no trace."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from command import IPTREC, iptrec
from recorder import packets, start, until
from rights import ROOT

from iptrec.demo.scenario import FILTER, TRAFFIC, docker_hairpin
from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

RAW = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:a:b - [0:0]
[7:700] -A PREROUTING -s 192.0.2.1/32 -m comment --comment "say \\"no\\" -j DROP" -j NOTRACK
[5:500] -A PREROUTING -p tcp -j a:b
[3:300] -A OUTPUT -d 192.0.2.9/32 -j DROP
[2:200] -A a:b -g a:b2
[1:100] -A a:b2 -j RETURN
COMMIT
""".replace(":a:b - [0:0]\n", ":a:b - [0:0]\n:a:b2 - [0:0]\n")


def state(lab):
    """All that a recording may not change: rules with counters, and the loggers."""
    parts = []
    for command in ("iptables-legacy-save", "ip6tables-legacy-save"):
        saved = lab.run([command, "-c"]).stdout
        parts += [line for line in saved.splitlines() if not line.startswith("#")]
    for family in (2, 10):
        parts.append(lab.run(["cat", f"/proc/sys/net/netfilter/nf_log/{family}"]).stdout)
    return parts


@pytest.fixture
def quiet_lab(lab):
    """A namespace with rules of its own in the raw tables, and no traffic."""
    lab.run(["iptables-legacy-restore", "-c"], stdin=RAW)
    lab.run(["ip6tables-legacy-restore", "-c"], stdin="*raw\nCOMMIT\n")
    return lab


def record(lab, *arguments, check=True):
    """Run `iptrec record` to its end."""
    return lab.run([*IPTREC, "record", *map(str, arguments)], check=check)


def test_docker_hairpin_gives_exactly_these_steps(lab, tmp_path):
    """The case that the project began with, step by step; the file alone is enough."""
    docker_hairpin(lab)
    record(lab, FILTER, "-o", tmp_path / "t.db", "--", *TRAFFIC)
    moved = Path(shutil.move(tmp_path / "t.db", tmp_path / "elsewhere.db"))
    lab.close()
    (packet, *more) = packets(moved)
    assert not more
    steps = [(f"{s.table} {s.chain}", s.rule or s.type, s.target) for s in packet.steps]
    assert steps == [
        ("raw PREROUTING", "policy", "ACCEPT"),
        ("nat PREROUTING", 1, "DOCKER"),
        ("nat DOCKER", 1, "DNAT"),
        ("filter FORWARD", 1, "DOCKER-USER"),
        ("filter DOCKER-USER", 1, "RETURN"),
        ("filter FORWARD", 2, "DOCKER-ISOLATION-STAGE-1"),
        ("filter DOCKER-ISOLATION-STAGE-1", 2, "DOCKER-ISOLATION-STAGE-2"),
        ("filter DOCKER-ISOLATION-STAGE-2", 1, "DROP"),
    ]
    assert packet.steps[2].target_args == "--to-destination 172.23.0.2:1242"
    assert packet.steps[3].changed["dst"] == ("172.17.0.3", "172.23.0.2")
    assert (packet.verdict, packet.complete, packet.ambiguous) == ("DROP", True, False)


STOPS = {
    "SIGINT": ((), signal.SIGINT, 0),
    "SIGTERM": ((), signal.SIGTERM, 0),
    "SIGHUP": ((), signal.SIGHUP, 0),
    "duration": (("--duration", "100ms"), None, 0),
    "command": (("--", "sh", "-c", "exit 3"), None, 3),
    "killed_command": (("--", "sh", "-c", "kill -9 $$"), None, 137),
}


@pytest.mark.parametrize("flush", [False, True], ids=["", "flush"])
@pytest.mark.parametrize("stop", STOPS)
def test_every_stop_leaves_no_trace(quiet_lab, tmp_path, stop, flush):
    """Rules, counters and loggers are byte for byte as before; one closed file says why it ended."""
    more, number, status = STOPS[stop]
    before = state(quiet_lab)
    options = ("--flush",) if flush else ()
    child = start(quiet_lab, "-o", tmp_path / "t.db", *options, *more)
    if number is not None:
        assert state(quiet_lab) != before
        child.send_signal(number)
    _, stderr = child.communicate(timeout=30)
    assert child.returncode == status
    told = stderr.splitlines()
    assert told[0].startswith("recorded 0 events (none lost)")
    assert told[1:2] == ["no packet met the TRACE rules; likely causes:"]
    assert state(quiet_lab) == before
    assert [path.name for path in tmp_path.iterdir()] == ["t.db"]
    with Reader(tmp_path / "t.db") as reader:
        assert reader.facts.closed
        assert reader.facts.stop_reason == ("command" if "command" in stop else stop)


def test_packets_stops_the_recording(lab, tmp_path, backend):
    """--packets N ends by itself, neither early nor late, with the last packet whole."""
    lab.restore(None, "ipv4", "*filter\nCOMMIT\n", backend)  # INPUT tells what arrived
    child = start(lab, "icmp", "-o", tmp_path / "t.db", "--packets", "20", "--backend", backend)
    lab.run(["ping", "-c5", "-i0.2", "127.0.0.1"])  # four traversals each
    child.communicate(timeout=30)
    with Reader(tmp_path / "t.db") as reader:
        assert reader.facts.stop_reason == "packets"
    found = packets(tmp_path / "t.db")
    assert len(found) == 20
    assert all(one.complete for one in found)


def test_more_signals_do_not_stop_the_undoing(quiet_lab, tmp_path):
    """An impatient Ctrl-C is taken as one."""
    before = state(quiet_lab)
    child = start(quiet_lab, "-o", tmp_path / "t.db")
    for _ in range(5):
        child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert state(quiet_lab) == before
    with Reader(tmp_path / "t.db") as reader:
        assert reader.facts.closed


def test_nohup_is_respected(quiet_lab, tmp_path):
    """A hangup that the user told us to ignore is ignored."""
    child = quiet_lab.popen(
        ["nohup", *IPTREC, "record", "-o", str(tmp_path / "t.db"), "--packets", "4", "icmp"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not child.stderr.readline().startswith("recording to"):  # nohup says something too
        assert child.poll() is None
    child.send_signal(signal.SIGHUP)
    quiet_lab.run(["ping", "-c1", "127.0.0.1"])
    child.communicate(timeout=30)
    with Reader(tmp_path / "t.db") as reader:
        assert reader.facts.stop_reason == "packets"


def test_max_size_stops_the_recording(lab, tmp_path, backend):
    """--max-size: a file of about that size, closed."""
    flood = lab.popen(["ping", "-f", "-q", "-s", "1000", "127.0.0.1"], stdout=subprocess.DEVNULL)
    limits = ("--max-size", "300k", "--snaplen", "1000")
    record(lab, "icmp", "-o", tmp_path / "t.db", *limits, "--backend", backend)
    assert flood.poll() is None
    with Reader(tmp_path / "t.db") as reader:
        assert (reader.facts.stop_reason, reader.facts.closed) == ("max-size", True)
    assert 250_000 < (tmp_path / "t.db").stat().st_size < 3_000_000


@pytest.mark.alone
def test_traffic_does_not_prolong_a_recording(lab, tmp_path, backend):
    """The rules go when the time is over, however much comes in; then the socket is emptied."""
    flood = lab.popen(["ping", "-f", "-q", "127.0.0.1"], stdout=subprocess.DEVNULL)
    record(lab, "icmp", "-o", tmp_path / "t.db", "--duration", "200ms", "--backend", backend)
    assert flood.poll() is None
    with Reader(tmp_path / "t.db") as reader:
        facts = reader.facts
        assert sum(len(chunk.lengths) for chunk in reader.chunks()) > 100
    # Traffic that prolonged it would do so as long as it comes; a busy machine takes a few seconds.
    assert facts.stopped_ns - facts.started_ns < 10e9


def test_command_that_stays_does_not_hold_the_rules(quiet_lab, tmp_path):
    """A command that ignores SIGTERM is waited for when everything is undone already."""
    before = state(quiet_lab)
    child = quiet_lab.popen(
        [*IPTREC, "record", "-q", "-o", str(tmp_path / "t.db"), "--duration", "100ms",
         "--", "sh", "-c", "trap '' TERM; echo begun; read _; exit 5"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "begun\n"
    until(lambda: state(quiet_lab) == before)

    def why_it_ended():
        with Reader(tmp_path / "t.db") as reader:
            return reader.facts.stop_reason

    until(lambda: why_it_ended() == "duration")  # the file is the last that is done
    assert child.poll() is None
    child.communicate("\n", timeout=30)
    assert child.returncode == 0


READ_ONLY = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"


def test_read_only_sysctls_are_refused(quiet_lab, tmp_path):
    """As in most containers: the sysctl is named, and what was begun is undone, file included."""
    before = state(quiet_lab)
    command = [*IPTREC, "record", "-o", str(tmp_path / "t.db")]
    done = quiet_lab.run(
        ["unshare", "-m", "sh", "-c", READ_ONLY + ' && exec "$@"', "sh", *command], check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert (
        "run: nsenter --net --target PID sysctl -w net.netfilter.nf_log.2=nfnetlink_log"
        " net.netfilter.nf_log.10=nfnetlink_log (PID: of any process in this container"
    ) in done.stderr
    assert state(quiet_lab) == before
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_undone_is_told(quiet_lab, tmp_path):
    """One step fails: the others are done, exit status 2, and the line names what is left."""
    before = state(quiet_lab)
    done = record(
        quiet_lab, "-q", "icmp", "-o", tmp_path / "t.db", "--", "sh", "-c", READ_ONLY, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "not everything could be undone" in done.stderr
    assert "nf_log" in done.stderr
    assert state(quiet_lab)[:-2] == before[:-2]  # the rules; not the loggers
    with Reader(tmp_path / "t.db") as reader:
        assert reader.facts.closed


def test_nflog_rules_of_the_user_do_not_disturb(lab, tmp_path):
    """-j NFLOG logs to the same group: its events are in the file, and none is missed."""
    lab.restore(None, "ipv4", "*filter\n-A INPUT -p icmp -j NFLOG\nCOMMIT\n")
    record(lab, "icmp", "-o", tmp_path / "t.db", "--", "ping", "-c2", "-i0.2", "127.0.0.1")
    with Reader(tmp_path / "t.db") as reader:
        assert reader.losses == []
        datagrams = sum(len(chunk.lengths) for chunk in reader.chunks())
    steps = sum(len(one.steps) for one in packets(tmp_path / "t.db"))
    assert datagrams > steps > 0


def small_disk(lab, tmp_path, how, mount):
    """A file system of which writing will fail."""
    lab.run(["mkdir", mount])
    if how != "read-only":
        size = "240k" if how == "full" else "16M"
        lab.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount])
        return
    if os.geteuid():
        pytest.skip("a file system of one's own needs root")
    image = tmp_path / "image"
    lab.run(["truncate", "-s", "16M", str(image)])
    lab.run(["mkfs.ext4", "-q", str(image)])
    mounted = lab.run(["mount", "-o", "loop,errors=remount-ro", str(image), mount], check=False)
    if mounted.returncode:
        pytest.skip(f"no ext4 on a loop device here: {mounted.stderr.strip()}")


def make_read_only(lab, mount):
    """As the kernel does when it finds the file system damaged (errors=remount-ro)."""
    device = Path(lab.run(["findmnt", "-no", "SOURCE", mount]).stdout.strip()).name
    lab.run(["tee", f"/sys/fs/ext4/{device}/trigger_fs_error"], stdin="1")


@pytest.mark.parametrize("how", ["full", "limit", "read-only"])
def test_disk_that_takes_no_more_undoes_everything(quiet_lab, tmp_path, how):
    """An error in the middle: one line, exit status 2, nothing left in the kernel, file readable."""
    mount = "/run/small"
    small_disk(quiet_lab, tmp_path, how, mount)
    quiet_lab.ip(None, "link set lo up")
    before = quiet_lab.run(["iptables-legacy-save", "-t", "raw"]).stdout.count("TRACE")
    child = start(quiet_lab, "-o", f"{mount}/t.db", "icmp", "--snaplen", "1500")
    noise = (
        "import os,socket\ns=socket.socket(2,3,1)\n"
        "while 1: s.sendto(b'\\x08\\0'+os.urandom(900),('127.0.0.1',0))"
    )
    flood = quiet_lab.popen([sys.executable, "-c", noise], stderr=subprocess.DEVNULL)
    if how == "read-only":
        make_read_only(quiet_lab, mount)
    elif how == "limit":  # as a quota, which not every kernel has
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (160 << 10, 160 << 10))
    _, stderr = child.communicate(timeout=60)
    flood.kill()
    flood.wait()
    assert child.returncode == 2
    assert "cannot write" in stderr
    assert "Traceback" not in stderr
    after = quiet_lab.run(["iptables-legacy-save", "-t", "raw"]).stdout
    assert after.count("TRACE") == before == 0
    assert "nfnetlink_log" not in "".join(state(quiet_lab)[-2:])
    info = quiet_lab.popen(
        [*IPTREC, "info", f"{mount}/t.db", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    kept, refused = info.communicate()
    if "no file is left" in stderr:  # it was full before any event was in it
        assert b"No such file" in refused
    else:
        assert json.loads(kept)["closed"] is False


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_file_that_goes_away_undoes_everything(quiet_lab, tmp_path, how):
    """It is noticed at the next commit: one line, exit status 2, nothing left in the kernel."""
    before = state(quiet_lab)
    child = start(quiet_lab, "-o", tmp_path / "t.db", "icmp")
    quiet_lab.run(["ping", "-c2", "-i0.2", "127.0.0.1"])
    if how == "deleted":
        (tmp_path / "t.db").unlink()
    else:
        (tmp_path / "t.db").rename(tmp_path / "u.db")
    quiet_lab.run(["ping", "-c2", "-i0.2", "127.0.0.1"])
    _, stderr = child.communicate(timeout=30)
    assert (child.returncode, stderr.count("\n")) == (2, 1)
    assert "somebody moved or deleted it" in stderr
    after = state(quiet_lab)  # the counters of the user's rules went on
    assert [line.partition("] ")[2] for line in after] == [
        line.partition("] ")[2] for line in before
    ]
    assert after[-2:] == before[-2:]


def test_namespace_that_goes_away(lab, tmp_path, backend):
    """Its name is deleted while it is recorded: the recording ends as it would have."""
    lab.host("other")
    child = start(lab, "icmp", "-o", tmp_path / "t.db", "--netns", "other", "--backend", backend)
    lab.run(["ping", "-c1", "127.0.0.1"], "other")
    lab.run(["ip", "netns", "del", "other"])
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=30)
    assert (child.returncode, stderr.count("\n")) == (0, 1)
    assert len(packets(tmp_path / "t.db")) == 4


REFUSALS = {
    "bad filter": (["foo bar"], 'filter "foo bar": '),
    "long filter": (
        [" or ".join(f"host 10.0.0.{n}" for n in range(90))],
        "the kernel takes at most 64",
    ),
    "family that cannot match": (["icmp6", "--family", "ipv4"], "can match no ipv4 packet"),
    "interface": (["--iface", "nope0"], "no interface 'nope0' here; there are: lo"),
    "netns": (["--netns", "nope"], "no network namespace 'nope'"),
    "no process": (["--netns", "999999999"], "no process 999999999, and no network namespace of"),
    "two namespaces": (
        ["--netns", "a", "--netns", "b"],
        "--netns was given 2 times; run iptrec once",
    ),
    "inside of nothing": (["--inside", "--", "true"], "--netns NAME --inside -- COMMAND"),
    "nothing inside": (["--inside", "--netns", "a"], "--netns NAME --inside -- COMMAND"),
    "not a netns": (["--netns", "/etc/passwd"], "is not a network namespace"),
    "directory": (["-o", "/nope/t.db"], "cannot create /nope/t.db"),
    "command": (["--", "no-such-command"], "command 'no-such-command' is not found"),
    "duration": (["--duration", "soon"], "--duration 'soon' is not a time"),
    "endless": (["--duration", "9" * 400 + "h"], "h' is not a time"),
    "size": (["--max-size", "much"], "--max-size 'much' is not a size"),
    "nothing long": (["--duration", "0s"], "--duration must be more than 0"),
    "nothing large": (["--ring", "0"], "--ring must be more than 0"),
    "family": (["--family", "ipx"], "--family 'ipx': must be one of"),
    "option": (["--nonsense"], "No such option: --nonsense"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusal_is_one_line_and_changes_nothing(quiet_lab, tmp_path, case):
    """Exit status 2, one line that names the object; no file, no rule, no logger."""
    arguments, message = REFUSALS[case]
    before = state(quiet_lab)
    if "-o" not in arguments:
        arguments = ["-o", tmp_path / "t.db", *arguments]
    done = record(quiet_lab, *arguments, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert state(quiet_lab) == before
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_refused(quiet_lab, tmp_path):
    """The file stays as it is without --force."""
    (tmp_path / "t.db").write_text("mine")
    done = record(quiet_lab, "-o", tmp_path / "t.db", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert (tmp_path / "t.db").read_text() == "mine"


def test_held_lock_is_waited_for_and_then_refused(quiet_lab, tmp_path):
    """Another program holds the xtables lock: a bounded wait, one line, no file, nothing changed."""
    quiet_lab.run(["touch", "/run/xtables.lock"])
    command = ["flock", "/run/xtables.lock", "sh", "-c", "echo held; exec sleep 60"]
    with quiet_lab.popen(command, stdout=subprocess.PIPE, start_new_session=True) as holder:
        holder.stdout.readline()
        before = state(quiet_lab)
        done = record(quiet_lab, "-o", tmp_path / "t.db", check=False)
        os.killpg(holder.pid, signal.SIGKILL)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "another program holds the xtables lock" in done.stderr
    assert state(quiet_lab) == before
    assert list(tmp_path.iterdir()) == []


def test_taken_group_names_the_holder(quiet_lab, tmp_path):
    """Only one program can listen to TRACE events: the other one is named."""
    first = start(quiet_lab, "-o", tmp_path / "t.db")
    before = state(quiet_lab)
    done = record(quiet_lab, "-o", tmp_path / "u.db", check=False)
    assert done.returncode == 2
    name = Path(f"/proc/{first.pid}/comm").read_text().strip()
    assert f"is taken by {name} (pid {first.pid})" in done.stderr
    assert state(quiet_lab) == before
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    assert first.returncode == 0


def test_without_cap_net_admin(quiet_lab, tmp_path):
    """No rights, one line."""
    done = quiet_lab.run(
        ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin",
         *IPTREC, "record", "-o", str(tmp_path / "t.db")], check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "CAP_NET_ADMIN" in done.stderr


def test_file_belongs_to_the_user_behind_sudo(quiet_lab, tmp_path):
    """Mode 0600, owner from SUDO_UID; in a user namespace that user is root itself."""
    uid = "0" if os.geteuid() else "1234"
    tmp_path.chmod(0o755)
    quiet_lab.run(
        ["env", f"SUDO_UID={uid}", f"SUDO_GID={uid}", *IPTREC, "record", "-o", str(tmp_path / "t.db"),
         "--", "true"],
    )  # fmt: skip
    found = (tmp_path / "t.db").stat()
    assert found.st_mode & 0o777 == 0o600
    assert found.st_uid == (os.geteuid() or 1234)


@ROOT
def test_users_directory_is_written_with_the_users_rights(lab, backend):
    """The recording, its companions and a copy (SIGUSR1) are the user's, who is not helped by root's rights."""
    with tempfile.TemporaryDirectory(prefix="iptrec-sudo-") as name:
        home = Path(name, "home")
        home.mkdir(mode=0o700)
        Path(name).chmod(0o755)
        os.chown(home, 1234, 1234)
        child = lab.popen(
            ["env", "SUDO_UID=1234", "SUDO_GID=1234", *IPTREC, "record", "--backend", backend, "icmp",
             "-o", str(home / "t.db")],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stderr.readline().startswith("recording to")
        lab.run(["ping", "-c1", "127.0.0.1"])
        child.send_signal(signal.SIGUSR1)
        assert "written: " in child.stderr.readline()
        assert {one.stat().st_uid for one in home.iterdir()} == {1234}
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)
        assert child.returncode == 0
        found = sorted(home.iterdir())
        assert len(found) == 2
        for one in found:
            assert (one.stat().st_uid, one.stat().st_mode & 0o777) == (1234, 0o600)
            assert packets(one)
        assert "TRACE" not in lab.run([f"iptables-{backend}-save", "-t", "raw"]).stdout


@ROOT
def test_directory_of_others_is_refused(quiet_lab):
    """Root without sudo, where somebody else could put another file under the name: nothing is changed."""
    before = state(quiet_lab)
    with tempfile.TemporaryDirectory(prefix="iptrec-other-") as name:
        os.chown(name, 1234, 1234)
        done = record(quiet_lab, "-o", f"{name}/t.db", check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "others than root can change where" in done.stderr
        assert os.listdir(name) == []  # noqa: PTH208
    assert state(quiet_lab) == before


@pytest.mark.parametrize("how", ["name", "path", "pid"])
def test_netns_by_name_path_and_pid(lab, tmp_path, how):
    """--netns records in another namespace; COMMAND runs in the one that iptrec is started in."""
    lab.host("other")
    pinging = lab.popen(["ping", "-i0.05", "127.0.0.1"], "other", stdout=subprocess.DEVNULL)
    spec = {"name": "other", "path": f"/proc/{pinging.pid}/ns/net", "pid": str(pinging.pid)}[how]
    script = 'test "$(readlink /proc/self/ns/net)" = "$1" && sleep 0.3'
    here = lab.run(["readlink", "/proc/self/ns/net"]).stdout.strip()
    record(
        lab, "icmp", "-o", tmp_path / "t.db", "--netns", spec, "--", "sh", "-c", script, "sh", here
    )
    pinging.kill()
    pinging.wait()
    found = packets(tmp_path / "t.db")
    assert len(found) >= 4
    assert {one.netns for one in found} == {spec}
    assert "TRACE" not in lab.run(["iptables-legacy-save", "-t", "raw"], "other").stdout


def test_command_inside(lab, tmp_path, backend):
    """--inside: COMMAND runs in the namespace that is recorded, so what it sends is there."""
    lab.host("other")
    record(
        lab, "icmp", "-o", tmp_path / "t.db", "--netns", "other", "--inside", "--backend", backend,
        "--", "ping", "-c1", "127.0.0.1",
    )  # fmt: skip
    assert len(packets(tmp_path / "t.db")) == 4


def test_iface_and_single_family_filters(lab, tmp_path):
    """--iface takes in and out; a filter that can match one family only needs no --family."""
    record(lab, "icmp6", "--iface", "lo", "-o", tmp_path / "t.db", "--", "ping", "-c1", "::1")
    found = packets(tmp_path / "t.db")
    assert {one.family for one in found} == {"ipv6"}
    assert [(one.in_, one.out) for one in found] == [(None, "lo"), ("lo", None)] * 2
    with Reader(tmp_path / "t.db") as reader:
        assert reader.facts.families == ("ipv6",)


def test_rule_hits_equal_the_kernels_counters(lab, tmp_path):
    """Ground truth: for each rule as many steps in the traces as the kernel counted packets."""
    rules = (
        "*mangle\n-A PREROUTING -p udp -j MARK --set-mark 1\nCOMMIT\n"
        "*filter\n:odd:chain -\n-A INPUT -p udp -j odd:chain\n-A INPUT -p udp -m comment --comment x -j DROP\n"
        "-A odd:chain -m statistic --mode nth --every 3 --packet 0 -j DROP\n"
        "-A odd:chain -p udp -m udp --dport 7 -j RETURN\n-A odd:chain -p udp -j ACCEPT\nCOMMIT\n"
    )
    lab.restore(None, "ipv4", rules)
    sender = (
        "import socket,os\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
        "for n in range(3000): s.sendto(b'%d'%n,('127.0.0.1',7+n%2))"
    )
    record(lab, "udp", "-o", tmp_path / "t.db", "--", sys.executable, "-c", sender)
    hits = Counter()
    found = packets(tmp_path / "t.db")
    with Reader(tmp_path / "t.db") as reader:
        if reader.losses and os.geteuid():
            pytest.skip("events were lost: the kernel grants this user a small receive buffer only")
    assert all(one.complete and not one.ambiguous for one in found)
    for one in found:
        hits.update((s.table, s.chain, s.rule) for s in one.steps if s.rule is not None)
    saved = lab.run(["iptables-legacy-save", "-c"]).stdout
    counted, numbers, table = {}, Counter(), ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("["):
            counters, _, chain, *_ = line.split()
            numbers[table, chain] += 1
            counted[table, chain, numbers[table, chain]] = int(counters[1:].split(":")[0])
    assert dict(hits) == {place: count for place, count in counted.items() if count}
    assert counted["filter", "odd:chain", 1] == 1000


# OUTPUT: raw, filter; PREROUTING: our own rule, raw; INPUT: the rule.
# nf_tables tells of our rule in both, and of the ends of its chains; it has no chain filter/OUTPUT here.
EVENTS = {"legacy": 5, "nft": 8}  # of nf_tables one at POSTROUTING, where nobody else tells


@pytest.mark.parametrize("tap", [True, False], ids=["tap", "no-tap"])
@pytest.mark.parametrize("backend", EVENTS)
def test_loss_is_counted_to_the_event(lab, tmp_path, backend, tap):
    """With a tiny receive buffer, and ring: recorded plus lost is what the kernel sent."""
    lab.restore(None, "ipv4", "*filter\n-A INPUT -p udp -j DROP\nCOMMIT\n", backend)
    sender = (
        "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
        "for n in range(20000): s.sendto(b'%d'%n,('127.0.0.1',7))"
    )
    script = (
        "import sys, pathlib\nfrom iptrec.recorder.options import Options\n"
        "from iptrec.recorder.session import record\n"
        "record(Options(output=pathlib.Path(sys.argv[1]), bytecodes={'ipv4': None}, receive_buffer=4096,"
        " tap_bytes=4096,"
        f" backend={backend!r}, command=[sys.executable, '-c', sys.argv[2]]))"
    )
    way = f"IPTREC_NO_TAP={int(not tap)}"
    lab.run(["env", way, sys.executable, "-c", script, str(tmp_path / "t.db"), sender])
    done = iptrec("info", "--json", str(tmp_path / "t.db"))
    found = json.loads(done.stdout)
    assert found["events"] + found["lost"] == 20000 * EVENTS[backend]
    assert found["lost"] > 0
    assert not found["complete"]
    shown = iptrec("show", str(tmp_path / "t.db")).stdout.splitlines()
    told = [line.split()[1] for line in shown if line.startswith("-- ") and " lost from " in line]
    assert sum(int(count.replace(",", "")) for count in told) == found["lost"]
    assert "events lost" in iptrec("paths", str(tmp_path / "t.db")).stderr


def test_trace_shows_live_and_keeps_nothing(lab, tmp_path):
    """`iptrec trace` prints the packets; with -o it keeps the file."""
    lab.restore(None, "ipv4", "*filter\nCOMMIT\n")  # INPUT tells what arrived
    done = lab.run([*IPTREC, "trace", "icmp", "--", "ping", "-c1", "127.0.0.1"])
    assert done.stdout.count(" in lo by ") == 2
    assert "raw PREROUTING" in done.stdout
    done = lab.run([*IPTREC, "trace", "--brief", "--utc", "icmp", "--", "ping", "-c1", "127.0.0.1"])
    date, *lines = done.stdout.splitlines()
    assert re.fullmatch(r"-- \d{4}-\d\d-\d\d UTC --", date)
    assert [line.split()[0] for line in lines] == ["#1", "#2", "#3", "#4"]
    kept = tmp_path / "t.db"
    done = lab.run(
        [*IPTREC, "trace", "icmp", "--json", "-o", str(kept), "--", "ping", "-c1", "127.0.0.1"]
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["packet"] for line in lines] == [1, 2, 3, 4]
    assert len(packets(kept)) == 4


def test_trace_says_what_it_does(lab, backend):
    """When it is ready, and in the end what there was, on stderr; -q leaves both out."""
    lab.restore(None, "ipv4", "*filter\nCOMMIT\n", backend)  # INPUT tells what arrived
    trace = [*IPTREC, "trace", "icmp", "--backend", backend]
    child = lab.popen(trace, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ready = child.stderr.readline()
    assert ready == f"tracing icmp (pid {child.pid}); Ctrl-C to stop\n"
    lab.run(["ping", "-c1", "127.0.0.1"])
    child.send_signal(signal.SIGINT)
    stdout, stderr = child.communicate(timeout=30)
    assert stdout.count("\n#") == 4
    assert stderr == "traced 4 packets: 4 ACCEPT (none lost)\n"
    done = lab.run([*trace, "-q", "--", "ping", "-qc1", "127.0.0.1"])
    assert "trac" not in done.stderr


def test_trace_stops_on(lab, backend):
    """As record does; there is no file to look at."""
    lab.restore(None, "ipv4", "*filter\n-A INPUT -p icmp -j DROP\nCOMMIT\n", backend)
    trace = [*IPTREC, "trace", "--backend", backend, "--stop-on", "DROP", "--log-level", "info"]
    child = lab.popen(trace, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr.readline().startswith("tracing all packets (pid")
    lab.run(["ping", "-c1", "-W1", "127.0.0.1"], check=False)
    _, stderr = child.communicate(timeout=30)
    assert stderr.splitlines()[-1] == (
        "stopped by #2 DROP icmp 127.0.0.1 > 127.0.0.1 by filter/INPUT rule 1"
    )


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_stdout_of_trace_is_the_trace_alone(lab, options):
    """What the command writes there goes to stderr, as under perf record -o -; `record` leaves it alone."""
    command = ["sh", "-c", "echo said; echo complained >&2; ping -qc1 127.0.0.1"]
    done = lab.run([*IPTREC, "trace", "icmp", *options, "--", *command])
    assert done.stdout.startswith('{"format":' if options else "-- 20")
    assert not {"said", "complained"} & set(done.stdout.splitlines())
    assert {"said", "complained"} <= set(done.stderr.splitlines())
    closed = ["sh", "-c", 'exec "$@" 2>&-', "sh", *IPTREC, "trace", "icmp", *options, "--"]
    assert "said" not in lab.run([*closed, "sh", "-c", "echo said"], check=False).stdout


def test_command_of_record_keeps_stdout(lab, tmp_path):
    """A recording is a file."""
    command = ["sh", "-c", "echo said; echo complained >&2"]
    done = lab.run([*IPTREC, "record", "-q", "-o", str(tmp_path / "t.db"), "--", *command])
    assert (done.stdout, done.stderr) == ("said\n", "complained\n")
