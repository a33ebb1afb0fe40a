"""What --drops costs: packets that nobody traces, packets that are traced and go on, and those that die.

usage: python bench/drops.py [ROUNDS]

As forward.py does: the router's work is done in the sender's time. Each figure is a ratio of recorders with and
without drops in one run, the least of some rounds (five), taken in turn. A round takes half a minute.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from typing import TYPE_CHECKING

from forward import FLOOD, PACKETS, recording, router
from tcpdump import cpu_of

from iptrec.demo.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_NOTHING_US = 0.3  # of a recorder that has nothing to do
NOBODY = "10.9.9.9"  # no route leads there
WAYS = {  # what is recorded, and where the flood goes
    "not traced": ("tcp port 443 and host 192.0.2.1", "10.0.2.2"),
    "traced": ("udp", "10.0.2.2"),
    "dropped": ("udp", NOBODY),
    "not traced, dropped": ("tcp port 443 and host 192.0.2.1", NOBODY),
}
# Times as much at most: a packet that is not told of costs a bit test.
TARGETS = {
    ("not traced", "sender"): 1.02,
    ("not traced, dropped", "sender"): 1.05,
    ("traced", "sender"): 1.02,
    ("traced", "recorder"): 1.1,
}


def measured(lab: Lab, way: str, drops: str, directory: str) -> tuple[float, float]:
    """Processor time (us) a packet: of the sender, and of the recorder."""
    expression, target = WAYS[way]
    script = FLOOD.replace("10.0.2.2", target).replace("out.send(payload)", "send()").replace(
        "begun =", "def send():\n    try: out.send(payload)\n    except OSError: pass\nbegun ="
    )  # fmt: skip
    with recording(lab, expression, directory, *drops.split()[1:]) as pid:
        before = cpu_of(pid)
        sender = float(lab.run([sys.executable, "-c", script], "h1", timeout=120).stdout)
        recorder = cpu_of(pid) - before
    return sender / PACKETS * 1e6, recorder / PACKETS * 1e6


def compare(
    measure: Callable[[str, str], tuple[float, float]],
    ways: Iterable[str],
    options: tuple[str, str],
    targets: Mapping[tuple[str, str], float],
) -> None:
    """Print what the second one of two options costs the sender and the recorder, each way."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    costs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for one in itertools.product(ways, options):
            costs.setdefault(one, []).append(measure(*one))
    for way in ways:
        least = [[min(one) for one in zip(*costs[way, how], strict=True)] for how in options]
        for who, before, after in zip(("sender", "recorder"), *least, strict=True):
            if before > _NOTHING_US:
                what, target = f"{way}: the {who} {options[1]}", targets.get((way, who), "")
                print(
                    f"| {what} | {after / before:.3f} times {before:.2f} us a packet | {target} |"
                )


def main() -> None:
    """Measure."""
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory, Lab() as lab:
        router(lab)
        compare(
            lambda way, drops: measured(lab, way, drops, directory),
            WAYS,
            ("with --drops no", "with --drops yes"),
            TARGETS,
        )


if __name__ == "__main__":
    main()
