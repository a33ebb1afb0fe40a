"""Plain words for the kernel's reasons to drop a packet, by the function that did.

One reason is used for several things, and several are nameless: so the function counts. What is not in these
tables has the kernel's own name and no other.
"""

from __future__ import annotations

from typing import Final

NO_ANSWER: Final = "the next hop does not answer (ARP, neighbour discovery)"
_NO_INPUT_ROUTE: Final = "no route, nobody joined its multicast group, or it has a source route"
# net/ipv6/exthdrs.c, nodata_protocol: what has no next header ends as at a blackhole.
_DISCARDED: Final = "a route blackholes the destination, or its last header says that none follows"
TOO_BIG: Final = "larger than the next MTU, and not to be fragmented"
# linux/dropreason-core.h has the comments that these are after; measured on Linux 6.18.
_UNWANTED: Final = "no socket waits for the {}, or an IPsec policy blocks it"
_BAD_SUM: Final = "a bad checksum of UDP"
_NOT_READ: Final = f"{_BAD_SUM}, or the program that read it had no room there"  # EFAULT
_BY_BOTH: Final = {
    ("IP_INNOROUTES", "ip_error"): "no route to the destination",
    ("IP_INNOROUTES", "ip6_pkt_discard"): "no route to the destination",
    ("IP_INNOROUTES", "ip6_pkt_prohibit"): "a route prohibits the destination",
    ("IP_INADDRERRORS", "ip_error"): "not for this host, and forwarding is off",
    (
        "IP_INADDRERRORS",
        "ip6_forward",
    ): "forwarding is off, or packets from its source are not forwarded",
    ("IP_INHDR", "ip_forward"): "its TTL expired here",
    ("IP_INHDR", "ip6_forward"): "its hop limit expired here",
    ("NOT_SPECIFIED", "ip_error"): "a route blackholes, prohibits or refuses the destination",
    ("NOT_SPECIFIED", "ip6_pkt_discard"): "a route blackholes or refuses the destination",
    ("NOT_SPECIFIED", "ip6_pkt_prohibit"): "a route prohibits the destination",
    ("NOT_SPECIFIED", "dst_discard"): _DISCARDED,
    ("NOT_SPECIFIED", "dst_discard_out"): _DISCARDED,
    ("NOT_SPECIFIED", "neigh_invalidate"): NO_ANSWER,
    ("NOT_SPECIFIED", "ndisc_error_report"): NO_ANSWER,
    ("NOT_SPECIFIED", "ip_rcv_finish_core"): _NO_INPUT_ROUTE,
    ("NOT_SPECIFIED", "ip_fragment"): TOO_BIG,
    ("NOT_SPECIFIED", "ip6_fragment"): TOO_BIG,
    ("NOT_SPECIFIED", "ip6_mc_input"): "nobody here joined its multicast group",
    ("INVALID_PROTO", "icmp_rcv"): "a message of ICMP that this host ignores",
    ("NOT_SPECIFIED", "__udp4_lib_rcv"): _UNWANTED.format("broadcast or multicast"),
    ("NOT_SPECIFIED", "__udp6_lib_rcv"): _UNWANTED.format("multicast"),
    ("NOT_SPECIFIED", "udp_recvmsg"): _NOT_READ,
    ("NOT_SPECIFIED", "udpv6_recvmsg"): _NOT_READ,
    ("NOT_SPECIFIED", "first_packet_length"): _BAD_SUM,
    ("NOT_SPECIFIED", "__first_packet_length"): _BAD_SUM,
    ("NOT_SPECIFIED", "nf_queue"): "no program takes it from NFQUEUE, or the queue is full",
    ("NOT_SPECIFIED", "nf_reinject"): "the program behind NFQUEUE dropped it",
    ("NOT_SPECIFIED", "nfqnl_reinject"): "the program behind NFQUEUE dropped it",
}
_BY_REASON: Final = {
    "IP_RPFILTER": "rp_filter: no route back to its source by the interface that it came in by",
    "IP_LOCALNET": "a loopback address outside of the host (martian)",
    "IP_LOCAL_SOURCE": "its source is an address of this host (martian)",
    "IP_INVALID_SOURCE": "its source cannot be one (martian)",
    "IP_INVALID_DEST": "its destination cannot be one (martian)",
    "IP_OUTNOROUTES": "no route to the destination",
    "IP_CSUM": "a bad checksum of IP",
    "IP_NOPROTO": "nobody handles its protocol",
    "IP_NOT_HOST": "not sent to this host's link-layer address",
    "NO_SOCKET": "no socket waits for it",
    "SOCKET_FILTER": "the filter of its socket refused it",
    "SOCKET_RCVBUFF": "the receive buffer of its socket is full",
    "SOCKET_BACKLOG": "the backlog of its socket is full",
    "PROTO_MEM": "the protocol's memory is full",
    "UDP_CSUM": _BAD_SUM,
    "TCP_CSUM": "a bad checksum of TCP",
    "ICMP_CSUM": "a bad checksum of ICMP",
    "TCP_FLAGS": "flags of TCP that do not go together",
    "TCP_RESET": "a reset of TCP with a wrong sequence number",
    "TCP_OLD_DATA": "data of TCP that had come already",
    "TCP_OLD_SEQUENCE": "data of TCP that had come already",
    "TCP_INVALID_SEQUENCE": "outside of the window of TCP",
    "TCP_ACK_UNSENT_DATA": "it acknowledges what was never sent",
    "TCP_ZEROWINDOW": "the window of TCP is closed",
    "PKT_TOO_BIG": TOO_BIG,
    "NEIGH_FAILED": NO_ANSWER,
    "NEIGH_QUEUEFULL": "too many packets wait for the next hop to answer",
    "NEIGH_DEAD": "the next hop is gone",
    "QDISC_DROP": "the queue of the interface that it goes out by dropped it",
    "XFRM_POLICY": "a policy of IPsec forbids it",
    "NETFILTER_DROP": "a hook of netfilter dropped it of which no rule tells",
}
# By these a program reads: recvmsg and poll find the bad checksum of a long datagram (net/ipv4/udp.c).
_READING: Final = (
    "udp_recvmsg", "udpv6_recvmsg", "udp_read_skb", "__first_packet_length", "first_packet_length",
)  # fmt: skip
# Functions that take packets behind INPUT begin so.
RECEIVING: Final = (
    *_READING,
    "udp", "__udp", "tcp_", "icmp", "igmp", "raw", "ping_", "sctp_", "ip_local_deliver", "ip6_input_finish",
    "ip6_protocol_deliver", "ipv6_rthdr_rcv", "ipv6_destopt_rcv", "ip6_tlvopt_unknown", "ipv6_raw_deliver",
)  # fmt: skip
# Those that hand packets to a device, or wait for its neighbours; and reasons of such.
LEAVING: Final = (
    "__dev_queue_xmit", "__dev_xmit", "dev_hard_start_xmit", "sch_direct_xmit", "validate_xmit_skb", "neigh_",
    "__neigh_", "ndisc_error_report", "arp_error_report", "ip_fragment", "ip6_fragment", "ip_finish_output",
    "ip6_finish_output", "br_", "__br_", "bond_", "macvlan_", "ipvlan_", "vxlan_", "tun_net_xmit",
)  # fmt: skip
NEIGHBOURS: Final = "NEIGH_"
OF_DEVICES: Final = ("QDISC_", NEIGHBOURS)
# Raw sockets get copies of what others take; a VXLAN sends one to each of its remotes.
COPYING: Final = ("raw", "ipv6_raw_deliver", "vxlan_")
# Those that route: what they drop has not come any further.
ROUTING: Final = (
    "ip_error", "ip_rcv_finish_core", "ip_forward", "ip6_forward", "ip6_pkt_discard", "ip6_pkt_prohibit",
    "ip6_mc_input",
)  # fmt: skip
# Where Linux 6.1 drops what a queue of a device, called by __dev_queue_xmit, does not take.
_FREED_AS_LIST: Final = "kfree_skb_list_reason"
# Those that packets come to by way of these, or of rules that let them go on.
_BEHIND: Final = (
    "ip_fragment", "ip6_fragment", "ip_finish_output2", "ip6_finish_output2", "__dev_queue_xmit",
    "sch_direct_xmit", _FREED_AS_LIST, "nf_queue", "nf_reinject", "nfqnl_reinject",
)  # fmt: skip
# What stands for the destination's route, or for what takes packets here; for those that were forwarded only
# where their interface has just gone (net/core/dst.c, dst_dev_put).
DISCARDING: Final = ("dst_discard", "dst_discard_out")
# Reasons of a socket: where several get a packet, each its own copy, it is one's alone.
OF_SOCKETS: Final = ("SOCKET_FILTER", "SOCKET_RCVBUFF", "SOCKET_BACKLOG", "PROTO_MEM")
NETFILTER: Final = "NETFILTER_DROP"
# Those that drop what waited for a neighbour.
GIVING_UP: Final = ("neigh_invalidate", "ndisc_error_report", "arp_error_report")
# Reasons of packets that wait, for a neighbour, in a queue, for a socket that is busy; and functions.
LATE: Final = (*OF_DEVICES, "TCP_", "SOCKET_BACKLOG", "DEV_", "CPU_BACKLOG")
LATE_FUNCTIONS: Final = (*GIVING_UP, *_READING)
# Who gets copies of packets, such as tcpdump, or makes them, as TEE: the packet itself goes on. An answer to
# ping has gone to its raw socket when nobody of ping_rcv wants it.
_OF_COPIES: Final = (
    "packet_rcv", "tpacket_rcv", "packet_rcv_spkt", "ping_rcv", "nf_dup_ipv4", "nf_dup_ipv6",
)  # fmt: skip
# What a packet that has arrived, or gone, was put together of, or lay in.
_FREED: Final = ("skb_release_data", "skb_release_head_state")
# It came to its socket, which is closed with it unread.
_UNREAD: Final = ("QUEUE_PURGE", "SOCKET_CLOSE")
# What older kernels drop that has done its work, seen on 6.1: an answer to ping that went to its raw socket is
# dropped by the caller of ping_rcv, so is any message of ICMPv6; what a socket is closed with has no reason.
# Nor have the pieces of a packet that are freed as a list, where what a queue drops has one.
_DONE: Final = (
    ("NO_SOCKET", "icmp_rcv"), ("NO_SOCKET", "icmpv6_rcv"), ("NOT_SPECIFIED", "icmpv6_rcv"),
    ("NOT_SPECIFIED", "sk_stream_kill_queues"), ("NOT_SPECIFIED", "udp_destruct_common"),
    ("NOT_SPECIFIED", _FREED_AS_LIST), ("TCP_OLD_DATA", "tcp_rcv_state_process"),
)  # fmt: skip


def function(place: str) -> str:
    """The function of a place; compilers name what they made of it after a point (ip_error.part.0)."""
    return place.partition("+")[0].partition(".")[0]


def is_behind(place: str) -> bool:
    """Whether a packet that is dropped at a place has come past raw PREROUTING, or OUTPUT."""
    name = function(place)
    return name in (*ROUTING, *DISCARDING, *GIVING_UP, *_BEHIND) or name.startswith(RECEIVING)


def is_loss(reason: str, place: str) -> bool:
    """Whether a packet is lost that the kernel drops so: what a drop is called is not always one.

    TCP drops what has done its work: the last segments of a connection, without a reason, or as data that had
    come already where it looks at its state.
    """
    of_tcp = reason == "NOT_SPECIFIED" and function(place).startswith("tcp_")
    done = of_tcp or reason in _UNREAD or (reason, function(place)) in _DONE
    return not (done or function(place) in (*_OF_COPIES, *_FREED))


def words(reason: str, place: str) -> str:
    """What it means that the kernel dropped a packet for this reason there."""
    known = _BY_BOTH.get((reason, function(place))) or _BY_REASON.get(reason)
    return known or "the kernel dropped it"
