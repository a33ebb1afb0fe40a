"""What `why` says of every rule of a chain about one packet, to be compared with the rules' counters."""

from __future__ import annotations

import json

from iptrec.answers.before import before_steps
from iptrec.answers.packets import Packets
from iptrec.answers.selection import Selection
from iptrec.answers.why import Known, explain
from iptrec.matching import judge
from iptrec.recording.reader import Reader


def last_facts(path, chain, in_):
    """What is known of each packet that came in by an interface, at its last step in a chain; and explained."""
    selection = Selection(chains=frozenset({chain}))
    found = []
    with Reader(path) as reader:
        explained = {one.packet.number: one for one in explain(reader, Packets(reader, selection))}
        for batch in Packets(reader, selection).batches():
            known = Known(reader, 1, batch.interfaces)
            for at in batch.positions.tolist():
                packet = batch.traversal(at)
                steps = zip(packet.steps, before_steps(batch.window, at), strict=True)
                here = [one for one in steps if (one[0].table, one[0].chain) == chain]
                if packet.in_ == in_:
                    facts = known.facts(packet, *here[-1], batch.window)
                    facts.nft_sets()  # while the recording is open
                    found.append((facts, explained[packet.number]))
    return found


def claims(path, chain, in_):
    """Each packet's header, rule that it met in a chain, whether it matched, and what is said of that."""
    with Reader(path) as reader:
        packets = Packets(reader, Selection(chains=frozenset({chain})))
        for batch in packets.batches():
            known = Known(reader, 1, batch.interfaces)
            for at in batch.positions.tolist():
                packet = batch.traversal(at)
                if packet.in_ != in_:
                    continue
                for step, before in zip(packet.steps, before_steps(batch.window, at), strict=True):
                    if (step.table, step.chain) == chain:
                        facts = known.facts(packet, step, before, batch.window)
                        for _, rule in before.rules:
                            yield packet.header, rule, False, judge(rule, facts)
                        if step.type == "rule":
                            rule = _rule(batch.window, at, before.row)
                            yield packet.header, rule, True, judge(rule, facts)


def _rule(window, position, row):
    """The rule of an event."""
    path = window.assembly.outcomes[window.assembly.outcome[position]].path
    rows = window.assembly.events(position).tolist()
    return window.resolver.places[path[rows.index(row)]].rule


def mac(lab, host, name):
    """The link-layer address of an interface."""
    enter = ["ip", "-n", host] if host else ["ip"]
    (found,) = json.loads(lab.run([*enter, "-j", "link", "show", name]).stdout)
    return found["address"]
