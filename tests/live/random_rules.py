"""Rulesets by chance in which rules rewrite packets and later ones look at them: nft's own, and iptables'.

The same seed makes the same ruleset again. What is asked for is what a packet, its interfaces, its connection's
state and the host's addresses tell.
"""

from __future__ import annotations

import random

HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
RULES = 16  # a chain
MARKS = ["0x0", "0x1", "0x6", "0x10", "0x16", "0x100"]
DSCP = ["cs0", "cs1", "cs2", "af11", "ef"]
CLASSES = ["0x00", "0x04", "0x08", "0x10", "0x2e"]
TTLS = [1, 5, 9, 63, 64, 65]
PORTS = [53, 80, 443, 5000, 5001]
IP = {4: "ip", 6: "ip6"}
HOPS = {4: "ip ttl", 6: "ip6 hoplimit"}
HERE = {4: "10.0.1.1", 6: "fd00:1::1"}
THERE = {4: "10.0.2.2", 6: "fd00:2::2"}
FROM = {4: "10.0.1.2", 6: "fd00:1::2"}
NETS = {
    4: ["10.0.1.0/24", "10.0.2.0/24", "10.0.0.0/16"],
    6: ["fd00:1::/64", "fd00:2::/64", "fd00::/16"],
}


class Native:
    """Rules in nft's own words; ``table``: where they are."""

    def __init__(self, seed, version):
        self._chance = random.Random(f"native {seed} {version}")  # noqa: S311 - no secret
        self._one = self._chance.choice
        self._version, self._ip = version, IP[version]
        self.table = f"{self._one(['inet', self._ip])} fw"
        self.chains = [f"{hook}_{kind}" for hook in HOOKS for kind in ("mangle", "filter")]
        self.chains += ["prerouting_nat", "postrouting_nat", "prerouting_early", "other"]

    def ruleset(self):
        """Text for nft -f: two base chains at each hook, more where there is NAT, and a chain to jump to."""
        chains = [_chain("other", "", (self._rule() for _ in range(RULES // 3)))]
        for hook in HOOKS:
            for kind, priority in (("mangle", -150), ("filter", 5)):
                rules = [self._rule() for _ in range(RULES)]
                self._protocol = "tcp"
                rules.insert(
                    self._chance.randrange(RULES),
                    f"{self._condition()} counter {self._one(['jump', 'jump', 'goto'])} other",
                )
                chains.append(
                    _chain(f"{hook}_{kind}", f"type filter hook {hook} priority {priority};", rules)
                )
        to = f"{self._ip} to" if self.table.startswith("inet") else "to"
        far = f"{THERE[self._version][:-1]}1"
        for hook, priority, targets in (
            ("prerouting", -100, [f"dnat {to} {HERE[self._version]}", "redirect to :5001"]),
            ("postrouting", 100, ["masquerade", f"snat {to} {far}"]),
        ):
            rules = [self._rule() for _ in range(RULES // 2)]
            rules += [f"{self._transported()} counter {target}" for target in targets]
            chains.append(
                _chain(f"{hook}_nat", f"type nat hook {hook} priority {priority};", rules)
            )
        rules = [self._rule() for _ in range(RULES // 2)]
        rules.append(f"{self._transported()} counter notrack")
        chains.append(
            _chain("prerouting_early", "type filter hook prerouting priority -290;", rules)
        )
        return f"table {self.table} {{\n{''.join(chains)}}}\n"

    def _transported(self):
        self._protocol = self._one(["tcp", "udp"])
        return f"{self._protocol} dport {self._one(PORTS)}"

    def _rule(self):
        kind = self._chance.random()
        self._protocol = self._one(["tcp", "udp"])  # nft refuses both in one rule
        if kind < 0.55:
            return f"{self._conditions()} counter"
        if kind < 0.85:
            return f"{self._conditions()} {self._write()} counter"
        if kind < 0.95:  # it writes, and then may not match
            return f"{self._write()} {self._condition()} counter"
        return f"{self._conditions()} counter {self._one(['accept', 'return'])}"

    def _conditions(self):
        return " ".join(self._condition() for _ in range(self._one([1, 1, 2])))

    def _condition(self):
        no = self._one(["", "", "!= "])
        return self._one(
            [self._of_mark, self._of_ip, self._of_ip, self._of_transport, self._of_host]
        )(no)

    def _of_mark(self, no):
        return self._one(
            [
                f"meta mark {no}{self._one(MARKS)}",
                f"meta mark {no}{{ {self._one(MARKS)}, 0x7 }}",
                f"meta mark & 0x10 {self._one(['==', '!='])} 0x10",
            ]
        )

    def _of_ip(self, no):
        one, ip, hops = self._one, self._ip, HOPS[self._version]
        raw = ["@nh,8,8 & 0xfc == 0x20", f"ip id {no}7"]
        return one(
            [
                f"{ip} dscp {no}{one(DSCP)}",
                f"{ip} dscp {{ {one(DSCP[:2])}, {one(DSCP[2:])} }}",
                f"{ip} ecn {no}{one(['not-ect', 'ect0', 'ce'])}",
                f"{hops} {no}{one(TTLS)}",
                f"{hops} > {one(TTLS[:3])}",
                f"{hops} < {one(TTLS[3:])}",
                f"{ip} daddr {no}{one([HERE, THERE])[self._version]}",
                f"{ip} saddr {no}{one(NETS[self._version])}",
                f"{ip} saddr . {ip} daddr {{ {FROM[self._version]} . {HERE[self._version]} }}",
                *(
                    raw
                    if self._version == 4
                    else ["@nh,56,8 64", f"ip6 flowlabel {no}{one([0, 5])}"]
                ),
            ]
        )

    def _of_transport(self, no):
        one, protocol = self._one, self._protocol
        flags = one(["syn", "ack", "& (syn | ack) == syn", "!= syn"])
        return one(
            [
                f"{protocol} dport {no}{one(PORTS)}",
                f"{protocol} dport {{ {one(PORTS[:2])}, {one(PORTS[2:])} }}",
                f"th dport {no}{one(PORTS)}",
                f"meta l4proto {protocol}",
                "meta l4proto != esp",
                f"tcp flags {flags}" if protocol == "tcp" else "udp length > 20",
                f"meta length > {one([20, 40])}",  # never more than the next: nft prints < 40 > 60 as != 40-60
                f"meta length < {one([60, 100])}",
            ]
        )

    def _of_host(self, no):
        one = self._one
        return one(
            [
                f'iifname {no}"{one(["v1", "v2", "v*"])}"',
                f'oifname {no}"{one(["v1", "v2"])}"',
                f"ct state {no}{one(['new', 'established', 'invalid', 'untracked'])}",
                f"fib daddr type {no}{one(['local', 'unicast', 'multicast'])}",
            ]
        )

    def _write(self):
        one, ip, hops = self._one, self._ip, HOPS[self._version]
        last = (
            f"ip id set {one([7, 9])}" if self._version == 4 else f"ip6 flowlabel set {one([0, 5])}"
        )
        return one(
            [
                f"meta mark set {one(MARKS)}",
                f"meta mark set meta mark | {one(MARKS[3:])}",
                f"meta mark set meta mark & {one(MARKS[1:])}",
                f"{ip} dscp set {one(DSCP)}",
                f"{ip} dscp set {one(DSCP)}",
                f"{ip} ecn set {one(['not-ect', 'ect0', 'ce'])}",
                f"{hops} set {one(TTLS)}",
                f"{hops} set {one(TTLS)}",
                f"{self._protocol} dport set {one(PORTS)}",
                f"{ip} saddr set {FROM[self._version]}",
                "ct mark set 5",
                "meta mark set ct mark",
                last,
            ]
        )


class Iptables:
    """Rules of iptables, for iptables-restore; ``chains``: those that have some, with their tables."""

    def __init__(self, seed, version):
        self._chance = random.Random(f"iptables {seed} {version}")  # noqa: S311 - no secret
        self._one = self._chance.choice
        self._version = version
        self.chains = {
            "mangle": [*map(str.upper, HOOKS), "other"],
            "filter": ["INPUT", "FORWARD", "OUTPUT"],
            "nat": ["PREROUTING", "POSTROUTING"],
        }

    def ruleset(self):
        """All tables: where packets are rewritten and looked at, looked at alone, translated."""
        mangle = [f"-A other {self._rule()}" for _ in range(RULES // 3)]
        for chain in self.chains["mangle"][:-1]:
            own = [self._rule() for _ in range(RULES)]
            own.insert(
                self._chance.randrange(RULES), f"{self._condition()} -{self._one('jjg')} other"
            )
            mangle += [f"-A {chain} {one}" for one in own]
        filters = [
            f"-A {chain} {self._conditions()}"
            for chain in self.chains["filter"]
            for _ in range(RULES // 2)
        ]
        nat = []
        far = f"{THERE[self._version][:-1]}1"
        for chain, targets in (
            (
                "PREROUTING",
                [f"DNAT --to-destination {HERE[self._version]}", "REDIRECT --to-ports 5001"],
            ),
            ("POSTROUTING", ["MASQUERADE", f"SNAT --to-source {far}"]),
        ):
            nat += [f"-A {chain} {self._conditions()}" for _ in range(RULES // 2)]
            nat += [
                f"-A {chain} -p {self._one(['tcp', 'udp'])} --dport {self._one(PORTS)} -j {target}"
                for target in targets
            ]
        return (
            _restored("mangle", [":other - [0:0]", *mangle])
            + _restored("nat", nat)
            + _restored("filter", filters)
        )

    def _rule(self):
        kind = self._chance.random()
        if kind < 0.55:
            return self._conditions()
        if kind < 0.95:
            return f"{self._conditions()} -j {self._write()}"
        return f"{self._conditions()} -j {self._one(['ACCEPT', 'RETURN'])}"

    def _conditions(self):
        found = {}  # iptables takes each option and module once
        for one in (self._condition() for _ in range(self._one([1, 1, 2]))):
            words = one.removeprefix("! ").split()
            found.setdefault(words[1] if words[0] == "-m" else words[0], one)
        return " ".join(found[key] for key in sorted(found))

    def _condition(self):
        one = self._one
        no = one(["", "", "! "])
        hops = "-m ttl --ttl" if self._version == 4 else "-m hl --hl"
        return one(
            [
                f"-m mark {no}--mark {one(MARKS)}",
                f"-m mark {no}--mark 0x10/0x10",
                f"-m dscp {no}--dscp {one(CLASSES)}",
                f"-m tos {no}--tos {one(['0x00/0xff', '0x10/0x3f', '0x20/0xff', '0x04/0x04'])}",
                f"-m ecn {no}--ecn-ip-ect {one([0, 2, 3])}",
                f"{hops}-eq {one(TTLS)}",
                f"{hops}-lt {one(TTLS)}",
                f"{hops}-gt {one(TTLS)}",
                f"-p udp -m udp {no}--dport {one(PORTS)}",
                f"-p tcp -m multiport {no}--dports {one(PORTS)},{one(PORTS)}",
                f"-p tcp -m tcp {no}--tcp-flags SYN,ACK {one(['SYN', 'ACK'])}",
                f"{no}-d {one([HERE, THERE])[self._version]}",
                f"{no}-s {one(NETS[self._version])}",
                f"{no}-p {one(['tcp', 'udp', 'esp'])}",
                f"-m addrtype {no}--dst-type {one(['LOCAL', 'UNICAST', 'MULTICAST'])}",
                f"-m length {no}--length {one(['0:40', '41:100'])}",
                self._of_bytes(no),
            ]
        )

    def _of_bytes(self, no):
        """What other rules may have changed: hops, and with IPv4 the sum of all; ports."""
        ttl, port, four = self._one(TTLS), self._one(PORTS), self._version == 4
        loads = "177 0 0 0,72 0 0 2" if four else "1 0 0 40,72 0 0 2"
        return self._one(
            [
                f'-m u32 {no}--u32 "{"0x8>>0x18" if four else "0x4&0xff"}={ttl:#x}"',
                f'-m u32 {no}--u32 "0x8&0xff0000={6 << 16:#x},{17 << 16:#x}"',
                f'-m bpf --bytecode "4,48 0 0 {8 if four else 7},37 0 1 {ttl},6 0 0 1,6 0 0 0"',
                '-m bpf --bytecode "4,40 0 0 10,69 0 1 1,6 0 0 1,6 0 0 0"',
                f'-m bpf --bytecode "5,{loads},21 0 1 {port},6 0 0 1,6 0 0 0"',
            ]
        )

    def _write(self):
        one = self._one
        hops = "TTL --ttl" if self._version == 4 else "HL --hl"
        return one(
            [
                f"MARK --set-xmark {one(MARKS)}/0xffffffff",
                f"MARK --set-xmark {one(MARKS)}/0xff",
                f"TOS --set-tos {one(['0x10/0xff', '0x20/0x3f', '0x00/0xff', '0x04/0x04'])}",
                f"DSCP --set-dscp {one(CLASSES)}",
                f"DSCP --set-dscp {one(CLASSES)}",
                f"{hops}-set {one(TTLS)}",
                f"{hops}-set {one(TTLS)}",
                f"{hops}-{one(['inc', 'dec'])} 1",
                "CONNMARK --set-xmark 0x6/0xffffffff",
                "CONNMARK --save-mark",
                "CONNMARK --restore-mark",
            ]
        )


def _chain(name, attached, rules):
    return (
        f"\tchain {name} {{\n\t\t{attached}\n" + "".join(f"\t\t{one}\n" for one in rules) + "\t}\n"
    )


def _restored(table, lines):
    return f"*{table}\n" + "".join(f"{one}\n" for one in lines) + "COMMIT\n"
