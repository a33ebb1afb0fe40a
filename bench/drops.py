"""What --drops costs: packets that nobody traces, packets that are traced and go on, and those that die.

usage: python bench/drops.py [ROUNDS]

As forward.py does: the router's work is done in the sender's time. Each figure is a ratio of recorders with and
without drops in one run, the least of some rounds, taken in turn.
"""

from __future__ import annotations

import sys
import tempfile

from forward import FLOOD, PACKETS, recording, router
from tcpdump import cpu_of

from iptrec.demo.lab import Lab

NOBODY = "10.9.9.9"  # no route leads there
WAYS = {  # what is recorded, and where the flood goes
    "not traced": ("tcp port 443 and host 192.0.2.1", "10.0.2.2"),
    "traced": ("udp", "10.0.2.2"),
    "dropped": ("udp", NOBODY),
    "not traced, dropped": ("tcp port 443 and host 192.0.2.1", NOBODY),
}


def measured(lab: Lab, way: str, drops: str, directory: str) -> tuple[float, float]:
    """Processor time (us) a packet: of the sender, and of the recorder."""
    expression, target = WAYS[way]
    script = FLOOD.replace("10.0.2.2", target).replace("out.send(payload)", "send()").replace(
        "begun =", "def send():\n    try: out.send(payload)\n    except OSError: pass\nbegun ="
    )  # fmt: skip
    with recording(lab, expression, directory, "--drops", drops) as pid:
        before = cpu_of(pid)
        sender = float(lab.run([sys.executable, "-c", script], "h1", timeout=120).stdout)
        recorder = cpu_of(pid) - before
    return sender / PACKETS * 1e6, recorder / PACKETS * 1e6


def main() -> None:
    """Measure."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    costs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory, Lab() as lab:
        router(lab)
        for _ in range(rounds):
            for way in WAYS:
                for drops in ("no", "yes"):
                    costs.setdefault((way, drops), []).append(measured(lab, way, drops, directory))
    for way in WAYS:
        without, with_ = (
            [min(one) for one in zip(*costs[way, drops], strict=True)] for drops in ("no", "yes")
        )
        print(
            f"| {way}: the sender with --drops | {with_[0] / without[0]:.3f} of {without[0]:.2f} us | |"
        )
        if without[1] > 0.1:  # noqa: PLR2004 - us: less is nothing
            print(
                f"| {way}: the recorder with --drops | {with_[1] / without[1]:.2f} of {without[1]:.2f} us | |"
            )


if __name__ == "__main__":
    main()
