"""A recording of a host under fire, against what the kernel counted and what arrived."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
import recorder
from command import iptrec

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


@dataclass
class Truth:
    """What was found: how many, or which.

    Places are (family, table, chain, number); ``differing`` and ``noise`` have what the kernel counted and
    what the recording says, or what it counted later.
    """

    sent: int
    refused: dict[str, str]  # host -> errors of sending, which a rule of OUTPUT causes, too
    noise: dict[tuple[str, ...], tuple[int, int]]  # counted after the end: somebody else sent
    rules: int = 0
    hit: int = 0
    equal: int = 0  # rules, and policies where they are counted
    uncountable: int = 0
    differing: dict[tuple[str, ...], tuple[int, int]] = field(default_factory=dict)
    packets: int = 0  # traversals: of what was sent, and of what was answered
    unsure: int = 0
    incomplete: int = 0
    mixed: int = 0  # traversals with the events of two packets
    lost: int = 0
    wrong: list[str] = field(default_factory=list)  # told as surely dropped, and arrived
    vanished: list[str] = field(default_factory=list)  # told as surely accepted, and seen by nobody
    unknown: list[str] = field(default_factory=list)  # of those sent, what is not sure
    untraced: list[str] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


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
    _compare(truth, _told(truth, path), plan.described, arrived)
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
        child = recorder.start(lab, "--force", "--backend", backend, "-o", path, notes=True)
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


def _told(truth, path):
    """Number of a packet -> verdict of each of its traversals, in order, and whether it is sure."""
    told = defaultdict(list)
    with Reader(path) as reader:
        truth.lost = sum(loss.events or 1 for loss in reader.losses if loss.of_events)
        for window in windows(reader):
            outcomes = [
                window.assembly.outcomes[at]
                for at in window.assembly.outcome[: window.decided].tolist()
            ]
            for outcome, number in zip(outcomes, _of_traversals(truth, window), strict=True):
                _judge(truth, outcome)
                sure = outcome.complete and outcome.doubt is None
                if number != _NOBODY:
                    told[number].append((outcome.verdict, sure))
    return told


def _of_traversals(truth, window):
    """The number in each decided traversal."""
    first = window.assembly.first[: window.decided]
    if not len(first):
        return []
    found = numbers(window.events, window.rows())
    lowest = np.minimum.reduceat(np.where(found < 0, _NOBODY, found), first)
    truth.mixed += int((np.maximum.reduceat(found, first) > lowest).sum())
    return lowest.tolist()


def _judge(truth, outcome):
    truth.packets += 1
    truth.verdicts[outcome.verdict] += 1
    truth.unsure += outcome.doubt is not None
    truth.incomplete += not outcome.complete
    if why := outcome.doubt or outcome.reason:
        truth.reasons[why] += 1


def _compare(truth, told, described, arrived):
    """What was told of each packet against whether it arrived."""
    for number, what in described.items():
        said = told.get(number, [])
        verdicts = [verdict for verdict, _ in said]
        line = f"#{number} {what}: told {verdicts}, {'' if number in arrived else 'not '}seen to arrive"
        if not said:
            truth.untraced.append(line)
        elif not all(sure for _, sure in said):
            truth.unknown.append(line)
        elif set(verdicts) != {"ACCEPT"} and number in arrived:
            truth.wrong.append(line)
        elif set(verdicts) == {"ACCEPT"} and number not in arrived:
            truth.vanished.append(line)
