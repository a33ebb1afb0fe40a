"""What is kept of a network namespace, decoded, is what ip, bridge and ipset say of it."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import subprocess
import sys

import pytest

from iptrec.context.addresses import addresses
from iptrec.context.interfaces import Interfaces
from iptrec.decode import snapshots
from iptrec.decode.groups import groups
from iptrec.decode.sockets import listed
from iptrec.kernel import process
from iptrec.recording.kinds import SNAPSHOTS
from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

PYTHON = sys.executable
EVERYTHING = """
import json
from iptrec.kernel import network
print(json.dumps({kind: content.hex() for kind, content in network.last().items()}))
"""
NETWORK = """\
link set v1 alias "to h"
link property add dev v1 altname a-rather-long-name-of-it
address add 10.0.1.1/24 brd + dev v1
address add 10.8.0.1 peer 10.8.0.2/32 dev v1
route add 10.50.0.0/16 via 10.0.1.2 table 100 proto static metric 7
route add 10.50.0.0/16 tos 0x10 dev v1 table 1000 src 10.0.1.1 scope link mtu 1300
route add blackhole 10.51.0.0/16
route add prohibit 10.53.0.0/16 metric 9
route add 10.52.0.0/16 nexthop via 10.0.1.2 dev v1 weight 2 nexthop via 10.8.0.2 dev v1 onlink
route add default via 10.0.1.2
rule add from 10.0.1.0/24 fwmark 0x1/0xff lookup 100 pref 1000
rule add not to 10.9.0.0/16 iif v1 blackhole pref 1001
rule add ipproto tcp dport 80-90 uidrange 0-0 lookup 1000 pref 1002
rule add oif v1 tos 0x10 goto 1002 pref 900
rule add lookup main suppress_prefixlength 0 pref 1003
neigh add 10.0.1.77 lladdr 02:00:00:00:00:77 dev v1 nud permanent
"""
NETWORK_6 = """\
address add fd08::1 peer fd08::2/128 dev v1
address add fd01::1/64 dev v1
route add fd50::/16 via fd01::2 table 100 metric 9 dev v1
route add unreachable fd51::/16
rule add from fd01::/64 lookup 100 pref 1000
neigh add fd01::77 lladdr 02:00:00:00:00:77 dev v1 nud permanent
"""
IFF = {"UP": 1, "BROADCAST": 2, "LOOPBACK": 8, "POINTOPOINT": 16, "NOARP": 0x80, "MULTICAST": 0x1000,
       "LOWER_UP": 0x10000}  # fmt: skip
NUD = {"INCOMPLETE": 1, "REACHABLE": 2, "STALE": 4, "DELAY": 8, "PROBE": 16, "FAILED": 32, "NOARP": 64,
       "PERMANENT": 128}  # fmt: skip
FAMILIES = {2: "inet", 10: "inet6"}


@pytest.fixture
def network(lab):
    """A host behind v1, another one behind a bridge; addresses, routes, rules and neighbours of many sorts."""
    lab.host("h")
    lab.host("k")
    lab.link("h", "eth0", "10.0.1.2/24", peer="v1")
    lab.ip(None, "link add br0 type bridge ageing_time 7000\nlink set br0 up")
    lab.link("k", "eth0", "10.0.2.2/24", peer="p1", bridge="br0")
    lab.ip(None, NETWORK)
    lab.run(["ip", "-6", "-batch", "-"], stdin=NETWORK_6)
    lab.run(["bridge", "fdb", "add", "02:00:00:00:00:09", "dev", "p1", "master", "static"])
    lab.settle()
    return lab


def evidence(lab):
    """Kind -> rows, as they are shown in SQL."""
    told = json.loads(lab.run([PYTHON, "-c", EVERYTHING]).stdout)
    media = dict.fromkeys(("sysctls", "counters", "groups", "timezone"), "json")
    found = {}
    for kind, content in told.items():
        one = bytes.fromhex(content), media.get(kind, "netlink")
        assert snapshots.state(*one) == "whole", kind
        found[kind] = json.loads(snapshots.shown(kind, *one))
    return found


def asked(lab, *command):
    return json.loads(lab.run(command).stdout)


def test_links(network):
    """Names, flags, kind, master, alias, and the other end of a veth in another namespace."""
    rows = {one["index"]: one for one in evidence(network)["links"]}
    names = {index: one["name"] for index, one in rows.items()}
    said = asked(network, "ip", "-j", "-d", "link")
    assert {one["ifindex"] for one in said} == set(rows)
    for one in said:
        row = rows[one["ifindex"]]
        assert row["name"] == one["ifname"]
        assert {name for name, bit in IFF.items() if row["flags"] & bit} == set(one["flags"]) & set(
            IFF
        )
        assert (row["mtu"], row.get("txqlen")) == (one["mtu"], one.get("txqlen"))
        assert row.get("address") == one.get("address")
        assert row.get("linkinfo", {}).get("kind") == one.get("linkinfo", {}).get("info_kind")
        assert names.get(row.get("master")) == one.get("master")
        assert row.get("alias") == one.get("ifalias")
        assert row.get("link_netnsid") == one.get("link_netnsid")
        assert row.get("altnames") == one.get("altnames")
        if "link_netnsid" in one:
            assert row["link"] == one["link_index"]
    veth = next(one for one in rows.values() if one["name"] == "v1")
    (peer,) = asked(network, "ip", "-n", "h", "-j", "link", "show", "eth0")
    assert veth["link"] == peer["ifindex"]
    bridge = next(one for one in rows.values() if one["name"] == "br0")
    assert bridge["linkinfo"]["data"]["4"] == "581b0000"  # IFLA_BR_AGEING_TIME


def test_addresses(network):
    """Of a point-to-point link the address is the host's own, not its peer's."""
    rows = {
        (one["index"], FAMILIES[one["family"]], one["address"], one.get("peer"), one["prefixlen"],
         one.get("label"), one.get("broadcast"))
        for one in evidence(network)["addresses"]
    }  # fmt: skip
    said = {
        (link["ifindex"], one["family"], one["local"], one.get("address"), one["prefixlen"],
         one.get("label"), one.get("broadcast"))
        for link in asked(network, "ip", "-j", "address")
        for one in link["addr_info"]
    }  # fmt: skip
    assert rows == said
    assert {("10.8.0.1", "10.8.0.2"), ("fd08::1", "fd08::2")} <= {(one[2], one[3]) for one in rows}


def route_of(one, names):
    """A route as `ip -N -j -d route` prints it."""
    default = "0.0.0.0/0" if one["family"] == 2 else "::/0"
    network = f"{one['dst']}/{one['dst_len']}" if "dst" in one else default
    return (
        one["type"], ipaddress.ip_network(network), one["table"], one["protocol"], one["scope"],
        one["tos"], one.get("priority"), one.get("gateway"), names.get(one.get("oif")), one.get("prefsrc"),
        tuple((hop.get("gateway"), names[hop["oif"]], hop["weight"]) for hop in one.get("multipath", ())),
        int.from_bytes(bytes.fromhex(one.get("metrics", {}).get("2", "")), "little"),
    )  # fmt: skip


def printed_route(one, version):
    default = {4: "0.0.0.0/0", 6: "::/0"}[version]
    return (
        int(one["type"]), ipaddress.ip_network(default if one["dst"] == "default" else one["dst"]),
        int(one["table"]), int(one["protocol"]), int(one["scope"]), int(one.get("tos", "0"), 16),
        one.get("metric"), one.get("gateway"), one.get("dev"), one.get("prefsrc"),
        tuple((hop.get("gateway"), hop["dev"], hop["weight"]) for hop in one.get("nexthops", ())),
        one.get("metrics", [{}])[0].get("mtu", 0),
    )  # fmt: skip


def test_routes(network):
    """Of all tables, with prefix lengths, types, scopes, several next hops, metrics."""
    found = evidence(network)
    names = {one["index"]: one["name"] for one in found["links"]}
    for version, family in ((4, 2), (6, 10)):
        rows = [one for one in found["routes"] if one["family"] == family]
        said = asked(
            network, "ip", f"-{version}", "-N", "-j", "-d", "route", "show", "table", "all"
        )
        assert sorted(map(str, (route_of(one, names) for one in rows))) == sorted(
            str(printed_route(one, version)) for one in said
        )
    assert {100, 254, 255, 1000} == {one["table"] for one in found["routes"]}


def test_rules(network):
    """Priorities, selectors, actions, inverted ones."""
    rows = [one for one in evidence(network)["ip-rules"] if one["family"] == 2]
    for one, said in zip(rows, asked(network, "ip", "-N", "-j", "rule"), strict=True):
        assert one.get("priority", 0) == said["priority"]
        assert one.get("src", "all") == said["src"]
        assert one["src_len"] == said.get("srclen", 0)
        assert one.get("dst") == said.get("dst")
        assert one["dst_len"] == said.get("dstlen", 0)
        assert bool(one["flags"] & 2) == ("not" in said)  # FIB_RULE_INVERT
        assert one["tos"] == int(said.get("tos", "0"), 16)
        assert one.get("fwmark") == (int(said["fwmark"], 16) if "fwmark" in said else None)
        assert (one.get("iif"), one.get("oif")) == (said.get("iif"), said.get("oif"))
        assert str(one["table"]) == said.get("table", "0")
        assert one.get("goto") == said.get("goto")
        assert str(one["action"]) == said.get("action", "2" if "goto" in said else "1")
        if "dport_start" in said:
            assert one["dport_range"] == [said["dport_start"], said["dport_end"]]
        if "uid_start" in said:
            assert one["uid_range"] == [said["uid_start"], said["uid_end"]]
        assert max(one["suppress_prefixlen"], 0) == said.get("suppress_prefixlen", 0)
    assert len(rows) == 8


def test_neighbours_and_bridges(network):
    """Addresses of the link layer; which of them is behind which port."""
    found = evidence(network)
    names = {one["index"]: one["name"] for one in found["links"]}
    rows = {
        (one["dst"], names[one["index"]], one.get("lladdr"), one["state"])
        for one in found["neighbours"]
        if one["state"] != NUD["NOARP"]  # groups, which come and go by themselves
    }
    said = asked(network, "ip", "-j", "neigh", "show", "nud", "all")
    assert rows == {
        (one["dst"], one["dev"], one.get("lladdr"), sum(NUD[name] for name in one["state"]))
        for one in said
        if one["state"] != ["NOARP"]
    }
    assert {"10.0.1.77", "fd01::77"} <= {one[0] for one in rows}
    rows = {
        (one["lladdr"], names[one["index"]], names.get(one.get("master")), one.get("vlan"))
        for one in found["fdb"]
    }
    assert rows == {
        (one["mac"], one["ifname"], one.get("master"), one.get("vlan"))
        for one in asked(network, "bridge", "-j", "fdb")
    }
    assert ("02:00:00:00:00:09", "p1", "br0", None) in rows


def test_settings_and_counters(network):
    """As /proc has them; what is a secret of root's stays out."""
    network.sysctl(None, "net/ipv4/conf/v1/rp_filter", 2)
    network.sysctl(None, "net/ipv6/conf/default/stable_secret", "fd::1")
    found = evidence(network)
    assert found["sysctls"]["net/ipv4/conf/v1/rp_filter"] == "2"
    assert found["sysctls"]["net/netfilter/nf_conntrack_max"].isdigit()
    assert not [name for name in found["sysctls"] if re.search(r"stable_secret|fastopen_key", name)]
    assert found["counters"].keys() >= {"snmp", "netstat", "snmp6", "dev", "stat/nf_conntrack"}
    assert "v1:" in found["counters"]["dev"]


SETS = """\
create addresses hash:ip timeout 3000 counters comment skbinfo
add addresses 10.0.0.1 comment "one of ours"
add addresses 10.0.0.2 timeout 77 packets 5 bytes 400 skbmark 0x1/0xff skbprio 1:2 skbqueue 3
create networks hash:net
add networks 10.0.0.0/8
add networks 10.1.0.0/16 nomatch
create networks6 hash:net family inet6
add networks6 fd00::/8
create services hash:ip,port
add services 10.0.0.1,tcp:80
add services 10.0.0.1,udp:53
create pairs hash:ip,port,ip
add pairs 10.0.0.1,tcp:80,10.9.0.1
create behind hash:ip,port,net
add behind 10.0.0.1,tcp:80,10.9.0.0/16
create open hash:net,port
add open 10.0.0.0/8,udp:53
create by-port hash:net,iface
add by-port 10.0.0.0/8,lo
add by-port 10.2.0.0/16,physdev:eth1
create bits bitmap:ip range 10.0.0.0/24
add bits 10.0.0.9
create blocks bitmap:ip range 10.0.0.0/24 netmask 28
add blocks 10.0.0.16
create known bitmap:ip,mac range 10.0.0.0/24
add known 10.0.0.3,02:00:00:00:00:01
create ports bitmap:port range 1-1024
add ports 80
create all list:set
add all addresses
add all networks
create none hash:ip
create many hash:ip hashsize 65536 maxelem 100000
"""
MANY = [f"add many 10.{i >> 8 & 255}.{i & 255}.1" for i in range(40_000)]


def saved(one, member):
    """A member as `ipset save` prints it, timeouts and what counts in it apart."""
    protocol = {6: "tcp:", 17: "udp:"}.get(member.get("proto"), "")
    physical = "physdev:" * ("physdev" in member.get("flags", ()))
    words = []
    for dimension in one.dimensions:
        second = "2" if words else ""
        part = {"ip": f"ip{second}", "net": f"ip{second}", "mac": "ether", "set": "name"}
        word = str(member[part.get(dimension, dimension)])
        words.append(
            {"port": f"{protocol}{word}", "iface": f"{physical}{word}"}.get(dimension, word)
            + (f"/{member[f'cidr{second}']}" if dimension == "net" else "")
        )
    more = " nomatch" if "nomatch" in member.get("flags", ()) else ""
    if "packets" in member:
        more += f" packets {member['packets']} bytes {member['bytes']}"
    if "comment" in member:
        more += f' comment "{member["comment"]}"'
    if member.get("skbmark"):
        more += f" skbmark {member['skbmark'] >> 32:#x}/{member['skbmark'] & 0xFFFFFFFF:#x}"
        more += f" skbprio {member['skbprio'] >> 16}:{member['skbprio'] & 0xFFFF}"
        more += f" skbqueue {member['skbqueue']}"
    return f"add {one.name} {','.join(words)}{more}"


def test_ipsets(lab):
    """All members of sets of every type that this kernel has, one so large that it comes in many messages."""
    command = shutil.which("ipset", path=process.search_path())
    if command is None:
        pytest.skip("no ipset; on Debian: apt-get install ipset")
    lab.run([command, "restore"], stdin=SETS + "\n".join(MANY))
    told = json.loads(lab.run([PYTHON, "-c", EVERYTHING]).stdout)
    found = snapshots.ipsets(bytes.fromhex(told["ipsets"]), "netlink")
    said = lab.run([command, "save"]).stdout.splitlines()
    members = sorted(saved(one, member) for one in found.values() for member in one.members)
    assert members == sorted(
        re.sub(r" timeout \d+", "", line) for line in said if line.startswith("add")
    )
    created = {line.split()[1]: line.split()[2:] for line in said if line.startswith("create")}
    assert {name: one.type for name, one in found.items()} == {
        name: words[0] for name, words in created.items()
    }
    timeouts = [member["timeout"] for member in found["addresses"].members]
    assert sorted(timeout // 10 for timeout in timeouts) in ([7, 299], [7, 300])
    assert found["none"].index == {}


def test_recorded_twice(network, tmp_path):
    """At the start and at the end; readers take what they need out of it."""
    path = tmp_path / "t.db"
    network.run(
        [
            PYTHON,
            "-m",
            "iptrec",
            "record",
            "-q",
            "--drops",
            "no",
            "-o",
            str(path),
            "--",
            "ip",
            "link",
            "set",
            "v1",
            "mtu",
            "1400",
        ]
    )
    with Reader(path) as reader:
        every = [one for one in reader.snapshots() if one.media != "text"]
        kinds = [one.kind for one in every if one.after_ns is None]  # not for a change meanwhile
        mtus = [
            next(
                one["mtu"]
                for one in json.loads(snapshots.shown("links", each.content, each.media))
                if one["name"] == "v1"
            )
            for each in reader.snapshots("links")
        ]
        interfaces = Interfaces(reader, 1)
        local = {address for _, address in addresses(reader)}
        states = {snapshots.state(one.content, one.media) for one in reader.snapshots()}
    both = [one.name for one in SNAPSHOTS.values() if one.media == "netlink"]
    both += ["counters", "groups", "sysctls", "timezone"]
    assert sorted(kinds) == sorted([*both * 2, "owners", "trace-rules"])
    assert mtus == [1500, 1400]
    assert states == {"whole"}
    assert interfaces.name(1, 0) == "lo"
    own = ipaddress.ip_address
    assert {own("10.8.0.1"), own("fd08::1")} <= local
    assert not {own("10.8.0.2"), own("fd08::2")} & local


HOLD = """
import socket
for number, (family, kind) in enumerate((f, k) for f in (2, 10) for k in (1, 2)):
    one = socket.socket(family, kind)
    globals()[f"held{number}"] = one
    one.bind(("", 7000 + number))
    if kind == 1:
        one.listen()
print("ready", flush=True)
input()
"""


def test_sockets_and_groups(network):
    """As they were opened, and as ip maddr lists them."""
    held = network.popen(
        [PYTHON, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert held.stdout.readline() == "ready\n"
    told = json.loads(network.run([PYTHON, "-c", EVERYTHING]).stdout)
    found = snapshots.shown("sockets", bytes.fromhex(told["sockets"]), "netlink")
    rows = {(one["protocol"], one["family"], one["port"]) for one in json.loads(found)}
    assert rows == {(6, 2, 7000), (17, 2, 7001), (6, 10, 7002), (17, 10, 7003)}
    assert listed(bytes.fromhex(told["sockets"])) == {(one[0], one[2]) for one in rows}
    said = {
        (link["ifname"], ipaddress.ip_address(one["address"]))
        for link in asked(network, "ip", "-j", "maddr")
        for one in link["maddr"]
        if "family" in one
    }
    joined = groups(json.loads(bytes.fromhex(told["groups"])))
    assert {(name, one) for (name, _), every in joined.items() for one in every} == said
