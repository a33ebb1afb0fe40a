"""Somebody takes our rules out, or chains that tell what became of packets go and come: all is back at once."""

from __future__ import annotations

import os

import changing
import pytest
import recorder

from iptrec.recording.reader import Reader

COUNT = int(os.environ.get("IPTREC_CHANGING", "2000"))
pytestmark = [pytest.mark.live, pytest.mark.timeout(300 + COUNT // 100)]

# The only chain behind PREROUTING that packets pass here.
ONLY = "table inet fw {{ chain only {{ type filter hook {} priority {}; {}; }}; }}\n"
RULES = "udp dport 5000-5002 meta mark set {0}"


@pytest.mark.parametrize("tap", [True, False], ids=["tap", "no-tap"])
def test_chains_that_go_and_come(lab, tmp_path, monkeypatch, tap):
    """Each time nobody else sees what passes; with it, ours would have to come as well."""
    if not tap:
        monkeypatch.setenv("IPTREC_NO_TAP", "1")

    def change(number):
        if number % 2:
            lab.run(["nft", "delete table inet fw"])
        else:
            hook, priority = [("forward", 0), ("postrouting", 200), ("forward", 5)][number // 2 % 3]
            text = ONLY.format(hook, priority, RULES.format(1000 + number))
            lab.run(["nft", "-f", "-"], stdin=text)

    told = changing.run(lab, tmp_path / "t.db", change, count=COUNT, every_s=0.05)
    assert (told.told, told.doubled, told.wrong) == (COUNT, 0, 0), told
    assert told.incomplete + told.unsure <= COUNT / 100 or changing.SLOW, told


@pytest.mark.parametrize(
    "commands",
    [
        ["flush table ip raw"],
        ["flush table ip raw", "delete chain ip raw PREROUTING"],
        ["delete table ip raw"],
        ["flush chain ip raw OUTPUT"],
        ["flush ruleset"],
    ],
    ids=["rules", "chains", "table", "ours", "all"],
)
def test_our_rules_are_back_before_anything_is_listed(lab, tmp_path, commands):
    """However long that takes; nobody has listed the ruleset without them."""
    path = tmp_path / "t.db"
    child = recorder.start(lab, "udp", "--backend", "nft", "--family", "ipv4", "-o", path)
    assert listed(path) == [2]
    lab.run(["nft", "; ".join(commands)])
    assert "put back" in child.stderr.readline()
    assert recorder.until(lambda: listed(path)[1:])[0] == 2
    recorder.stop(child)
    with Reader(path) as reader:
        assert [one.how for one in reader.losses] == ["rules-gone"]
    assert lab.run(["nft", "list", "ruleset"]).stdout == ""


def listed(path):
    """How many rules of ours each listing has."""
    with Reader(path) as reader:
        saved = reader.snapshots("iptables-nft-save")
        return [one.content.count(b"-j TRACE") for one in saved]
