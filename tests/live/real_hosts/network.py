"""What every host has around it: an outside, a local network, and /etc and /var that its daemons may write."""

from __future__ import annotations

import ipaddress
import json

WAN, LAN = "wan", "lan"
OUTSIDE = ("198.18.0.0/15", "2001:db8:ffff::/48")  # routed to WAN, as all that nobody else has
BEHIND_LAN = ("10.1.1.0/24", "fd01:1::/64")
_ADDRESSES = {
    "eth0": (WAN, "up0", "192.0.2.1/24", "2001:db8:1::1/64", "192.0.2.2/24", "2001:db8:1::2/64"),
    "eth1": (LAN, "up1", "10.1.0.1/24", "fd01::1/64", "10.1.0.2/24", "fd01::2/64"),
}
_SYSCTLS = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    "net/ipv4/conf/all/send_redirects": 0,
    "net/ipv4/conf/default/send_redirects": 0,
    "net/ipv4/conf/all/rp_filter": 0,
    "net/ipv4/conf/default/rp_filter": 0,
    "net/ipv4/icmp_ratelimit": 0,
    "net/ipv6/icmp/ratelimit": 0,
    # A hundred thousand connections must not fill the table.
    "net/netfilter/nf_conntrack_udp_timeout": 5,
    "net/netfilter/nf_conntrack_udp_timeout_stream": 5,
    "net/netfilter/nf_conntrack_tcp_timeout_syn_sent": 5,
    "net/netfilter/nf_conntrack_tcp_timeout_established": 5,
    "net/netfilter/nf_conntrack_icmp_timeout": 5,
    "net/netfilter/nf_conntrack_icmpv6_timeout": 5,
}
_TOOLS = [f"{one}{part}" for one in ("iptables", "ip6tables") for part in ("", "-save", "-restore")]
_OVERLAYS = """
for directory in /etc /var; do
    own=/run/own$directory
    mkdir -p $own/upper $own/work || exit
    mount -t overlay -o lowerdir=$directory,upperdir=$own/upper,workdir=$own/work overlay $directory || exit
done
"""


def build(lab, backend):
    """Two neighbours of the lab's own host; ``backend``: whose iptables "iptables" is."""
    lab.run(["sh", "-c", _OVERLAYS])
    for tool in _TOOLS:
        link = f"/etc/alternatives/{tool}"
        lab.run(["ln", "-sfn", f"/usr/sbin/xtables-{backend}-multi", link])
    for key, value in _SYSCTLS.items():
        lab.sysctl(None, key, value)
    for peer, (host, name, own4, own6, *addresses) in _ADDRESSES.items():
        lab.host(host)
        lab.link(host, name, *addresses, peer=peer)
        for own in (own4, own6):
            lab.ip(None, f"address add {own} dev {peer}")
        lab.ip(host, f"route add default via {own4.partition('/')[0]}")
        lab.ip(host, f"route add default via {own6.partition('/')[0]}")
        everything(lab, host, name)
    for host, prefixes in ((LAN, BEHIND_LAN), (WAN, ("0.0.0.0/0", "::/0"))):
        four, six = (one.partition("/")[0] for one in _ADDRESSES[_peer(host)][4:])
        lab.ip(None, f"route add {prefixes[0]} via {four}")
        lab.ip(None, f"route add {prefixes[1]} via {six}")
    lab.settle()


def everything(lab, host, name):
    """A host takes all that comes in by an interface as its own, and answers it."""
    commands = f"rule add iif {name} lookup 100 pref 10\nroute add local default dev lo table 100"
    for family in sorted({f"-{one.version}" for one in addresses(lab, host)[name]}):
        lab.run(["ip", family, "-batch", "-"], host, stdin=commands)


def addresses(lab, host, *, local=False):
    """A host's addresses by interface; ``local``: the loopback's, too."""
    found = {}
    for link in json.loads(lab.run(["ip", "-json", "address"], host).stdout):
        if link["ifname"] != "lo" or local:
            ips = [
                ipaddress.ip_interface(f"{a['local']}/{a['prefixlen']}") for a in link["addr_info"]
            ]
            found[link["ifname"]] = [one for one in ips if not one.is_link_local]
    return found


def pin_neighbours(lab, hosts):
    """Let everybody know everybody: nobody asks for an address while packets are counted."""
    for host in hosts:
        for one in json.loads(lab.run(["ip", "-json", "link"], host).stdout):
            if one["ifname"] != "lo":
                _introduce(lab, host, one, hosts)


def _introduce(lab, host, link, hosts):
    """Tell all others on the same network who has a link's addresses."""
    for address in addresses(lab, host).get(link["ifname"], []):
        for other in hosts:
            for name, theirs in addresses(lab, other).items():
                if other != host and any(address.network == one.network for one in theirs):
                    entry = f"{address.ip} lladdr {link['address']} dev {name}"
                    lab.ip(other, f"neigh replace {entry} nud permanent")


def _peer(host):
    return next(peer for peer, one in _ADDRESSES.items() if one[0] == host)
