"""The rules change all the time while packets pass: each packet is told once, by rules that it met.

IPTREC_CHANGING: how many packets, a thousand a second. Less than 1 % are unsure, on a busy machine, too, where
the recorder may have a program in the kernel; without that, a busy machine does not let it ask in time which
ruleset is in force.
"""

from __future__ import annotations

import os

import changing
import pytest
from command import IPTREC
from single_changes import Single, SingleLegacy

from iptrec.errors import HostError
from iptrec.kernel import netlink, netns
from iptrec.kernel.legacy.replacements import Replacements
from iptrec.kernel.nft import switches
from iptrec.packets import ruleset_choice

COUNT = int(os.environ.get("IPTREC_CHANGING", "2000"))
pytestmark = [pytest.mark.live, pytest.mark.timeout(300 + COUNT // 100)]


def native(lab, text):
    """How a native ruleset is loaded, the n-th time."""
    lab.run(["nft", "-f", "-"], stdin=changing.static())

    def load(number):
        lab.run(["nft", "-f", "-"], stdin=text.replace("RULES", changing.rules(number)))

    return load, 0.2


def reload(lab):
    return native(lab, changing.RELOAD)


def rehook(lab):
    """A chain keeps its name at another hook."""
    return in_turn(lab, changing.FORWARD, changing.PREROUTING)


def rejump(lab):
    """A chain keeps its name, where another chain jumps to it."""
    return in_turn(lab, changing.FORWARD, changing.RELOAD)


def going(lab):
    """What the old chains' rules do while they are still attached beside the new ones."""
    return in_turn(
        lab, *(changing.ASIDE + one for one in (changing.RELOAD, changing.REBASE, changing.FORWARD))
    )


def in_turn(lab, *texts):
    loads = [native(lab, one)[0] for one in texts]
    return lambda number: loads[number % len(texts)](number), 0.2


def asleep(lab):
    """No packet meets the chains of a table while it is dormant."""
    return in_turn(lab, changing.RELOAD, changing.SLEEP, changing.WAKE)[0], 0.04


def refill(lab):
    return native(lab, changing.REFILL)


def elements(lab):
    """As what bans addresses does, 50 a second."""
    lab.run(["nft", "-f", "-"], stdin=changing.static(changing.rules(0)))

    def add(number):
        element = f"10.9.{number >> 8}.{number & 255}"
        lab.run(["nft", f"add element inet fw others {{ {element} }}"])

    return add, 0.02


def restore(lab):
    """By iptables-nft."""
    lab.run(["nft", "-f", "-"], stdin=changing.AROUND)
    return lambda number: lab.run(["iptables-nft-restore"], stdin=changing.saved(number)), 0.2


def two_tables(lab):
    """By iptables-nft, which commits one table after the other."""
    lab.run(["nft", "-f", "-"], stdin=changing.AROUND)
    return lambda number: lab.run(["iptables-nft-restore"], stdin=changing.two_tables(number)), 0.2


def most_unsure():
    """Of all packets."""
    if changing.SLOW:
        return COUNT
    with netlink.connected() as opened:
        noted = switches.attached(opened, 0x0A11, 0x0A0F)
    return COUNT / (10 if noted is None else 100)


def most_unsure_of_legacy():
    """The same: nobody but a program in the kernel tells when a table is replaced."""
    try:
        with Replacements(netns.inode()):
            return COUNT if changing.SLOW else COUNT / 100
    except HostError:
        return COUNT


@pytest.mark.parametrize("variants", [2, 1_000_000], ids=["two", "new"])
@pytest.mark.parametrize(
    "case", [reload, rehook, rejump, asleep, refill, elements, going, restore, two_tables]
)
def test_each_packet_is_told_once(lab, tmp_path, case, variants, monkeypatch):
    """By a rule that it met, and hardly ever in two ways.

    ``variants``: how many rulesets take turns; of two each text is seen sooner or later, of others when they
    are gone.
    """
    if case is elements and variants > 2:
        pytest.skip("its rules stay")
    monkeypatch.setattr(
        ruleset_choice, "contradicted", lambda *_, **__: False
    )  # marks: the judge's
    change, every_s = case(lab)
    told = changing.run(
        lab, tmp_path / "t.db", lambda number: change(number % variants), count=COUNT,
        every_s=every_s,
    )  # fmt: skip
    assert (told.told, told.doubled, told.wrong, told.incomplete) == (COUNT, 0, 0, 0), told
    assert told.unsure <= (most_unsure() if case not in (refill, elements) else 0), told
    assert told.changes >= COUNT // 1000
    assert told.unread == 0 or changing.SLOW, told


def test_tables_whose_chains_change_places(lab, tmp_path, monkeypatch):
    """In each commit a packet may pass four chains of two names, the old and the new ones in any order.

    What drops accepts for a moment: a commit sets the policies when its rules are in force already.
    """
    monkeypatch.setattr(ruleset_choice, "contradicted", lambda *_, **__: False)
    lab.run(["nft", "-f", "-"], stdin=changing.AROUND)
    told = changing.run(
        lab, tmp_path / "t.db", lambda number: lab.run(["nft", "-f", "-"], stdin=changing.moved(number)),
        count=COUNT, every_s=0.02,
    )  # fmt: skip
    assert (told.told, told.doubled, told.wrong, told.incomplete) == (COUNT, 0, 0, 0), told
    assert told.unsure <= 5 * most_unsure(), told


@pytest.mark.parametrize("tap", [True, False], ids=["tap", "no-tap"])
def test_chains_before_raw_that_move(lab, tmp_path, tap, monkeypatch):
    """Which of them is the first that a packet passes changes with each commit, and the hook it is at.

    One of several thousands passes both, old and new, in an order that is not found: its telling breaks off.
    """
    monkeypatch.setattr(ruleset_choice, "contradicted", lambda *_, **__: False)
    lab.run(["nft", "-f", "-"], stdin=changing.AROUND)
    told = changing.run(
        lab, tmp_path / "t.db", lambda number: lab.run(["nft", "-f", "-"], stdin=changing.early(number)),
        count=COUNT, every_s=0.04, before=["env", f"IPTREC_NO_TAP={int(not tap)}", *IPTREC],
    )  # fmt: skip
    assert told.told == COUNT, told
    assert told.doubled + told.wrong + told.incomplete <= COUNT // 500, told
    assert told.unsure <= most_unsure(), told


@pytest.mark.parametrize("every_s", [0.06, 0.01])
def test_one_small_change_after_another(lab, tmp_path, every_s, monkeypatch):
    """Rules, chains, names, policies, elements, hooks, and commands that the kernel refuses."""
    monkeypatch.setattr(ruleset_choice, "contradicted", lambda *_, **__: False)
    told = changing.run(lab, tmp_path / "t.db", Single(lab), count=COUNT, every_s=every_s)
    assert (told.told, told.doubled, told.wrong, told.incomplete) == (COUNT, 0, 0, 0), told
    assert told.unsure <= most_unsure(), told
    assert told.unread == 0 or changing.SLOW, told


@pytest.mark.parametrize("variants", [2, 1_000_000], ids=["two", "new"])
def test_two_tables_of_legacy_iptables(lab, tmp_path, variants, monkeypatch):
    """iptables-restore commits one after the other: a packet may meet the new mangle and the old filter."""
    monkeypatch.setattr(ruleset_choice, "contradicted", lambda *_, **__: False)

    def load(number):
        text = changing.two_tables(number % variants)
        lab.run(["iptables-legacy-restore"], stdin=text)

    told = changing.run(lab, tmp_path / "t.db", load, count=COUNT, every_s=0.2, backend="legacy")
    assert (told.told, told.doubled, told.wrong) == (COUNT, 0, 0), told
    assert told.unsure + told.incomplete <= most_unsure_of_legacy(), told


@pytest.mark.parametrize("every_s", [0.06, 0.02])
def test_one_small_change_of_legacy_iptables_after_another(lab, tmp_path, every_s, monkeypatch):
    """A rule comes, goes, or is replaced: every command makes the whole table anew.

    A state that is gone before it could be printed is unknown, and said to be.
    """
    monkeypatch.setattr(ruleset_choice, "contradicted", lambda *_, **__: False)
    told = changing.run(
        lab, tmp_path / "t.db", SingleLegacy(lab), count=COUNT, every_s=every_s, backend="legacy"
    )
    assert (told.told, told.doubled, told.wrong) == (COUNT, 0, 0), told
    if every_s > 0.05:  # else others may be faster than iptables-save is
        assert told.unsure <= most_unsure_of_legacy(), told
