"""Kubernetes service: a pod asks the cluster's DNS at its service address, as kube-proxy writes it.

One node with the kubeadm ruleset; UDP to 10.96.0.10:53 goes through KUBE-SERVICES, KUBE-SVC-* and one
of two KUBE-SEP-* (chosen at random) to a server in another pod; its answer comes back.
"""

import sys

from recording import HERE, record

from iptrec.demo.lab import Lab

SERVER = """\
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 53))
print("ready", flush=True)
while True:
    data, peer = server.recvfrom(500)
    server.sendto(data.upper(), peer)
"""


def main() -> None:
    """Record it."""
    with Lab() as lab:
        lab.ip(
            None, "link add cni0 type bridge\naddress add 10.244.0.1/24 dev cni0\nlink set cni0 up"
        )
        for number in (2, 3, 9):
            pod = f"pod{number}"
            lab.host(pod)
            lab.link(pod, "eth0", f"10.244.0.{number}/24", peer=f"veth{number}", bridge="cni0")
            lab.ip(pod, "route add default via 10.244.0.1")
        lab.sysctl(None, "net/ipv4/ip_forward", 1)
        lab.restore(None, "ipv4", (HERE / "kubeadm-flannel.rules").read_text())
        lab.settle()
        for number in (2, 3):
            server = lab.popen([sys.executable, "-c", SERVER], f"pod{number}", stdout=-1, text=True)
            server.stdout.readline()
        record(lab, "kubernetes", "udp port 53", "@pod9 udp 10.96.0.10 53; @pod9 udp 10.96.0.10 53")


if __name__ == "__main__":
    main()
