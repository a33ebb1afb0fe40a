"""The parser and iptables itself: what we read, iptables reads back as the same rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from iptrec.decode.rulesets import iptables_save

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
REAL = sorted((ROOT / "tests" / "data" / "rulesets").glob("*.rules")) + sorted(
    (ROOT / "samples").glob("*.rules")
)
TRICKY = """\
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:a:b:rule:1 - [0:0]
:-x - [0:0]
-A INPUT -m comment --comment "say \\"no\\" -j DROP" -j a:b:rule:1
-A INPUT -m comment --comment "two\\nlines and a \\\\ backslash" -g a:b:rule:1
-A INPUT ! -s 10.0.0.0/8 -p tcp -m tcp ! --dport 1:1023 -m comment --comment -j -j LOG --log-prefix "a b: "
-A INPUT -p icmp -m icmp --icmp-type 8
COMMIT
""".replace(":-x - [0:0]\n", "")


def written(tables):
    """Our values as iptables-restore reads them."""
    lines = []
    for name, chains in tables.items():
        lines.append(f"*{name}")
        lines += [f":{chain.name} {chain.policy or '-'} [0:0]" for chain in chains.values()]
        for chain in chains.values():
            for rule in chain.rules:
                counters = "" if rule.counters is None else "[{}:{}] ".format(*rule.counters)
                lines.append(f"{counters}-A {chain.name} {rule.spec}")
        lines.append("COMMIT")
    return "\n".join([*lines, ""])


def values(tables):
    return {
        name: {
            chain.name: (chain.policy, [rule.spec for rule in chain.rules])
            for chain in chains.values()
        }
        for name, chains in tables.items()
    }


@pytest.mark.parametrize(
    "text",
    [*(path.read_text() for path in REAL), TRICKY],
    ids=[*(path.stem for path in REAL), "tricky"],
)
def test_round_trip(lab, text):
    """Parsed, written, restored and saved again: equal values, counters and targets included."""
    parsed = iptables_save.parse(text.encode()).tables
    tested = lab.run(["iptables-legacy-restore", "--test"], stdin=written(parsed), check=False)
    assert tested.returncode == 0, tested.stderr
    lab.run(["iptables-legacy-restore", "-c"], stdin=written(parsed))
    saved = lab.run(["iptables-legacy-save", "-c"]).stdout
    again = iptables_save.parse(saved.encode()).tables
    lab.run(["iptables-legacy-restore", "-c"], stdin=written(again))
    third = iptables_save.parse(lab.run(["iptables-legacy-save", "-c"]).stdout.encode()).tables
    assert values(again) == values(third)
    assert {name: list(chains) for name, chains in values(parsed).items()} == {
        name: list(chains) for name, chains in values(again).items() if name in parsed
    }
    for name, chains in parsed.items():
        for chain in chains.values():
            kept = again[name][chain.name].rules
            assert [(one.target, one.goto, one.comment) for one in chain.rules] == [
                (one.target, one.goto, one.comment) for one in kept
            ]
