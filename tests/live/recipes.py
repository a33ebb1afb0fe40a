"""The networks of the tutorial and the recipes, with rules as the daemons make them.

In tests/data/recipes docker.rules and podman.rules are those of dockerd 20.10.24 and podman 4.3.1 for
`run -p 8080:80`, firewalld.nft of firewalld 1.3.3 with the zone public, rhel.rules what RHEL 6 installed, and
*endpoint* what kube-proxy writes for a service (samples/kubeadm-flannel.rules is its node). A WireGuard
interface is a veth here, as not every kernel has WireGuard: rules and routing see no difference.
"""

from __future__ import annotations

import sys

import documents
from real_hosts import hosts
from recorder import until

RULES = documents.ROOT / "tests" / "data" / "recipes"
KUBEADM = documents.ROOT / "samples" / "kubeadm-flannel.rules"
_WEB = """
import http.server, socketserver, sys
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello\\n")
    def log_message(self, *_):
        pass
socketserver.TCPServer.allow_reuse_address = True
with socketserver.ThreadingTCPServer(("", int(sys.argv[1])), Hello) as server:
    server.serve_forever()
"""


def _serve(lab, host, port):
    """A web server that says hello."""
    lab.popen([sys.executable, "-c", _WEB, str(port)], host)
    until(lambda: f":{port} " in lab.run(["ss", "-Htln"], host).stdout)


def neighbour(lab, host, link, own, address):
    """A host behind the interface ``link`` of the lab's own, whose default route leads here."""
    lab.host(host)
    lab.link(host, "eth0", address, peer=link)
    lab.ip(None, f"address add {own} dev {link}")
    lab.ip(host, f"route add default via {own.partition('/')[0]}")


def bridged(lab, bridge, own, first=0, **ports):
    """Hosts on a bridge of the lab's own host: name -> address; ports are vnet0, from ``first``."""
    lab.ip(
        None, f"link add {bridge} type bridge\nlink set {bridge} up\naddress add {own} dev {bridge}"
    )
    for number, (host, address) in enumerate(ports.items(), first):
        lab.host(host)
        lab.link(host, "eth0", address, peer=f"vnet{number}", bridge=bridge)
        lab.ip(host, f"route add default via {own.partition('/')[0]}")


def _nft(lab, ruleset):
    lab.run(["nft", "-f", "-"], stdin=ruleset)


def forward(lab):
    lab.sysctl(None, "net/ipv4/ip_forward", 1)


def nothing(lab, backend):  # noqa: ARG001 - the page makes all of it
    """The tutorial installs, and makes its network and its rules itself."""
    return {"sudo apt-get ": _done, "sudo PIPX_HOME=": _done}


def _done():
    return ""


def docker(lab, backend):
    """A host with `docker run -d -p 8080:80`, and a client outside."""
    return _publishing(lab, backend, "docker", "172.17.0")


def podman(lab, backend):
    """The same with `podman run -d -p 8080:80`, as root."""
    return _publishing(lab, backend, "podman", "10.88.0")


def _publishing(lab, backend, daemon, net):
    neighbour(lab, "client", "eth0", "192.0.2.10/24", "192.0.2.99/24")
    bridged(lab, f"{daemon}0", f"{net}.1/16", web=f"{net}.2/16")
    forward(lab)
    lab.restore(None, "ipv4", (RULES / f"{daemon}.rules").read_text(), backend)
    _serve(lab, "web", 80)
    return {}


def _node(lab):
    """A node with two pods and a way out."""
    neighbour(lab, "outside", "eth0", "192.0.2.1/24", "192.0.2.2/24")
    lab.ip(None, "route add default via 192.0.2.2")
    bridged(lab, "cni0", "10.244.0.1/24", pod="10.244.0.5/24", checkout="10.244.0.7/24")
    forward(lab)
    _serve(lab, "checkout", 8080)


def kubeadm(lab, backend):
    """kube-proxy in its iptables mode: a service without endpoints, which then gets one."""
    _node(lab)

    def add(path):
        lab.run([f"iptables-{backend}-restore", "--noflush"], stdin=path.read_text())

    add(KUBEADM)
    add(RULES / "no-endpoints.rules")

    def mended():
        add(RULES / "endpoint.rules")

    return {"kubectl -n shop get ": _done, "kubectl -n shop patch ": mended}


def kube_proxy(lab, backend):  # noqa: ARG001 - nf_tables alone
    """The same in its nftables mode."""
    _node(lab)
    _nft(lab, (hosts.RULES / "kube-proxy.nft").read_text())
    return {"kubectl -n shop patch ": lambda: _nft(lab, (RULES / "endpoint.nft").read_text())}


def _internet(lab):
    """198.51.100.7, which knows no way back to private addresses."""
    lab.host("internet")
    lab.link("internet", "eth0", "203.0.113.1/24", "198.51.100.7/32", peer="eth0")
    lab.ip(None, "address add 203.0.113.10/24 dev eth0\nroute add default via 203.0.113.1")
    _serve(lab, "internet", 80)


def exit_node(lab, backend):
    """A VPN server that forwards nothing yet, with a firewall whose policy is DROP."""
    _internet(lab)
    neighbour(lab, "laptop", "wg0", "10.8.0.1/24", "10.8.0.2/24")
    lab.restore(None, "ipv4", "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n", backend)
    return {}


def policy_routing(lab, backend):  # noqa: ARG001 - the page makes the rules
    """A router whose main table leads to eth0; the tunnel leads to the same server."""
    _internet(lab)
    neighbour(lab, "laptop", "eth1", "10.1.0.1/24", "10.1.0.2/24")
    lab.run(
        ["ip", "link", "add", "wg0", "type", "veth", "peer", "name", "wg0", "netns", "internet"]
    )
    lab.ip(None, "address add 10.8.0.2/24 dev wg0\nlink set wg0 up")
    lab.ip("internet", "address add 10.8.0.1/24 dev wg0\nlink set wg0 up")
    for scope in ("all", "wg0"):
        lab.sysctl(None, f"net/ipv4/conf/{scope}/rp_filter", int(scope == "wg0"))
    forward(lab)
    return {}


def bridge(lab, backend):
    """Two virtual machines on a bridge, on a host where Docker set the policy of FORWARD."""
    bridged(lab, "br0", "192.168.50.1/24", vm="192.168.50.11/24", nas="192.168.50.12/24")
    forward(lab)
    rules = (RULES / "docker.rules").read_text().replace(":FORWARD ACCEPT", ":FORWARD DROP")
    lab.restore(None, "ipv4", rules, backend)
    return {}


def bridge_family(lab, backend):  # noqa: ARG001 - nf_tables alone
    """The same machines; frames are filtered in the family bridge."""
    bridged(lab, "br0", "192.168.50.1/24", vm="192.168.50.11/24", nas="192.168.50.12/24")
    lab.sysctl(None, "net/bridge/bridge-nf-call-iptables", 0)
    return {}


def rhel(lab, backend):
    """A server with the rules that RHEL 6 installed, and a rule that was added at their end."""
    neighbour(lab, "client", "eth0", "192.0.2.10/24", "192.0.2.99/24")
    lab.restore(None, "ipv4", (RULES / "rhel.rules").read_text(), backend)
    _serve(lab, None, 8080)
    return {}


def firewalld(lab, backend):  # noqa: ARG001 - nf_tables alone
    """A server with firewalld, whose zone public lets ssh in."""
    neighbour(lab, "client", "eth0", "192.0.2.10/24", "192.0.2.99/24")
    _nft(lab, (RULES / "firewalld.nft").read_text())
    _serve(lab, None, 8080)

    def mended():
        lab.run(["nft", "add rule inet firewalld filter_IN_public_allow tcp dport 8080 accept"])
        return "success\n"

    return {"sudo firewall-cmd ": mended}


BOTH = ("nft", "legacy")
# Page and heading -> what makes the network, and whose iptables it can be: the page prints the first one's.
NETWORKS = {
    ("tutorial", None): (nothing, BOTH),
    ("recipes/published-port", "Docker"): (docker, BOTH),
    ("recipes/published-port", "Podman"): (podman, ("nft",)),
    ("recipes/pod-to-service", "kube-proxy in iptables mode"): (kubeadm, BOTH),
    ("recipes/pod-to-service", "kube-proxy in nftables mode"): (kube_proxy, ("nft",)),
    ("recipes/vpn", "An exit node that forwards nothing"): (exit_node, BOTH),
    ("recipes/vpn", "Answers that rp_filter drops"): (policy_routing, BOTH),
    ("recipes/vm-on-a-bridge", "iptables sees bridged frames"): (bridge, BOTH),
    ("recipes/vm-on-a-bridge", "Rules of the family bridge"): (bridge_family, ("nft",)),
    ("recipes/admin-prohibited", "iptables"): (rhel, BOTH),
    ("recipes/admin-prohibited", "firewalld"): (firewalld, ("nft",)),
}
