"""A large ruleset as kube-proxy writes it, with a filter table that lets nothing of it pass."""

from __future__ import annotations

SERVICES = 3000


def address(network, number):
    """Of a service (10.96) or a pod (10.244), from 0."""
    return f"10.{network}.{number // 250}.{number % 250 + 1}"


def rules():
    """What iptables-save prints: 18,000 rules."""
    nat = []
    for number in range(SERVICES):
        name = f'-m comment --comment "ns/svc{number}"'
        target = f"-d {address(96, number)}/32 -p udp {name} -m udp --dport 53"
        pod = address(244, number)
        nat += [
            f"-A KUBE-SERVICES {target} -j SVC{number}",
            f"-A SVC{number} ! -s 10.244.0.0/16 {target} -j KUBE-MARK-MASQ",
            f'-A SVC{number} -m comment --comment "ns/svc{number} -> {pod}:53" -j SEP{number}',
            f"-A SEP{number} -s {pod}/32 {name} -j KUBE-MARK-MASQ",
            f"-A SEP{number} -p udp {name} -m udp -j DNAT --to-destination {pod}:53",
        ]
    chains = [f":{name}{number} - [0:0]" for number in range(SERVICES) for name in ("SVC", "SEP")]
    blocked = [
        f"-A FORWARD -{'sd'[at % 2]} {address(99, at)}/32 -j ACCEPT" for at in range(SERVICES)
    ]
    return "\n".join([
        "*nat", ":PREROUTING ACCEPT [0:0]", ":KUBE-SERVICES - [0:0]", ":KUBE-MARK-MASQ - [0:0]",
        *chains, "-A PREROUTING -j KUBE-SERVICES", "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000", *nat,
        "COMMIT", "*filter", ":FORWARD DROP [0:0]", *blocked, "COMMIT", "",
    ])  # fmt: skip
