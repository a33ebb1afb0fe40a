"""The kernel's word with what was recorded: evidence is told by itself, whatever stands in the sentences."""

from __future__ import annotations

import pytest

from iptrec.answers.explained import explained
from iptrec.packets.ends import End

COLONS = "routing: so it seems, would have dropped it"
WAY = "the route is prohibit fd00: :/64"
SEEN = End("seen", "IP_RPFILTER", "rp_filter: no way back", "ip_rcv_finish_core+0x25b", 7)
ASKED = End(
    "asked", "IP_RPFILTER", "the kernel says (at 10: 02): x", evidence="the way back is not a"
)
EINVAL = End(
    "asked", "EINVAL", "the kernel says (asked 3 ms later)", evidence="martian, or a blackhole"
)
CASES = {
    "seen": (
        SEEN, End("recorded", "IP_RPFILTER", COLONS, evidence=WAY), "IP_RPFILTER",
        f"rp_filter: no way back; {WAY}",
    ),
    "asked": (
        ASKED, End("recorded", "IP_RPFILTER", COLONS, evidence=WAY), "IP_RPFILTER",
        f"the kernel says (at 10: 02): x: the way back is not a; {WAY}",
    ),
    "EINVAL": (
        EINVAL, End("recorded", "IP_LOCALNET", COLONS, evidence=WAY), "IP_LOCALNET",
        f"the kernel says (asked 3 ms later): EINVAL; {WAY}",
    ),
    "without evidence": (SEEN, End("recorded", "IP_RPFILTER", COLONS), "IP_RPFILTER", SEEN.text),
    "unsure": (
        SEEN, End("recorded", "IP_RPFILTER", COLONS, sure=False, evidence=WAY), "IP_RPFILTER", SEEN.text,
    ),
    "another": (SEEN, End("recorded", "IP_INHDR", COLONS, evidence=WAY), "IP_RPFILTER", SEEN.text),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_the_kernel_said_is_explained(case):
    said, recorded, reason, text = CASES[case]
    end = explained(said, recorded)
    assert (end.reason, end.text) == (reason, text)
    assert (end.source, end.where, end.time_ns, end.sure) == (
        said.source, said.where, said.time_ns, said.sure,
    )  # fmt: skip
