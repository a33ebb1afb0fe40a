"""What `why` says of every rule of a chain about one packet, to be compared with the rules' counters."""

from __future__ import annotations

from iptrec.answers.packets import Packets
from iptrec.answers.selection import Selection
from iptrec.answers.why import Known, explain
from iptrec.matching import judge
from iptrec.recording.reader import Reader


def last_facts(path, chain, in_):
    """What is known of each packet that came in by an interface, at its last step in a chain; and explained."""
    found = []
    with Reader(path) as reader:
        selection = Selection(chains=frozenset({chain}))
        explained = {one.packet.number: one for one in explain(reader, Packets(reader, selection))}
        for packet, steps in _met(reader, chain, in_):
            facts = steps[-1][2].facts
            facts.nft_sets("")  # while the recording is open
            found.append((facts, explained[packet.number]))
    return found


def claims(path, chain, in_=None):
    """Each packet's header, rule that it met in a chain, whether it matched, and what is said of that."""
    with Reader(path) as reader:
        for packet, steps in _met(reader, chain, in_):
            for step, before, met in steps:
                for _, rule, facts in met.passed:
                    yield packet.header, rule, False, judge(rule, facts)
                if step.type == "rule":
                    rule = before.place.rule
                    yield packet.header, rule, True, judge(rule, met.facts)


def _met(reader, chain, in_):
    """The packets that came in by an interface, or all, and their steps in a chain."""
    for batch in Packets(reader, Selection(chains=frozenset({chain}))).batches():
        known = Known(reader, 1, batch.interfaces)
        for at in batch.positions.tolist():
            packet = batch.traversal(at)
            if in_ in (None, packet.in_):
                assembly = batch.window.assembly
                path = assembly.outcomes[assembly.outcome[at]].path
                steps = known.steps(packet, batch.window, at, path)
                yield packet, [one for one in steps if (one[0].table, one[0].chain) == chain]
