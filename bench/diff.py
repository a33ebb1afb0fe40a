"""100,000 rules against 100,000 with 500 changes: how long, against reading them once.

usage: python bench/diff.py [RULES] [CHANGES]
"""

from __future__ import annotations

import random
import sys
import time

from iptrec.answers.diff import compare
from iptrec.decode.rulesets import iptables_save


def main() -> None:
    """Measure."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    changes = int(sys.argv[2]) if len(sys.argv) > 2 else 500  # noqa: PLR2004
    lines = [
        f"-A INPUT -s 10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32 -p tcp -j DROP" for n in range(count)
    ]
    rng = random.Random(1)  # noqa: S311 - no secret
    edited = list(lines)
    for number in rng.sample(range(count), changes):
        edited[number] = edited[number].replace("tcp", "udp")
    texts = [
        "\n".join(["*filter", ":INPUT ACCEPT [0:0]", *one, "COMMIT", ""]).encode()
        for one in (lines, edited)
    ]
    begun = time.perf_counter()
    old = iptables_save.parse(texts[0])
    read = time.perf_counter() - begun
    found = list(compare({"ipv4": old}, {"ipv4": iptables_save.parse(texts[1])}))
    whole = time.perf_counter() - begun
    print(
        f"diff: {count:,} rules, {len(found)} of {changes} changes found in {whole:.2f} s with reading both"
        f" ({whole / read:.1f} times reading one)"
    )


if __name__ == "__main__":
    main()
