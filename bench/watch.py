"""What a look at a table costs, against what iptables-save of the same table costs.

usage: python bench/watch.py [RULES...]
"""

from __future__ import annotations

import sys

from iptrec.kernel.lab import Lab

LOOK = """
import subprocess, sys, time
from iptrec.kernel.xt_tables import Tables
def best(work):
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)
save = ["iptables-legacy-save", "-t", "nat"]
with Tables("ipv4") as tables:
    look = best(lambda: tables.digest("nat"))
    shape = best(lambda: tables.unchanged_in_size("nat"))
saved = best(lambda: subprocess.run(save, stdout=subprocess.PIPE, check=True))
print(f"look {look * 1e3:.2f} ms, its size alone {shape * 1e3:.3f} ms, iptables-save {saved * 1e3:.2f} ms:"
      f" a look costs {look / saved:.2f} of it")
"""


def main() -> None:
    """Measure."""
    for count in map(int, sys.argv[1:] or ("1000", "40000", "100000")):
        chains = range(count // 4)
        lines = ["*nat", *(f":KUBE-SVC-{number:08X} -" for number in chains)]
        lines += [
            f'-A KUBE-SVC-{number:08X} -m comment --comment "ns/svc{number} {rule}" -j RETURN'
            for number in chains
            for rule in range(4)
        ]
        with Lab() as lab:
            lab.restore(None, "ipv4", "\n".join([*lines, "COMMIT", ""]))
            done = lab.run([sys.executable, "-c", LOOK])
        print(f"watch: {count:,} rules: {done.stdout}", end="")


if __name__ == "__main__":
    main()
