"""Where lines of nft's text end: a comment may hold line feeds, and what looks like the rest of a listing."""

from __future__ import annotations

import json

import pytest

from iptrec.decode.rulesets import nft_json, nft_objects, nft_text

LINES = [
    ["table ip t { # handle 1", "\tchain c { # handle 2", "\t}", "}", ""],
    ['\t\taccept comment "one\n\t}\n}" # handle 4', "\t\tdrop # handle 5", ""],
    ['\t\telements = { 192.0.2.1 comment "a\nb", 192.0.2.2 comment "\n" }', "\t}"],
    # It may end there: no line is taken for a part of the comment
    ['\t\taccept comment "one # handle 4', '\t\ttwo" # handle 5', "\t\tdrop # handle 6"],
    ['\t\taccept comment "one', "\t\ttwo # handle 4", '\t\tthree" # handle 5'],
    # A quote in a comment of who did not ask nft
    ['\t\taccept comment "5" disk" # handle 4', "\t\tdrop # handle 5"],
    ['\tcomment "never closed', "\t}", "}"],
    ["a\r", "b\x0b\x0c\x1c\x85\u2028c"],
]


@pytest.mark.parametrize("lines", LINES)
def test_lines(lines):
    """Together they are the text again."""
    assert [*nft_text.lines("\n".join(lines))] == lines


def test_objects_behind_a_comment():
    """A comment that holds the end of its chain and of its table hides no set."""
    text = (
        'table ip t {\n\tchain c {\n\t\taccept comment "x\n\t}\n}\ntable ip u {"\n\t}\n'
        "\n\tset s {\n\t\ttype ipv4_addr\n\t}\n}\n"
    )
    found = nft_objects.of_text(text.encode())
    assert [(one.kind, one.name) for one in found["ip", "t"]] == [("chain", "c"), ("set", "s")]
    assert [*found] == [("ip", "t")]


@pytest.mark.parametrize(
    ("rule", "target"),
    [
        ("udp dport 3000 dnat to 10.0.0.2:3001", "DNAT"),
        ("meta l4proto tcp dnat ip6 to [fd00::1]:80 persistent", "DNAT"),
        ("meta l4proto tcp dnat ip to 10.0.0.1-10.0.0.9:80-90 random,persistent", "DNAT"),
        ("snat to 10.0.0.1 fully-random", "SNAT"),
        ("udp dport 3100 redirect to :53", "REDIRECT"),
        ('oifname "b" masquerade', "MASQUERADE"),
        ("counter log", "LOG"),
        ('log prefix "a drop " level info flags all', None),
        ('log prefix "masquerade" group 3 counter packets 1 bytes 2', "LOG"),
        ('log prefix "a" accept', None),
        ("dnat to ip saddr map { 10.0.0.1 : 10.0.0.2 }", None),
        ('accept comment "x masquerade"', None),
        ("meta mark set 0x5", None),
    ],
)
def test_what_a_rule_does_by_its_text(rule, target):
    """What stands at its end, where nft's JSON is not there to tell; a map may do other things."""
    text = f"table ip t {{ # handle 1\n\tchain c {{ # handle 2\n\t\t{rule} # handle 3\n\t}}\n}}\n".encode()
    specs, _ = nft_text.texts(text)
    listing = json.dumps({"nftables": list(nft_text.objects(text, specs))}).encode()
    (found,) = nft_json.parse(listing, text).chains["ip", "t"]["c"].rules
    assert found.target == target
