"""The unit of systemd: booted for real, with all its restrictions; and what a service manager is told."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import booted
import documents
import pytest
import recorder
from command import IPTREC
from recorder import until
from rights import ROOT

pytestmark = pytest.mark.live

UNIT = "iptrec@t.service"
RULES = {
    "legacy": "iptables-legacy-save -t raw; ip6tables-legacy-save -t raw",
    "nft": "nft list ruleset",
}
FILES = "/var/lib/iptrec/t"
MOST_EXPOSED = 35  # tenths, as systemd-analyze counts it
SOON_GONE = r"""
for i in 1 2 3 4 5; do
    nft -e -a insert rule ip f i icmp type echo-request counter accept | sed -n 's/.*handle //p' > /h
    ping -c1 127.0.0.1
    nft delete rule ip f i handle $(cat /h)
done
"""
# As soon as the recorder catches SIGTERM, proc(5).
STOPPED_EARLY = r"""
systemctl start --no-block "$1"
until pid=$(systemctl show --value --property=MainPID "$1"); [ "$pid" != 0 ]; do :; done
until grep -qx iptrec "/proc/$pid/comm"; do :; done
until grep -q '^SigCgt:.*[4-7c-f][0-9a-f]\{3\}$' "/proc/$pid/status"; do :; done
systemctl stop "$1"
"""
# Of root, and somebody else's, who has had a socket for longer than the recorder.
WAITS = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.bind(("127.0.0.1", 7777))
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """A systemd of our own."""
    if (lacking := booted.missing()) is not None:
        pytest.skip(f"no {lacking}")
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(booted.Booted(tmp_path_factory.mktemp("systemd")))
        except booted.RefusedError as refusal:
            pytest.skip(str(refusal))


@pytest.fixture
def unit(system, backend):
    """The service for one backend, as it is stopped and has no files; everything is undone in the end."""
    system.run("sh", "-c", f"rm -rf {FILES}; ip link set lo up")
    system.configure("t", f"OPTIONS=--backend {backend} --conntrack --ring 10m")
    yield system
    system.run("systemctl", "stop", UNIT)
    system.run("systemctl", "reset-failed")
    assert ours(system) == ""


def ours(system):
    """Our rules, of both backends."""
    said = system.run(
        "sh", "-c", f"{RULES['legacy']}; {RULES['nft']}; cat /proc/sys/net/netfilter/nf_log/2"
    )
    return "\n".join(
        line for line in said.splitlines() if "iptrec" in line or line == "nfnetlink_log"
    )


def start(system):
    """Until it is ready; where it fails, with what it said."""
    if not system.run("systemctl", "start", UNIT, check=False):
        pytest.fail(system.run("journalctl", "--no-pager", "-o", "cat", "-n", "20", "-u", UNIT))


def state(system, name="ActiveState"):
    return system.run("systemctl", "show", "--value", f"--property={name}", UNIT).strip()


def files(system):
    return sorted(system.run("sh", "-c", f"ls {FILES}/*.db").split())


def shown(system, *words):
    return [
        json.loads(line) for line in system.run("iptrec", "show", "--json", *words).splitlines()
    ]


def info(system, path):
    return json.loads(system.run("iptrec", "info", "--json", path))


@ROOT
def test_systemd_finds_nothing_wrong_with_the_unit(system):
    """Nor is it more exposed than it was."""
    path = f"/etc/systemd/system/{UNIT.replace('t.', '.')}"
    done = subprocess.run(
        system.command("systemd-analyze", "--man=no", "verify", path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    score = f"--threshold={MOST_EXPOSED}"
    assert system.run("systemd-analyze", "security", "--offline=true", score, path, check=False)
    assert not system.run(
        "systemd-analyze", "security", "--offline=true", "--threshold=10", path, check=False
    )


@ROOT
def test_a_service_records_all_that_root_does(unit, backend):
    """Under all restrictions: no stream says that it could not be, and owners, new and old, are known."""
    python = f"{booted.HERE}-venv/bin/python3"
    waiting = unit.command("setpriv", "--reuid=65534", "--clear-groups", python, "-c", WAITS)
    pipe = subprocess.PIPE
    with subprocess.Popen(waiting, stdin=pipe, stdout=pipe, text=True) as waits:  # for stdin's end
        assert waits.stdout.readline() == "ready\n"
        start(unit)
        assert ours(unit)
        unit.run("ping", "-c1", "127.0.0.1")
        unit.run(
            python, "-c", "import socket; socket.socket(2, 2).sendto(b'x', ('127.0.0.1', 7777))"
        )
        unit.run("systemctl", "stop", UNIT)
    (path,) = files(unit)
    found = info(unit, path)
    assert {one["kind"] for one in found["streams"]} >= {"conntrack", "drops", "senders", "sockets"}
    assert "not_recorded" not in json.dumps(found["streams"])
    assert found["closed"]
    packets = shown(unit, path, "udp dst port 7777")
    assert packets
    owners = [one["owner"] for one in packets if one.get("owner")]
    assert "python3" in {one.get("comm") for one in owners}
    if backend == "nft":  # whose packets come to the socket itself
        assert 65534 in {one["uid"] for one in owners}


@ROOT
def test_reloading_writes_a_copy(unit):
    """It is whole, and the recorder goes on."""
    start(unit)
    unit.run("ping", "-c1", "127.0.0.1")
    (first,) = files(unit)
    until(lambda: info(unit, first)["packets"])
    unit.run("systemctl", "reload", UNIT)
    until(lambda: len(files(unit)) == 2)
    (made,) = set(files(unit)) - {first}
    assert info(unit, made)["closed"]
    assert shown(unit, made, "icmp")
    assert state(unit) == "active"


@ROOT
@pytest.mark.parametrize("whom", ["main", "all"])
def test_a_killed_service_leaves_nothing(unit, whom):
    """Whether its guardian is killed at the same time, or by systemd a moment later; another one starts.

    There are other namespaces, as on every host with containers, which cleanup has no right to enter.
    """
    unit.run("sh", "-c", "ip netns add other 2>/dev/null || true")
    start(unit)
    assert ours(unit)
    unit.run("systemctl", "kill", f"--kill-whom={whom}", "--signal=KILL", UNIT)
    until(lambda: state(unit, "SubState") == "auto-restart")
    assert ours(unit) == ""
    assert unit.run("sh", "-c", "ls /run/iptrec 2>/dev/null || true") == ""


@ROOT
@pytest.mark.parametrize("backend", ["nft"], indirect=True)
def test_stopping_before_it_is_ready_is_no_failure(unit):
    """The recorder ends by status 143 where it has recorded nothing yet."""
    unit.run("sh", "-c", STOPPED_EARLY, "sh", UNIT)
    assert (state(unit), state(unit, "Result")) == ("inactive", "success")


@ROOT
@pytest.mark.parametrize("backend", ["nft"], indirect=True)
def test_what_can_never_start_is_given_up(unit):
    """It is tried a few times, since its reason may pass."""
    directory = f"/run/systemd/system/{UNIT}.d"
    unit.run("mkdir", "-p", directory)
    unit.write(f"{directory}/soon.conf", "[Service]\nRestartSec=2500ms\n")
    unit.configure("t", "OPTIONS=--no-such-option")
    try:
        unit.run("systemctl", "daemon-reload")
        assert not unit.run("systemctl", "start", UNIT, check=False)
        until(lambda: state(unit) == "failed")
        assert int(state(unit, "NRestarts")) == 5
        assert state(unit, "ExecMainStatus") == "2"
    finally:
        unit.run("sh", "-c", f"rm -r {directory}; systemctl daemon-reload")


@ROOT
def test_the_service_can_record_another_namespace(unit, backend):
    """With the right to enter it, as docs/service.md has it."""
    unit.run("sh", "-c", "ip netns add far; ip -n far link set lo up")
    unit.run("sh", "-c", "mkdir -p /etc/systemd/system/iptrec@t.service.d")
    drop_in = "/etc/systemd/system/iptrec@t.service.d/netns.conf"
    unit.write(drop_in, "[Service]\nCapabilityBoundingSet=CAP_SYS_ADMIN\n")
    unit.configure("t", f"OPTIONS=--backend {backend} --netns far")
    try:
        unit.run("systemctl", "daemon-reload")
        start(unit)
        assert ours(unit) == ""
        unit.run("ip", "netns", "exec", "far", "ping", "-c1", "127.0.0.1")
        unit.run("systemctl", "stop", UNIT)
    finally:
        unit.run("sh", "-c", f"rm {drop_in}; systemctl daemon-reload; ip netns del far")
    assert shown(unit, *files(unit), "icmp")


@ROOT
@pytest.mark.parametrize("backend", ["nft"], indirect=True)
def test_rules_that_soon_went_have_their_texts(unit):
    """Told once more, in namespaces that the unit may have."""
    unit.run("nft", "add table ip f; add chain ip f i { type filter hook input priority 0; }")
    start(unit)
    unit.run("sh", "-c", SOON_GONE)
    unit.run("systemctl", "stop", UNIT)
    unit.run("nft", "delete table ip f")
    (path,) = files(unit)
    assert "nft-missed" in {one["kind"] for one in info(unit, path)["snapshots"]}
    met = [
        step for one in shown(unit, path, "icmp") for step in one["steps"] if step["chain"] == "i"
    ]
    assert {step["spec"] for step in met if step["rule"] or step["type"] == "rule"} == {
        "icmp type echo-request counter accept"
    }


@ROOT
def test_the_service_stops_by_itself(unit, backend):
    """What decodes beside it does so under the same restrictions."""
    prom = f"{FILES}/t.prom"
    unit.configure("t", f'OPTIONS=--backend {backend} --stop-on "ACCEPT icmp" --metrics {prom}')
    start(unit)
    unit.run("ping", "-c1", "127.0.0.1")
    until(lambda: state(unit) == "inactive")
    assert info(unit, *files(unit))["recording"]["stop_reason"] == "stop-on"
    counts = unit.run("cat", prom)
    assert re.search(r'^iptrec_packets_total\{verdict="ACCEPT",.*\} [1-9]', counts, re.MULTILINE)
    assert counts.endswith('iptrec_recording{netns=""} 0\n')


@ROOT
def test_the_service_takes_what_the_page_has(system):
    """The file of docs/service.md: each word of it is an option or the filter."""
    ((_, text),) = documents.of_kind("environment")
    system.configure("t", text)
    start(system)
    system.run("systemctl", "stop", UNIT)
    recording = info(system, files(system)[-1])["recording"]
    assert recording["filter"] == "tcp port 443 or icmp"
    assert "DROP dst port 443" in recording["command"]


class Manager:
    """A socket that is told what systemd would be."""

    def __init__(self, address):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(30)

    def next(self, seconds=30):
        self._socket.settimeout(seconds)
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().split("\n"))

    def close(self):
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def manager(request, tmp_path, lab, monkeypatch):
    """Whoever listens at NOTIFY_SOCKET; an abstract name is one of the lab's network namespace."""
    if request.param == "abstract":
        made = in_namespace(lab, lambda: Manager(f"\0iptrec-{os.getpid()}"))
        monkeypatch.setitem(lab._environment, "NOTIFY_SOCKET", f"@iptrec-{os.getpid()}")
    else:
        made = Manager(str(tmp_path / "notify"))
        monkeypatch.setitem(lab._environment, "NOTIFY_SOCKET", str(tmp_path / "notify"))
    with contextlib.closing(made):
        yield made


def in_namespace(lab, function):
    """What a function makes in the lab's network namespace."""
    if os.geteuid():
        pytest.skip("only root goes into a namespace of networks alone")
    from iptrec.kernel import netns

    outside = netns.moved(Path(f"/proc/{lab.pid}/ns/net"))
    try:
        return function()
    finally:
        netns.enter(outside)
        os.close(outside)


def test_a_manager_is_told(lab, backend, manager, tmp_path):
    """Ready once the rules are in place, then what is happening, then that it stops."""
    child = recorder.start(lab, "--backend", backend, "-o", tmp_path / "t.db", "icmp")
    ready = manager.next()
    assert ready == {"READY": "1", "STATUS": "recording"}
    rules = "iptables-legacy-save" if backend == "legacy" else "nft list ruleset"
    assert "iptrec" in lab.run(["sh", "-c", rules]).stdout
    assert manager.next()["STATUS"].startswith("recording: 0 events, 0 lost")
    lab.run(["ping", "-c1", "127.0.0.1"])
    recorder.stop(child)
    last = manager.next()
    assert last["STOPPING"] == "1"
    assert last["STATUS"].startswith("stopping (SIGINT): ")


@pytest.mark.parametrize("manager", ["file"], indirect=True)
def test_it_is_ready_not_before_the_rules_are_there(lab, manager, tmp_path):
    """Somebody holds the lock of iptables; as long as that takes, nobody is told."""
    lock = tmp_path / "lock"
    environment = lab._environment | {"XTABLES_LOCKFILE": str(lock)}
    lock.touch()
    with subprocess.Popen(
        ["flock", str(lock), "sh", "-c", "echo held; read _"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout.readline() == "held\n"
        words = ["record", "--backend", "legacy", "--drops", "no", "-o", str(tmp_path / "t.db")]
        child = lab.popen([*IPTREC, *words], env=environment, stderr=subprocess.PIPE)
        with pytest.raises(TimeoutError):
            manager.next(1.5)
        assert "iptrec" not in lab.run(["iptables-legacy-save"]).stdout
        holder.stdin.close()
    assert manager.next()["READY"] == "1"
    assert "iptrec" in lab.run(["iptables-legacy-save"]).stdout
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)


@pytest.mark.parametrize("manager", ["file"], indirect=True)
def test_the_command_cannot_speak_for_us(lab, manager, tmp_path):
    """NOTIFY_SOCKET is not in the environment of what is started after --."""
    told_of = tmp_path / "environment"
    shell = ["sh", "-c", f"env > {told_of}"]
    done = lab.run(
        [*IPTREC, "record", "-q", "--drops", "no", "-o", str(tmp_path / "t.db"), "--", *shell]
    )
    assert done.returncode == 0
    assert "NOTIFY_SOCKET" not in told_of.read_text()
    assert manager.next()["READY"] == "1"


@pytest.mark.parametrize(
    "address", ["", "relative", "/nowhere/at/all", "@", "\udcff", "/" + "x" * 200]
)
def test_nobody_listens(lab, address, tmp_path, monkeypatch):
    """Then nobody is told, and nothing is said."""
    monkeypatch.setitem(lab._environment, "NOTIFY_SOCKET", address)
    child, said = recorder.started(lab, "-o", tmp_path / "t.db")
    assert said.count("\n") == 1
    assert recorder.stop(child).startswith("recorded ")
