"""A recording of a host under fire, against what the kernel counted and what arrived."""

from __future__ import annotations

import json
import signal
import sqlite3
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
import recorder
from command import iptrec

import iptrec as api
from iptrec.names import HOOKS
from iptrec.packets.ends import DISCARDED
from iptrec.packets.window import windows
from iptrec.recording.reader import Reader
from real_hosts import network
from real_hosts.counters import Counters
from real_hosts.numbered import numbers
from real_hosts.plan import Plan
from real_hosts.traffic import Receivers, send

_LISTINGS = {
    "legacy": (("iptables-legacy-save",), ("ip6tables-legacy-save",)),
    "nft": (("nft", "list", "ruleset"),),
}
_NOBODY = 1 << 40  # above all numbers
_INPUT = HOOKS.index("INPUT")
_NO_DROPS = """
DELETE FROM chunk WHERE stream IN (SELECT id FROM stream WHERE kind = 'drops');
DELETE FROM loss WHERE stream IN (SELECT id FROM stream WHERE kind = 'drops');
DELETE FROM stream WHERE kind = 'drops';
DELETE FROM snapshot WHERE kind IN ('drop-reasons', 'drop-places');
"""


@dataclass
class Told:
    """Traversals, of what was sent and of what was answered, and what is told of them."""

    packets: int = 0
    unsure: int = 0
    incomplete: int = 0
    mixed: int = 0  # with the events of two packets
    unknown: list[str] = field(default_factory=list)  # of those sent, what is not sure
    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    unended: set[int] = field(default_factory=set)  # numbers of those that are UNKNOWN
    words: dict[int, str] = field(
        default_factory=dict
    )  # of those that are DISCARDED, the kernel's reasons


@dataclass
class Truth:
    """What was found: how many, or which.

    Places are (family, table, chain, number); ``differing`` and ``noise`` have what the kernel counted and
    what the recording says, or what it counted later. ``blind``, ``ends``, ``perhaps``, ``false_ends``: of the
    same recording without the kernel's words on what it dropped, which are the truth then.
    """

    sent: int
    refused: dict[str, str]  # host -> errors of sending, which a rule of OUTPUT causes, too
    noise: dict[tuple[str, ...], tuple[int, int]]  # counted after the end: somebody else sent
    rules: int = 0
    hit: int = 0
    equal: int = 0  # rules, and policies where they are counted
    uncountable: int = 0
    differing: dict[tuple[str, ...], tuple[int, int]] = field(default_factory=dict)
    lost: int = 0
    seen: Told = field(default_factory=Told)
    blind: Told = field(default_factory=Told)
    ends: int = (
        0  # traversals that are UNKNOWN, and surely ended as is told, by routes and settings
    )
    perhaps: int = 0
    unjudged: int = (
        0  # sure ones of which the kernel's word may be another packet's, which reads the same
    )
    false_ends: list[str] = field(
        default_factory=list
    )  # told as sure, and the kernel says otherwise
    wrong: dict[int, str] = field(default_factory=dict)  # told as surely dropped, and arrived
    vanished: dict[int, str] = field(
        default_factory=dict
    )  # told as surely accepted, and seen by nobody
    untraced: dict[int, str] = field(default_factory=dict)


def run(lab, host, directory, count):
    """Make the host, send ``count`` packets, record, compare."""
    network.build(lab, host.backend)
    with host.start(lab, host.backend) as behind:
        lab.settle()
        everybody = [network.WAN, network.LAN, *behind]
        network.pin_neighbours(lab, [None, *everybody])
        listings = _LISTINGS[host.backend]
        plan = Plan(lab, behind, "".join(lab.run(list(one)).stdout for one in listings), count)
        receivers = Receivers(lab, everybody, directory)
        path = directory / "t.db"
        counters = Counters(lab, host.backend)
        before, child = _recorder(lab, host.backend, path, counters)
        refused = send(lab, plan.packets, directory, host.rate)
        after = _still(counters)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=300)
        truth = Truth(count, refused, _later(after, counters.read()))
        arrived = receivers.stop()
    _count(truth, path, {place: _between(before[place], after.get(place)) for place in before})
    blind = _without_drops(path)
    for one, told in ((path, truth.seen), (blind, truth.blind)):
        _compare(truth, told, _traversals(truth, told, one), plan.described, arrived)
    assert truth.seen.packets == truth.blind.packets
    _compare_ends(truth, blind)
    return truth


def _between(before, after):
    return None if before is None or after is None else after - before


def _later(before, after):
    """What was counted meanwhile; iptables zeroes a policy's counter where a rule of its chain goes."""
    return {
        place: (before[place], after.get(place))
        for place in before
        if after.get(place) != before[place] and (place[1], place[3]) != ("raw", None)
    }


def _recorder(lab, backend, path, counters):
    """What was counted before, and a recorder that has missed nothing since."""
    for _ in range(10):
        before = _still(counters)
        asked = "--force", "--backend", backend, "--drops", "auto", "-o", path
        child = recorder.start(lab, *asked, notes=True)
        now = counters.read()
        if all(now.get(place) == count for place, count in before.items()):
            return before, child
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
    raise AssertionError("somebody sends all the time")


def _still(counters):
    """What is counted when nothing is under way any more."""
    before = None
    while (now := counters.read()) != before:
        before = now
        time.sleep(0.2)
    return now


def _count(truth, path, kernel):
    """Compare the hits of each rule and policy."""
    hits = Counter()
    for line in iptrec("rules", path, "--json").stdout.splitlines():
        one = json.loads(line)
        place = one["family"], one["table"], one["chain"]
        hits[*place, None] = one["end"]["packets"]
        hits.update({(*place, rule["rule"]): rule["packets"] for rule in one["rules"]})
    rules = {place: count for place, count in kernel.items() if place[3] is not None}
    truth.rules, truth.hit = len(rules), sum(bool(count) for count in rules.values())
    known = {place: count for place, count in kernel.items() if count is not None}
    truth.uncountable = len(kernel) - len(known)
    late = {place: (later or count) - count for place, (count, later) in truth.noise.items()}
    truth.differing = {
        place: (count, hits[place])
        for place, count in known.items()
        if not count <= hits[place] <= count + late.get(place, 0)
    }
    truth.equal = len(known) - len(truth.differing)


def _traversals(truth, told, path):
    """Number of a packet -> verdict of each of its traversals, in order, and whether it is sure."""
    found = defaultdict(list)
    with Reader(path) as reader:
        truth.lost = sum(loss.events or 1 for loss in reader.losses if loss.of_events)
        for window in windows(reader):
            assembly, decided = window.assembly, window.decided
            outcomes = [assembly.outcomes[at] for at in assembly.outcome[:decided].tolist()]
            hooks = window.events.hook[assembly.lasts()[:decided]].tolist()
            of = _of_traversals(told, window)
            for outcome, hook, number in zip(outcomes, hooks, of, strict=True):
                _judge(told, outcome)
                sure = outcome.complete and outcome.doubt is None
                if number != _NOBODY:
                    found[number].append((_verdict(outcome, hook), sure))
    return found


def _verdict(outcome, hook):
    """What is to be compared with arrival: what no socket took has arrived, our receiver saw it before."""
    delivered = outcome.verdict == DISCARDED and hook == _INPUT
    return "ACCEPT" if delivered else outcome.verdict


def _of_traversals(told, window):
    """The number in each decided traversal."""
    first = window.assembly.first[: window.decided]
    if not len(first):
        return []
    found = numbers(window.events, window.rows())
    lowest = np.minimum.reduceat(np.where(found < 0, _NOBODY, found), first)
    told.mixed += int((np.maximum.reduceat(found, first) > lowest).sum())
    return lowest.tolist()


def _judge(told, outcome):
    told.packets += 1
    if outcome.verdict == "UNKNOWN":
        told.unended.add(told.packets)
    if outcome.death is not None:
        told.words[told.packets] = outcome.death.reason, outcome.death.sure
    told.verdicts[outcome.verdict] += 1
    told.unsure += outcome.doubt is not None
    told.incomplete += not outcome.complete
    if why := outcome.doubt or outcome.reason:
        told.reasons[why] += 1


def _compare(truth, told, found, described, arrived):
    """What was told of each packet against whether it arrived; what is wrong twice is there once."""
    for number, what in described.items():
        said = found.get(number, [])
        verdicts = [verdict for verdict, _ in said]
        line = f"#{number} {what}: told {verdicts}, {'' if number in arrived else 'not '}seen to arrive"
        if not said:
            truth.untraced[number] = line
        elif not all(sure for _, sure in said):
            told.unknown.append(line)
        elif set(verdicts) != {"ACCEPT"} and number in arrived:
            truth.wrong[number] = line
        elif set(verdicts) == {"ACCEPT"} and number not in arrived:
            truth.vanished[number] = line


def _without_drops(path):
    """The recording as one has it who may not ask why the kernel drops."""
    less = path.with_name("without-drops.db")
    less.unlink(missing_ok=True)
    with sqlite3.connect(path) as before, sqlite3.connect(less) as after:
        before.backup(after)
        after.executescript(_NO_DROPS)
    return less


def _compare_ends(truth, blind):
    """The ends that routes and settings tell, against the kernel's word."""
    if not truth.blind.unended:
        return
    with api.open(blind) as recording:
        unended = {one.number: one.end for one in recording.packets(verdict="UNKNOWN")}
    assert unended.keys() == truth.blind.unended
    for number, end in unended.items():
        word, sure = truth.seen.words.get(number, (None, True))
        truth.ends += end is not None and end.sure
        truth.perhaps += end is not None and not end.sure
        if end is None or not end.sure:
            continue
        truth.unjudged += not sure
        if word != end.reason:
            truth.false_ends.append(
                f"packet {number}: {end.text}; the kernel said {word or 'nothing'}"
            )
