"""Explanations made by hand: the way of a packet through chains, with the rules that were passed over."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from iptrec.answers.why import ExplainedStep, Explanation, Passed
from iptrec.decode.rulesets.types import Rule
from iptrec.matching.facts import Clause, Judgement
from iptrec.packets.model import RulePlace, Step, Traversal

HEADER = {"src": "10.0.0.1", "dst": "10.0.0.9", "proto": "udp", "sport": 1000, "dport": 53}
ADDRESS = Judgement(False, Clause("-d", "10.0.0.1/32"), "it is 10.0.0.9")
OTHER = Judgement(False, Clause("-d", "10.0.0.2/32"), "it is 10.0.0.9")
PORT = Judgement(False, Clause("--dport", "22", "udp"), "it is 53")
STATE = Judgement(None, Clause("--ctstate", "NEW", "conntrack"))
FITS = Judgement(True)


@dataclass
class Way:
    """A packet's steps, chain by chain.

    A chain is given by its rules, in order: a `Judgement` of one that was passed over, the target of one that
    matched, or a list of the rules of a chain that was called.
    """

    steps: list[ExplainedStep] = field(default_factory=list)
    _passed: list[Passed] = field(default_factory=list)
    _names: itertools.count = field(default_factory=itertools.count)

    def base(self, table, *rules, policy="ACCEPT"):
        """A base chain; without a policy its last rule ended the packet's way through it."""
        chain = f"BASE{next(self._names)}"
        self._rules(table, chain, rules)
        if policy is not None:
            self._step(table, chain, "policy", None, None, policy)
        return self

    def explanation(self, decided=-1, verdict="DROP", origin=None, **more):
        """``decided``: by which step; None: that was not seen. ``origin``: of its rule."""
        place = None
        if decided is not None:
            step = self.steps[decided].step
            place = RulePlace(step.table, step.chain, step.rule)
        values = {
            "number": 1, "time_ns": 1_500_000_000_000_000_001, "family": "ipv4", "netns": None,
            "in_": "eth0", "out": None, "header": HEADER, "link": None, "complete": True,
            "ambiguous": False, "reason": None, "steps": tuple(one.step for one in self.steps),
        }  # fmt: skip
        packet = Traversal(**(values | {"verdict": verdict, "decided_by": place} | more))
        return Explanation(packet, tuple(self.steps), origin)

    def _rules(self, table, chain, rules):
        for number, one in enumerate(rules, 1):
            if isinstance(one, Judgement):
                spec = f"-m rule --number {number}"
                rule = Rule(spec, None, None, goto=False, comment=None, conditional=True)
                self._passed.append(Passed(number, rule, one))
            elif isinstance(one, str):
                self._step(table, chain, "rule", number, f"-p udp -j {one}", one)
            else:
                called = f"CALLED{next(self._names)}"
                self._step(table, chain, "rule", number, f"-j {called}", called)
                self._rules(table, called, one)
                self._step(table, called, "return", None, None, "RETURN")

    def _step(self, table, chain, kind, number, spec, target):
        step = Step(
            time_ns=1, table=table, chain=chain, type=kind, rule=number, spec=spec, comment=None,
            target=target, target_args=None, mark=0, in_="eth0", out=None, physin=None, physout=None,
            header=HEADER,
        )  # fmt: skip
        self.steps.append(ExplainedStep(step, tuple(self._passed)))
        self._passed.clear()
