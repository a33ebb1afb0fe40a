"""`iptrec diff` from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import iptrec
from validation import fits

ROOT = Path(__file__).parents[2]
LOOPBACK = str(ROOT / "samples" / "loopback.db")
KUBERNETES = str(ROOT / "samples" / "kubernetes.db")
RULES = "*filter\n:INPUT ACCEPT [0:0]\n{}COMMIT\n"


def diff(*arguments):
    return iptrec("diff", *arguments)


@pytest.fixture
def files(tmp_path):
    """Two files of iptables-save that differ in a rule."""
    paths = []
    for name, rule in (
        ("a", "-A INPUT -j DROP\n"),
        ("b", "-A INPUT -p tcp -j DROP\n-A INPUT -j LOG\n"),
    ):
        paths.append(str(tmp_path / name))
        Path(paths[-1]).write_text(RULES.format(rule))
    return paths


def test_files(files):
    """Exit status 1 and the changes; 0 and a word for equal ones."""
    done = diff(*files)
    assert done.returncode == 1
    assert done.stdout == (
        "@@ filter/INPUT (ipv4) @@\n-    #1 -j DROP\n+    #1 -p tcp -j DROP\n+    #2 -j LOG\n"
        "1 rule changed, 1 rule inserted\n"
    )
    same = diff(files[0], files[0])
    assert (same.returncode, same.stdout) == (0, "no difference\n")


def test_recordings_and_files_in_any_mixture():
    """The ruleset that a sample was made with is the one in it, from the start to the end."""
    rules = str(ROOT / "samples" / "kubeadm-flannel.rules")
    for operands in (
        [KUBERNETES],
        [KUBERNETES, f"{KUBERNETES}@-0s"],
        [f"{KUBERNETES}@start", f"{KUBERNETES}@end"],
    ):
        assert diff(*operands).stdout == "no difference\n", operands
    done = diff(rules, KUBERNETES)
    assert done.returncode in (0, 1)
    assert "KUBE-SVC" not in "".join(line for line in done.stdout.splitlines() if line[:1] == "-")


def test_json(files):
    """What schemas/ says; the packets that hit a rule that changed are listed."""
    found = fits("diff", diff("--json", *files).stdout)
    assert found["summary"] == {"changed": 1, "inserted": 1}
    assert [one["packets"] for one in found["changes"]] == [None, None]
    found = fits("diff", diff("--json", files[0], LOOPBACK).stdout)
    hit = {one["new"]: one["packets"] for one in found["changes"] if one["packets"]}
    assert hit["-p udp -j DROP"] == [16]


def test_two_packets_side_by_side():
    """To the step where their ways part, and on; 80 columns."""
    done = diff("--packets", "2", "10", LOOPBACK)
    assert done.returncode == 1
    assert "filter/INPUT #1 > a:b:rule:1" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    found = fits("diff-packets", diff("--packets", "2", "10", "--json", LOOPBACK).stdout)
    assert found["diverges_at"] == 3
    assert [one["packet"] for one in found["packets"]] == [2, 10]
    assert diff("--packets", "2", "2", LOOPBACK).returncode == 0


KUBEADM, IPV6 = (str(Path(LOOPBACK).with_name(one)) for one in ("kubeadm-flannel.rules", "ipv6.db"))
BAD = {
    "three": (["a", "b", "c"], "diff compares two, not 3"),
    "one_file": ([__file__], "is not a recording: say what to compare it with"),
    "no_rules": ([__file__, __file__], "is it a file of iptables-save?"),
    "missing": (["/nope", LOOPBACK], "cannot open /nope"),
    "families": ([KUBEADM, IPV6], "nothing to compare: there is ipv4 in "),
    "one_moment": (
        [f"{LOOPBACK}@foo"],
        "is one moment of a recording: say what to compare it with",
    ),
    "moment_of_a_file": ([f"{KUBEADM}@end", KUBEADM], "is not a recording: it has no @end"),
    "time": ([f"{LOOPBACK}@noon", LOOPBACK], "'noon' is not a time"),
    "packet": (["--packets", "1", "99", LOOPBACK], "has no packet 99"),
    "both": (["--traces", "--packets", "1", "2", LOOPBACK], "two different questions"),
}


@pytest.mark.parametrize("case", BAD)
def test_trouble_is_one_line(case):
    """Exit status 2."""
    arguments, message = BAD[case]
    done = diff(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
