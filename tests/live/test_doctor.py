"""`iptrec doctor`: what would keep recording from working is found, with its fix."""

from __future__ import annotations

import json
import shutil

import pytest
from command import IPTREC
from recorder import start
from validation import validator

pytestmark = pytest.mark.live

READ_ONLY = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'


def findings(lab, *command):
    """By what was looked at, and the exit status."""
    done = lab.run([*command, *IPTREC, "doctor", "--json"], check=False)
    assert done.stderr == ""
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for one in found:
        validator("doctor").validate(one)
    return {one["what"]: one for one in found}, done.returncode


def test_a_host_that_is_fit(lab):
    """Nothing fails, nothing is changed: no table is loaded."""
    found, status = findings(lab)
    assert status == 0
    assert not [one for one in found.values() if one["level"] == "failure"]
    assert {"kernel", "rights", "ipv4 extensions", "nflog group 0", "space"} <= set(found)
    assert lab.run(["cat", "/proc/net/ip_tables_names"]).stdout == ""
    text = lab.run([*IPTREC, "doctor"]).stdout
    assert text.count("\n") == len(found)


CASES = {
    "read-only": (["unshare", "-m", "sh", "-c", READ_ONLY, "sh"], "ipv4 logger", "sysctl -w net.netfilter"),
    "rights": (["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"], "rights", "sudo"),
    "iptables": (
        ["unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /usr/sbin && exec "$@"', "sh"],
        "ipv4 commands", "apt-get install iptables",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_missing_is_told_with_its_fix(lab, case):
    """Exit status 1, and the finding says what to do."""
    command, what, fix = CASES[case]
    found, status = findings(lab, *command)
    assert status == 1
    assert found[what]["level"] == "failure"
    assert fix in found[what]["fix"]


@pytest.mark.parametrize(("value", "told"), [("0", True), ("1", False)])
def test_bridges_whose_packets_pass_no_rules(lab, value, told):
    """Where nothing is traced of what a bridge passes on, its user learns why; without a bridge nobody asks."""
    setting = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    if lab.run(["test", "-e", setting], check=False).returncode:
        pytest.skip("br_netfilter is not loaded")
    lab.run(["sh", "-c", f"echo {value} > {setting}"])
    assert "iptables of bridges" not in findings(lab)[0]
    lab.ip(None, "link add br7 type bridge")
    found, status = findings(lab)
    assert ("iptables of bridges" in found, status) == (told, 0)
    if told:
        one = found["iptables of bridges"]
        assert one["level"] == "note"
        assert "br7: packets between its ports pass no rules of iptables" in one["fact"]
        assert one["fix"].endswith("sysctl net.bridge.bridge-nf-call-iptables=1")


def test_others(lab, tmp_path):
    """Somebody's TRACE rule, a recorder at work."""
    lab.run(["iptables-legacy", "-t", "raw", "-A", "OUTPUT", "-p", "udp", "-j", "TRACE"])
    found, status = findings(lab)
    assert (status, found["ipv4 TRACE rules"]["level"]) == (0, "warning")
    child = start(lab, "-o", tmp_path / "t.db")
    found, status = findings(lab)
    assert status == 1
    assert f"(pid {child.pid})" in found["nflog group 0"]["fact"]
    assert "left behind" not in found
    child.terminate()
    child.communicate(timeout=30)


def test_another_namespace(lab):
    """--netns looks there."""
    lab.host("other")
    lab.run(["iptables-legacy", "-t", "raw", "-A", "OUTPUT", "-j", "TRACE"], "other")
    done = lab.run([*IPTREC, "doctor", "--netns", "other"])
    assert "ipv4 TRACE rules" in done.stdout
    assert "ipv4 TRACE rules" not in lab.run([*IPTREC, "doctor"]).stdout


def test_nf_tables(lab):
    """Whether it has rules, and what recording it needs; without iptables-nft it works all the same."""
    if shutil.which("nft", path="/usr/bin:/usr/sbin:/sbin") is None:
        pytest.skip("nft is not installed")
    lab.run(["nft", "add", "table", "inet", "fw"])
    found, status = findings(lab)
    assert (status, found["ipv4 commands"]["level"]) == (0, "ok")
    hidden = 'mount --bind /dev/null $(readlink -f $(command -v iptables-nft-save)) && exec "$@"'
    found, status = findings(lab, "unshare", "-m", "sh", "-c", hidden, "sh")
    assert (status, found["ipv4 commands"]["level"]) == (0, "note")
    assert found["ipv4 commands"]["fact"] == "nft is installed, iptables-nft is not"
