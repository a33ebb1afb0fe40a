"""What rulesets cost: to look at a table, to store it, to read it; against iptables-save of the same rules.

usage: python bench/rulesets.py [RULES...]
"""

from __future__ import annotations

import sys

from iptrec.demo.lab import Lab

# A process that reads a pipe waits for the one that writes it: processor time of both is what counts.
COSTS = """
import resource, subprocess, sys
from iptrec.decode.rulesets import iptables_save
from iptrec.kernel import iptables
from iptrec.kernel.legacy.digest import Tables
from iptrec.recording.writer import Blob

def cpu():
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in both)

def cost(work):
    costs = []
    for _ in range(5):
        begun = cpu()
        work()
        costs.append(cpu() - begun)
    return min(costs)

def stored():
    Blob.of(iptables.save("ipv4")[1])

save = ["iptables-legacy-save", "-c"]
saved = cost(lambda: subprocess.run(save, stdout=subprocess.PIPE, check=True))
with Tables("ipv4") as tables:
    looked = cost(lambda: tables.digest("nat"))
_, text = iptables.save("ipv4")
print(saved, looked, cost(stored), cost(lambda: iptables_save.parse(text)))
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
            done = lab.run([sys.executable, "-c", COSTS])
        saved, looked, stored, parsed = map(float, done.stdout.split())
        print(f"| {count:,} rules: iptables-save | {saved * 1e3:.0f} ms | |")
        print(f"| a snapshot, hashed and compressed | {stored / saved:.2f} of it | 1.2 |")
        print(f"| a look that finds nothing new | {looked / saved:.2f} of it | a hash |")
        target = "1 s" if count == 100_000 else ""  # noqa: PLR2004
        print(f"| reading them | {parsed:.2f} s | {target} |")


if __name__ == "__main__":
    main()
