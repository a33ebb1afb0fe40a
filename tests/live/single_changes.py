"""Rulesets that change by one small command after another, some of which the kernel refuses."""

from __future__ import annotations

import random
import re

import changing

BEGIN = """\
table inet fw {
    set others { type ipv4_addr; }
    map ways { type inet_service : verdict; }
    chain refused { drop; }
    chain judged {
        RULES
    }
    chain forwarded {
        type filter hook forward priority filter; policy drop
        udp dport vmap @ways
        udp dport @ports drop
        jump judged
    }
    set ports { type inet_service; elements = { 9 }; }
    chain moved { type filter hook forward priority 5; meta mark set 1000; }
}
"""
_HANDLE = re.compile(r"# handle (\d+)$", re.MULTILINE)
_REFUSED = (
    "delete chain inet fw nosuch",
    "delete chain inet fw refused",  # rules jump to it
    "add rule inet fw refused meta mark set 1\nadd rule inet fw refused jump nosuch",
    "rename chain inet fw refused forwarded",
)


class Single:
    """The n-th change is drawn from all that there are, with a mark of its own (see `changing`).

    Each fourth is refused.
    """

    def __init__(self, lab, seed=7):
        self._lab = lab
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._name = "judged"
        self._more = []  # chains that nobody jumps to
        self._ways, self._ports = set(), set()
        lab.run(
            ["nft", "-f", "-"], stdin=changing.AROUND + BEGIN.replace("RULES", changing.rules(0))
        )

    def __call__(self, number):
        mark = f"meta mark set {1000 + number}"
        if number % 4 == 0:
            self._refused(mark)
            return
        change = self._random.choice([
            self._add, self._insert, self._replace, self._delete, self._flush, self._chain, self._gone,
            self._rename, self._policy, self._element, self._way, self._move,
        ])  # fmt: skip
        change(mark)

    def _nft(self, *commands):
        return self._lab.run(["nft", "-f", "-"], stdin="\n".join(commands)).stdout

    def _rules(self):
        """The handles of the rules of the chain that judges."""
        told = self._lab.run(["nft", "-a", "list", "chain", "inet", "fw", self._name]).stdout
        return _HANDLE.findall(told)[1:]  # the first one is the chain's

    def _port(self):
        return self._random.choice(changing.PORTS)

    def _add(self, mark):
        self._nft(f"add rule inet fw {self._name} udp dport {self._port()} {mark} accept")

    def _insert(self, mark):
        self._nft(f"insert rule inet fw {self._name} udp dport {self._port()} {mark} goto refused")

    def _replace(self, mark):
        if handles := self._rules():
            old = self._random.choice(handles)
            self._nft(
                f"replace rule inet fw {self._name} handle {old} udp dport {self._port()} {mark} accept"
            )

    def _delete(self, _):
        if handles := self._rules():
            self._nft(f"delete rule inet fw {self._name} handle {self._random.choice(handles)}")

    def _flush(self, mark):
        rules = [
            f"add rule inet fw {self._name} udp dport {port} {mark} accept"
            for port in changing.PORTS
        ]
        self._nft(f"flush chain inet fw {self._name}", *rules)

    def _chain(self, mark):
        name = f"more{mark.rpartition(' ')[2]}"
        self._nft(
            f"add chain inet fw {name}",
            f"add rule inet fw {name} {mark} accept",
            f"insert rule inet fw {self._name} udp dport {self._port()} jump {name}",
        )
        self._more.append(name)

    def _gone(self, mark):
        """All chains that were added, with the rules that jump there."""
        self._flush(mark)
        self._nft(*(f"flush chain inet fw {one}\ndelete chain inet fw {one}" for one in self._more))
        self._more.clear()

    def _rename(self, mark):
        """The chain that judges, or one that it jumps to."""
        new = f"called{mark.rpartition(' ')[2]}"
        if self._more and self._random.random() < 0.5:
            self._nft(f"rename chain inet fw {self._more.pop()} {new}")
            self._more.append(new)
        else:
            self._nft(f"rename chain inet fw {self._name} {new}")
            self._name = new

    def _policy(self, _):
        self._nft(
            f"chain inet fw forwarded {{ policy {self._random.choice(['accept', 'drop'])}; }}"
        )

    def _element(self, _):
        self._turn("ports", self._ports, "")

    def _way(self, _):
        self._turn("ways", self._ways, " : goto refused")

    def _turn(self, name, there, verdict):
        """An element comes, or goes."""
        port = self._port()
        value = f"{port}{verdict}"
        self._nft(f"{'delete' if port in there else 'add'} element inet fw {name} {{ {value} }}")
        there ^= {port}

    def _move(self, mark):
        """A base chain is deleted and made again, at the same hook or another one."""
        hook = self._random.choice(["forward", "prerouting", "postrouting"])
        self._nft(
            "flush chain inet fw moved",
            "delete chain inet fw moved",
            f"add chain inet fw moved {{ type filter hook {hook} priority {self._random.randrange(3, 9)}; }}",
            f"add rule inet fw moved {mark}",
        )

    def _refused(self, mark):
        command = self._random.choice(_REFUSED)
        told = self._lab.run(
            ["nft", "-f", "-"], stdin=command.replace("set 1", mark[5:]), check=False
        )
        assert told.returncode, command


class SingleLegacy:
    """The same of legacy iptables: FORWARD of mangle or of filter, by -I, -A, -R, -D and -P."""

    def __init__(self, lab, seed=7):
        self._lab = lab
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._there = {"filter": 0, "mangle": 0}  # pairs of rules, of which the first sets the mark
        lab.run(["iptables-legacy-restore"], stdin=changing.two_tables(0))
        for table in self._there:
            self._run(table, "-F", "FORWARD")

    def __call__(self, number):
        table = self._random.choice([*self._there])
        mark = str(1000 + number)
        there = self._there[table]
        if there and self._random.random() < 0.3:
            self._run(table, "-D", "FORWARD", str(self._random.randint(1, there)))
            self._there[table] -= 1
        elif there and self._random.random() < 0.3:
            self._run(
                table, "-R", "FORWARD", str(self._random.randint(1, there)), *self._rule(mark)
            )
        else:
            self._run(table, self._random.choice(["-I", "-A"]), "FORWARD", *self._rule(mark))
            self._there[table] += 1

    def _rule(self, mark):
        port = str(self._random.choice(changing.PORTS))
        return "-p", "udp", "--dport", port, "-j", "MARK", "--set-mark", mark

    def _run(self, table, *arguments):
        self._lab.run(["iptables-legacy", "-w", "-t", table, *arguments])
