"""Which drops are losses, kernel by kernel: what arrived is never told as lost."""

from __future__ import annotations

import pytest

from iptrec.packets.drop_records import Cause
from iptrec.packets.drop_words import is_loss

CASES = [  # Linux, reason, place, whether it is a loss
    ("6.18", "NO_SOCKET", "ping_rcv+0xb0", False),
    ("6.1", "NO_SOCKET", "icmp_rcv+0x1b1", False),
    ("6.1", "NO_SOCKET", "icmpv6_rcv+0x258", False),
    ("6.1", "NOT_SPECIFIED", "icmpv6_rcv+0x258", False),
    ("6.1", "NOT_SPECIFIED", "sk_stream_kill_queues+0x58", False),
    ("6.18", "NOT_SPECIFIED", "udp_destruct_common+0xb9", False),
    ("6.18", "TCP_OLD_DATA", "tcp_rcv_state_process+0x8", False),
    ("6.18", "TCP_OLD_DATA", "tcp_data_queue+0x8", True),
    ("6.18", "ICMP_CSUM", "icmp_rcv+0x1ff", True),
    ("6.1", "NO_SOCKET", "__udp4_lib_rcv+0x4bc", True),
    ("6.1", "QDISC_DROP", "kfree_skb_list_reason+0x1f", True),
    ("6.1", "NOT_SPECIFIED", "kfree_skb_list_reason+0x1f", False),  # pieces of what arrived
]


@pytest.mark.parametrize(("linux", "reason", "place", "lost"), CASES)
def test_what_is_a_loss(linux, reason, place, lost):
    assert is_loss(reason, place) is lost, linux


def test_what_waits_for_a_program():
    """Kernels before 6.11 or so give no reason, and recvmsg drops what it cannot copy without one."""
    for where in ("udp_recvmsg+0x106", "udpv6_recvmsg+0x134", "__first_packet_length+0x105"):
        for reason in ("UDP_CSUM", "NOT_SPECIFIED"):
            cause = Cause(reason, where)
            assert cause.late
            assert cause.receiving
            assert not cause.waiting
            assert cause.death(sure=True).text.startswith("a bad checksum of UDP")
