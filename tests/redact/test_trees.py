"""The maps are one to one, keep prefixes, and keep what has to stay true."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.redact.key import Key
from iptrec.redact.maps import Redaction, surveyed
from iptrec.redact.names import Names

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
STAY = [
    "::", "127.0.0.1", "127.5.6.7", "169.254.169.254", "192.0.2.7", "198.51.100.7",
    "203.0.113.7", "224.0.0.251",
    "255.255.255.255", "::1", "fe80::1", "ff02::1", "ff02::fb", "2001:db8:1::7",
]  # fmt: skip
NETWORKS = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "fd00::/8",
    "fe80::/64",
    "2000::/3",
]


def maps(ranges=(), networks=(), secret=b"one", keeps=()):
    key = Key(secret)
    addresses, survey = surveyed(key, keeps)
    for low, high in ranges:
        survey.range(low.packed, high.packed)
    for one in networks:
        survey.network(one.network_address.packed, one.prefixlen)
    return Redaction(key, addresses, keeps, ())


def of(made, address):
    return ipaddress.ip_address(made.address(ipaddress.ip_address(address).packed))


@pytest.mark.parametrize("address", STAY)
def test_what_means_the_same_everywhere_stays(address):
    """Loopback, multicast, link-local, documentation."""
    assert str(of(maps(), address)) == address


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_of_a_kind_stay_what_they_are(network):
    """A private address is one afterwards, and another one."""
    network = ipaddress.ip_network(network)
    inside = network[0x123456 % network.num_addresses]
    assert of(maps(), inside) in network
    assert of(maps(), inside) != inside


def test_what_is_inside_of_an_address_is_mapped_the_same():
    """IPv4 in IPv6, a MAC address in a link-local one, its end in a solicited-node group."""
    made = maps()
    assert str(of(made, "::ffff:8.8.8.8")) == f"::ffff:{of(made, '8.8.8.8')}" or (
        of(made, "::ffff:8.8.8.8").ipv4_mapped == of(made, "8.8.8.8")
    )
    mac = made.mac(bytes.fromhex("525400123456"))
    link_local = of(made, "fe80::5054:ff:fe12:3456").packed
    assert bytes([link_local[8] ^ 2]) + link_local[9:11] + link_local[13:] == mac
    group = of(made, "ff02::1:ff12:3456").packed
    assert made.mac(bytes.fromhex("3333ff123456")) == b"\x33\x33" + group[12:]


@given(st.lists(st.ip_addresses(v=4), min_size=2, max_size=30, unique=True), st.integers(8, 32))
def test_prefixes_of_ipv4_stay(some, length):
    """From a /8 on; and no two addresses are mapped to one."""
    made = maps()
    networks = {}
    for one in some:
        network = ipaddress.ip_network((one, length), strict=False)
        mapped = made.network(network.network_address.packed, length)
        mapped = ipaddress.ip_network((mapped, length))
        assert of(made, one) in mapped
        assert networks.setdefault(network, mapped) == mapped
    assert len(set(networks.values())) == len(networks)
    assert len({of(made, one) for one in some}) == len(some)


@given(st.lists(st.ip_addresses(v=6), min_size=2, max_size=10, unique=True), st.integers(16, 64))
def test_prefixes_of_ipv6_stay(some, length):
    """From a /16 on."""
    made = maps()
    for one in some:
        network = ipaddress.ip_network((one, length), strict=False)
        mapped = made.network(network.network_address.packed, length)
        assert of(made, one) in ipaddress.ip_network((mapped, length))
    assert len({of(made, one) for one in some}) == len(some)


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.lists(st.ip_addresses(v=4), max_size=30))
def test_a_range_is_one_afterwards(one, other, some):
    """Each address is in it if it was: those at its ends, and just outside."""
    low, high = sorted((one, other))
    made = maps([(low, high)])
    ends = [ipaddress.ip_address(end) for end in made.range(low.packed, high.packed)]
    beside = [
        low,
        high,
        *(low - 1 for _ in range(int(low) > 0)),
        *(high + 1 for _ in range(int(high) < 2**32 - 1)),
    ]
    for address in [*some, *beside]:
        assert (low <= address <= high) == (ends[0] <= of(made, address) <= ends[1]), address


@given(
    st.lists(st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), max_size=4),
    st.lists(st.ip_addresses(v=4), max_size=20),
)
def test_several_ranges_hold_together(pairs, some):
    """Whether they overlap or not."""
    ranges = [tuple(sorted(one)) for one in pairs]
    made = maps(ranges)
    for low, high in ranges:
        first, last = (ipaddress.ip_address(end) for end in made.range(low.packed, high.packed))
        for address in [*some, low, high, *(end for pair in ranges for end in pair)]:
            assert (low <= address <= high) == (first <= of(made, address) <= last)
    assert len({of(made, one) for one in some}) == len(set(some))


@given(st.integers(0, 7), st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_a_short_network_stays_where_it_is(length, inside, address):
    """128.0.0.0/1 of a VPN."""
    network = ipaddress.ip_network((inside, length), strict=False)
    made = maps(networks=[network])
    assert made.network(network.network_address.packed, length) == network.network_address.packed
    assert (of(made, address) in network) == (address in network)


@given(st.ip_addresses(v=6), st.ip_addresses(v=6), st.lists(st.ip_addresses(v=6), max_size=5))
def test_a_range_of_ipv6_is_one_afterwards(one, other, some):
    """Where addresses have no other address inside."""
    low, high = sorted(
        ipaddress.ip_address(int(one) & (1 << 125) - 1 | 1 << 125) for one in (one, other)
    )
    made = maps([(low, high)])
    first, last = (ipaddress.ip_address(end) for end in made.range(low.packed, high.packed))
    for address in [*some, low, high, low + 1, high - 1]:
        assert (low <= address <= high) == (first <= of(made, address) <= last)


@given(st.sets(st.binary(min_size=6, max_size=6), max_size=20))
def test_macs_are_one_to_one(some):
    """Those of groups stay, and whether one was given by hand."""
    made = maps()
    mapped = {one: made.mac(one) for one in some}
    assert len({*mapped.values()}) == len(some)
    assert all(one[0] & 3 == other[0] & 3 for one, other in mapped.items())
    assert made.mac(bytes(6)) == bytes(6)
    assert made.mac(b"\xff" * 6) == b"\xff" * 6


def test_the_vendor_of_a_card_stays_on_request():
    """And the rest does not."""
    mac = bytes.fromhex("525400123456")
    assert maps(keeps=["oui"]).mac(mac)[:3] == mac[:3]
    assert maps(keeps=["oui"]).mac(mac)[3:] != mac[3:]
    assert maps(keeps=["macs"]).mac(mac) == mac


def test_another_key_maps_to_something_else():
    """And the same one to the same."""
    some = [f"8.8.{one}.4" for one in range(10)]
    one, same, other = (
        [of(made, each) for each in some] for made in (maps(), maps(), maps(secret=b"two"))
    )
    assert one == same
    assert one != other


@given(st.sets(st.text(alphabet="abcdefgh0123-_.Zé", min_size=1, max_size=12), max_size=20))
def test_names_are_one_to_one(some):
    """As long as they were, and with their beginnings: wildcards stay true."""
    names = Names(Key(b"any"))
    assert len({names(one) for one in some}) == len(some)
    assert all(len(names(one)) == len(one) for one in some)


@pytest.mark.parametrize(
    "name", ["eth0", "docker0", "DOCKER-USER", "KUBE-SERVICES", "INPUT", "ufw-user-input", "lo"]
)
def test_public_names_stay(name):
    """Those that everybody has."""
    assert Names(Key(b"any"))(name) == name


@pytest.mark.parametrize(
    ("name", "begin"),
    [("KUBE-SEP-ABCDEFGH2345", "KUBE-SEP-"), ("br-0123456789ab", "br-"), ("veth12ab", "veth")],
)
def test_the_public_part_of_a_name_stays(name, begin):
    """The rest, a hash, does not: those of kube-proxy can be guessed."""
    made = Names(Key(b"any"))(name)
    assert made.startswith(begin)
    assert made != name


def test_wildcards_stay_true():
    """vpn-+ is that of vpn-customer."""
    names = Names(Key(b"any"))
    assert names("vpn-customer").startswith(names("vpn-"))
    assert names("office7").startswith(names("off"))
