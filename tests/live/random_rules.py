"""Rulesets by chance in which rules rewrite packets and later ones look at them: nft's own, and iptables'."""

from __future__ import annotations

import random

CHAINS = {"PREROUTING": "mangle", "INPUT": "mangle", "FORWARD": "mangle", "POSTROUTING": "mangle"}
HOOKS = {"PREROUTING": -150, "INPUT": -150, "FORWARD": -150, "POSTROUTING": -150}
RULES = 24  # a chain
MARKS = ["0x0", "0x1", "0x6", "0x10", "0x16", "0x100"]
DSCP = ["cs0", "cs1", "cs2", "af11", "ef"]
CLASSES = ["0x00", "0x04", "0x08", "0x10", "0x2e"]
TTLS = [1, 5, 9, 63, 64, 65]
PORTS = [53, 80, 443, 5000, 5001]
HOPS = {4: "ip ttl", 6: "ip6 hoplimit"}
IP = {4: "ip", 6: "ip6"}
HERE = {4: "10.0.1.1", 6: "fd00:1::1"}
THERE = {4: "10.0.2.2", 6: "fd00:2::2"}
FROM = {4: "10.0.1.2", 6: "fd00:1::2"}
NETS = {4: ["10.0.1.0/24", "10.0.2.0/24", "10.0.0.0/16"], 6: ["fd00:1::/64", "fd00:2::/64", "fd00::/16"]}


class Native:
    """Rules in nft's own words. ``seed`` makes the same ones again."""

    def __init__(self, seed, version):
        self._chance = random.Random(f"native {seed} {version}")  # noqa: S311 - no secret
        self._version = version

    def ruleset(self):
        """Text for nft -f: a base chain at each hook, and a chain to jump to."""
        one = self._chance.choice
        chains = []
        for chain, priority in HOOKS.items():
            rules = [self._rule() for _ in range(RULES)]
            if self._version == 4:
                rules.insert(self._chance.randrange(RULES), f"{self._condition()} counter jump other")
            kind = f"type filter hook {chain.lower()} priority {priority}; policy accept"
            chains.append(f"\tchain {chain} {{\n\t\t{kind}\n" + "".join(f"\t\t{rule}\n" for rule in rules) + "\t}\n")
        other = "".join(f"\t\t{self._rule()}\n" for _ in range(RULES // 4))
        family = one(["inet", IP[self._version]])
        self.table = f"{family} fw"
        return f"table {self.table} {{\n\tchain other {{\n{other}\t}}\n{''.join(chains)}}}\n"

    def _rule(self):
        one = self._chance.choice
        kind = self._chance.random()
        self._protocol = one(["tcp", "udp"])  # nft refuses both in one rule
        if kind < 0.55:
            return f"{self._conditions()} counter"
        if kind < 0.85:
            return f"{self._conditions()} {self._write()} counter".lstrip()
        if kind < 0.95:  # it writes, and then may not match
            return f"{self._write()} {self._condition()} counter"
        return f"{self._conditions()} counter {one(['accept', 'return'])}"

    def _conditions(self):
        return " ".join(self._condition() for _ in range(self._chance.choice([1, 1, 2])))

    def _condition(self):
        one, ip = self._chance.choice, IP[self._version]
        no = one(["", "", "!= "])
        return one(
            [
                lambda: f"meta mark {no}{one(MARKS)}",
                lambda: f"meta mark {no}{{ {one(MARKS)}, 0x7 }}",
                lambda: f"meta mark & 0x10 {one(['==', '!='])} 0x10",
                lambda: f"{ip} dscp {no}{one(DSCP)}",
                lambda: f"{ip} dscp {{ {one(DSCP[:2])}, {one(DSCP[2:])} }}",
                lambda: f"{ip} ecn {no}{one(['not-ect', 'ect0', 'ce'])}",
                lambda: f"{HOPS[self._version]} {no}{one(TTLS)}",
                lambda: f"{HOPS[self._version]} {one(['<', '>'])} {one(TTLS)}",
                lambda: f"{self._protocol} dport {no}{one(PORTS)}",
                lambda: f"{self._protocol} dport {{ {one(PORTS[:2])}, {one(PORTS[2:])} }}",
                lambda: f"th dport {no}{one(PORTS)}",
                lambda: f"{ip} daddr {no}{one([HERE, THERE])[self._version]}",
                lambda: f"{ip} saddr {no}{one(NETS[self._version])}",
                lambda: f"{ip} saddr . {ip} daddr {{ {FROM[self._version]} . {HERE[self._version]} }}",
                lambda: f"meta l4proto {self._protocol}",
                lambda: "meta l4proto != esp",
                lambda: f"iifname {no}\"{one(['v1', 'v2', 'v*'])}\"",
                lambda: (
                    f"tcp flags {one(['syn', 'ack', '& (syn | ack) == syn', '!= syn'])}"
                    if self._protocol == "tcp"
                    else f"udp length {one(['<', '>'])} 20"
                ),
                lambda: f"ct state {no}{one(['new', 'established', 'invalid', 'untracked'])}",
                lambda: f"meta length {one(['<', '>'])} {one([40, 60, 100])}",
                lambda: f"fib daddr type {no}{one(['local', 'unicast', 'multicast'])}",
                *(
                    [lambda: f"ip id {no}7", lambda: "@nh,8,8 & 0xfc == 0x20"]
                    if self._version == 4
                    else [lambda: f"ip6 flowlabel {no}{one([0, 5])}", lambda: "@nh,56,8 64"]
                ),
            ]
        )()

    def _write(self):
        one, ip = self._chance.choice, IP[self._version]
        return one(
            [
                lambda: f"meta mark set {one(MARKS)}",
                lambda: f"meta mark set meta mark | {one(MARKS[3:])}",
                lambda: f"meta mark set meta mark & {one(MARKS[1:])}",
                lambda: f"{ip} dscp set {one(DSCP)}",
                lambda: f"{ip} dscp set {one(DSCP)}",
                lambda: f"{ip} ecn set {one(['not-ect', 'ect0', 'ce'])}",
                lambda: f"{HOPS[self._version]} set {one(TTLS)}",
                lambda: f"{HOPS[self._version]} set {one(TTLS)}",
                lambda: f"{self._protocol} dport set {one(PORTS)}",
                lambda: f"{ip} saddr set {FROM[self._version]}",
                lambda: "ct mark set 5",
                lambda: "meta mark set ct mark",
                *(
                    [lambda: f"ip id set {one([7, 9])}"]
                    if self._version == 4
                    else [lambda: f"ip6 flowlabel set {one([0, 5])}"]
                ),
            ]
        )()


class Iptables:
    """Rules of iptables, for iptables-restore. ``seed`` makes the same ones again."""

    def __init__(self, seed, version):
        self._chance = random.Random(f"iptables {seed} {version}")  # noqa: S311 - no secret
        self._version = version

    def ruleset(self):
        """A table mangle, and a chain to jump to."""
        rules = [f"-A other {self._rule()}" for _ in range(RULES // 4)]
        for chain in CHAINS:
            own = [self._rule() for _ in range(RULES)]
            own.insert(self._chance.randrange(RULES), f"{self._condition()} -j other")
            rules += [f"-A {chain} {one}" for one in own]
        return "*mangle\n:other - [0:0]\n" + "".join(f"{one}\n" for one in rules) + "COMMIT\n"

    def _rule(self):
        kind = self._chance.random()
        if kind < 0.55:
            return self._conditions()
        if kind < 0.95:
            return f"{self._conditions()} -j {self._write()}"
        return f"{self._conditions()} -j {self._chance.choice(['ACCEPT', 'RETURN'])}"

    def _conditions(self):
        found = {}  # iptables takes each option and module once
        for one in (self._condition() for _ in range(self._chance.choice([1, 1, 2]))):
            words = one.removeprefix("! ").split()
            found.setdefault(words[1] if words[0] == "-m" else words[0], one)
        return " ".join(found[key] for key in sorted(found))

    def _condition(self):
        one = self._chance.choice
        no = one(["", "", "! "])
        hops = "-m ttl --ttl" if self._version == 4 else "-m hl --hl"
        return one(
            [
                lambda: f"-m mark {no}--mark {one(MARKS)}",
                lambda: f"-m mark {no}--mark 0x10/0x10",
                lambda: f"-m dscp {no}--dscp {one(CLASSES)}",
                lambda: f"-m tos {no}--tos {one(['0x00/0xff', '0x10/0x3f', '0x20/0xff', '0x04/0x04'])}",
                lambda: f"-m ecn {no}--ecn-ip-ect {one([0, 2, 3])}",
                lambda: f"{hops}-eq {one(TTLS)}",
                lambda: f"{hops}-lt {one(TTLS)}",
                lambda: f"{hops}-gt {one(TTLS)}",
                lambda: f"-p udp -m udp {no}--dport {one(PORTS)}",
                lambda: f"-p tcp -m multiport {no}--dports {one(PORTS)},{one(PORTS)}",
                lambda: f"-p tcp -m tcp {no}--tcp-flags SYN,ACK {one(['SYN', 'ACK'])}",
                lambda: f"{no}-d {one([HERE, THERE])[self._version]}",
                lambda: f"{no}-s {one(NETS[self._version])}",
                lambda: f"{no}-p {one(['tcp', 'udp', 'esp'])}",
                lambda: f"-m addrtype {no}--dst-type {one(['LOCAL', 'UNICAST', 'MULTICAST'])}",
                lambda: f"-m length {no}--length {one(['0:40', '41:100'])}",
            ]
        )()

    def _write(self):
        one = self._chance.choice
        hops = "TTL --ttl" if self._version == 4 else "HL --hl"
        return one(
            [
                lambda: f"MARK --set-xmark {one(MARKS)}/0xffffffff",
                lambda: f"MARK --set-xmark {one(MARKS)}/0xff",
                lambda: f"TOS --set-tos {one(['0x10/0xff', '0x20/0x3f', '0x00/0xff', '0x04/0x04'])}",
                lambda: f"DSCP --set-dscp {one(CLASSES)}",
                lambda: f"DSCP --set-dscp {one(CLASSES)}",
                lambda: f"{hops}-set {one(TTLS)}",
                lambda: f"{hops}-set {one(TTLS)}",
                lambda: f"{hops}-{one(['inc', 'dec'])} 1",
                lambda: "CONNMARK --set-xmark 0x6/0xffffffff",
                lambda: "CONNMARK --save-mark",
                lambda: "CONNMARK --restore-mark",
            ]
        )()
