"""Which chains of our own packets pass last, beside those that there are."""

from __future__ import annotations

import pytest

from iptrec.kernel import sysctls
from iptrec.kernel.nft.bases import Base
from iptrec.kernel.nft.late import Late, none_yet
from iptrec.names import HOOKS

UUID = "0" * 8 + "-0000-0000-0000-" + "0" * 12
COMMENT = f"iptrec:{UUID}"


def base(hook, *, family="inet", priority=0, kind="filter"):
    return Base(family, "fw", "c", HOOKS.index(hook.upper()), priority, type=kind)


FORWARDS, NOT = True, False
NAT_OUT = base("output", priority=-100, kind="nat")
ROUTE_OUT = base("output", priority=-150, kind="route")


@pytest.mark.parametrize(
    ("known", "forwards", "hooks"),
    [
        ([], NOT, ["input"]),
        ([], FORWARDS, ["input", "postrouting"]),
        ([base("input")], NOT, []),
        ([base("input")], FORWARDS, ["postrouting"]),
        ([base("input"), base("forward")], FORWARDS, []),
        ([base("input"), base("postrouting")], FORWARDS, []),
        ([base("prerouting"), base("output")], NOT, ["input"]),
        ([base("input", kind="nat"), base("postrouting", kind="nat")], FORWARDS, ["input", "postrouting"]),
        # Routed again after OUTPUT
        ([base("input"), NAT_OUT], NOT, ["postrouting"]),
        ([base("input"), ROUTE_OUT, base("forward")], FORWARDS, ["postrouting"]),
        ([base("input"), ROUTE_OUT, NAT_OUT, base("output")], NOT, []),
        ([base("input"), NAT_OUT, base("output", priority=-100)], NOT, ["postrouting"]),
        ([base("input"), NAT_OUT, base("output", priority=-101)], NOT, ["postrouting"]),
        ([base("input"), NAT_OUT, base("postrouting")], NOT, []),
        # Chains that packets of IP do not pass
        ([base("input", family="bridge"), Base("netdev", "fw", "c", 0, 0, ("lo",))], NOT, ["input"]),
        ([Base("inet", "fw", "c", 5, 0, ("lo",))], NOT, ["input"]),
    ],
)  # fmt: skip
def test_where_they_are_needed(monkeypatch, known, forwards, hooks):
    """Where no chain of the user's is passed by all packets that routing lets go on."""
    monkeypatch.setattr(sysctls, "forwards", lambda: forwards)
    monkeypatch.setattr(sysctls, "hands_over", lambda: False)
    found = none_yet(COMMENT, ["ipv4"]).beside(known)
    assert {family: [*some] for family, some in found.hooks.items()} == {"ipv4": hooks}
    assert found.needed == bool(hooks)


def test_frames_of_bridges_go_on_without_being_forwarded(monkeypatch):
    monkeypatch.setattr(sysctls, "forwards", lambda: False)
    monkeypatch.setattr(sysctls, "hands_over", lambda: True)
    assert none_yet(COMMENT, ["ipv6"]).beside([]).hooks == {"ipv6": ("input", "postrouting")}


def test_each_family_by_itself_and_what_is_there_stays():
    """A chain of the user's that comes later does not make ours go."""
    first = none_yet(COMMENT, ["ipv6", "ipv4"])
    one = first.beside([base("input", family="ip"), base("postrouting")])
    assert one.hooks == {"ipv4": (), "ipv6": ("input",)}
    both = one.beside([base("postrouting"), base("input", family="ip6")])
    assert both.hooks == {"ipv4": ("input",), "ipv6": ("input",)}
    assert none_yet(COMMENT, ["ipv4"]).beside([base("input"), base("forward")]).requests == []


def test_which_are_missing():
    """Those that our own tables do not have."""
    late = Late(COMMENT, {"ipv4": ("input", "postrouting"), "ipv6": ("input",)})
    ours = [
        Base(family, f"iptrec-{UUID}", "c", HOOKS.index(hook), 2**31 - 1)
        for family, hook in (("ip", "INPUT"), ("ip", "POSTROUTING"), ("ip6", "INPUT"))
    ]
    assert not late.missing([base("input"), *ours]).needed
    assert late.missing([]) == late
    missing = late.missing([ours[0], ours[1]._replace(table="fw"), ours[2]])
    assert missing.hooks == {"ipv4": ("postrouting",), "ipv6": ()}
    assert {one.holder for one in missing.requests} == {"ipv4"}
    assert not none_yet(COMMENT, ["ipv4"]).missing([]).needed
    # Whose it is matters: another recorder's go with it.
    assert none_yet("iptrec:x", ["ipv4"]).beside(ours).hooks["ipv4"][0] == "input"
