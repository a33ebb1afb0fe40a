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
from real_hosts import counters, network, traffic

from iptrec.packets.window import windows
from iptrec.recording.reader import Reader

_SAVES = {"legacy": ("iptables-legacy-save", "ip6tables-legacy-save"), "nft": ("nft", "list", "ruleset")}


@dataclass
class Truth:
    """What was found; ``differing``: place -> (kernel, recording); ``wrong``: what was told, and why it is not so."""

    sent: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    rules: int = 0
    hit: int = 0
    equal: int = 0
    uncountable: int = 0
    differing: dict[tuple[str, ...], tuple[int, int]] = field(default_factory=dict)
    packets: int = 0
    unsure: int = 0
    incomplete: int = 0
    lost: int = 0
    mixed: int = 0
    unseen: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    died: list[str] = field(default_factory=list)  # told as accepted, seen by nobody
    noise: dict[tuple[str, ...], tuple[int, int]] = field(default_factory=dict)  # counted after the end
    unknown: list[str] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


def run(lab, host, directory, count, rate=4000):
    """Make the host, send, record, compare."""
    network.build(lab, host.backend)
    with host.start(lab, host.backend) as behind:
        lab.settle()
        everybody = [network.WAN, network.LAN, *behind]
        network.pin_neighbours(lab, [None, *everybody])
        save = _SAVES[host.backend]
        commands = [save] if host.backend == "nft" else [(one,) for one in save]
        rules = "".join(lab.run(list(one)).stdout for one in commands)
        (directory / "rules").write_text(rules)
        plan = traffic.Plan(lab, behind, rules, count)
        (directory / "sent").write_text("".join(f"{number} {what}\n" for number, what in plan.described.items()))
        receivers = traffic.Receivers(lab, everybody, directory)
        path = directory / "t.db"
        counted = counters.Counters(lab, host.backend)
        before, child = _recorder(lab, host.backend, path, counted)
        refused = traffic.send(lab, plan.packets, directory, rate)
        after = _still(counted)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=120)
        noise = _changed(after, counted.read())
        arrived = receivers.stop()
    kernel = {place: _since(before[place], after.get(place)) for place in before}
    truth = _judge(path, kernel, plan.described, arrived)
    truth.sent, truth.refused = count, {str(one): text for one, text in refused.items() if text != "{}"}
    truth.noise = noise
    return truth


def _changed(before, after):
    """What was counted meanwhile; iptables sets the counter of a policy to 0 when a rule of the chain goes."""
    ours = {place for place in before if place[1] == "raw" and place[3] is None}
    return {place: (before[place], after.get(place)) for place in before if place not in ours
            and after.get(place) != before[place]}


def _since(before, after):
    return None if before is None or after is None else after - before


def _recorder(lab, backend, path, counted):
    """What was counted before, and a recorder that has missed nothing since."""
    for _ in range(10):
        before = _still(counted)
        child = recorder.start(lab, "--force", "--backend", backend, "-o", path, notes=True)
        now = counted.read()
        if all(now.get(place) == value for place, value in before.items()):
            return before, child
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
    raise AssertionError("somebody sends all the time")


def _still(counted):
    """The counters, when nothing is under way any more."""
    before = None
    while (now := counted.read()) != before:
        before = now
        time.sleep(0.2)
    return now


def _judge(path, counted, described, arrived):
    truth = Truth()
    hits = {}
    for line in iptrec("rules", path, "--json").stdout.splitlines():
        one = json.loads(line)
        place = one["family"], one["table"], one["chain"]
        hits[*place, None] = one["end"]["packets"]
        hits |= {(*place, rule["rule"]): rule["packets"] for rule in one["rules"]}
    for place, kernel in counted.items():
        truth.rules += place[3] is not None
        truth.uncountable += kernel is None
        if kernel is None:
            continue
        truth.hit += kernel > 0 and place[3] is not None
        truth.equal += hits.get(place, 0) == kernel
        if hits.get(place, 0) != kernel:
            truth.differing[place] = kernel, hits.get(place, 0)
    told = _told(path, truth)
    _compare(truth, told, described, arrived)
    return truth


def _told(path, truth):
    """Number of a packet -> what was said of each of its traversals, in order."""
    told = defaultdict(list)
    with Reader(path) as reader:
        truth.lost = sum(loss.events or 1 for loss in reader.losses)
        for window in windows(reader):
            assembly = window.assembly
            first, count = assembly.first[: window.decided], assembly.count[: window.decided]
            if not len(first):
                continue
            ids = _numbers(window.events, window.rows())
            low = np.minimum.reduceat(np.where(ids < 0, 1 << 40, ids), first)
            truth.mixed += int((np.maximum.reduceat(ids, first) > low).sum())
            for number, at in zip(low.tolist(), assembly.outcome[: window.decided].tolist(), strict=True):
                outcome = assembly.outcomes[at]
                truth.packets += 1
                truth.verdicts[outcome.verdict] += 1
                truth.unsure += outcome.doubt is not None
                truth.incomplete += not outcome.complete
                why = outcome.doubt or outcome.reason
                if why:
                    truth.reasons[why] += 1
                sure = outcome.complete and outcome.doubt is None
                if number < 1 << 40:
                    told[number].append((outcome.verdict, sure))
    return told


def _numbers(events, rows):
    """The number in the packet of each event; -1: another's, or not dumped."""
    buffer, start, length = events.buffer, events.payload[rows], events.payload_length[rows]
    at = np.maximum(start, 0)
    six = buffer[at] >> 4 == 6
    transport = at + np.where(six, 40, 20)
    protocol = np.where(six, buffer[at + 6], buffer[at + 9])
    tcp, udp = protocol == 6, protocol == 17
    echo = ((protocol == 1) & (buffer[transport] == 8)) | ((protocol == 58) & (buffer[transport] == 128))
    whole = (start >= 0) & (length >= transport - at + 16)
    words = np.lib.stride_tricks.sliding_window_view(buffer, 4)
    marked = (words[transport + 8] == np.frombuffer(traffic.MAGIC, np.uint8)).all(axis=1)
    by_mark = words[transport + 12].copy().view(">u4")[:, 0].astype(np.int64)
    sequence = words[transport + 4].copy().view(">u4")[:, 0].astype(np.int64)
    numbered = tcp & (sequence >> 24 == traffic.SEQUENCE >> 24)
    found = np.where(numbered, sequence & 0xFFFFFF, -1)
    return np.where(whole, np.where((udp | echo) & marked, by_mark, found), -1)


def _compare(truth, told, described, arrived):
    """What was told of each packet against whether it arrived."""
    for number, what in described.items():
        said = told.get(number)
        if not said:
            truth.unseen.append(f"#{number} {what}: arrived" if number in arrived else f"#{number} {what}")
        elif not all(sure for _, sure in said):
            truth.unknown.append(f"#{number} {what}: told {[verdict for verdict, _ in said]}, arrived: {number in arrived}")
        elif all(sure for _, sure in said):
            accepted = all(verdict == "ACCEPT" for verdict, _ in said)
            line = f"#{number} {what}: told {[verdict for verdict, _ in said]}"
            if not accepted and number in arrived:
                truth.wrong.append(f"{line}, but it arrived")
            elif accepted and number not in arrived:
                truth.died.append(f"{line}, but nobody saw it")
