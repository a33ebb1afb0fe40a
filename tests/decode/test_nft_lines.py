"""Where lines of nft's text end: a comment may hold line feeds, and what looks like the rest of a listing."""

from __future__ import annotations

import pytest

from iptrec.decode.rulesets import nft_objects, nft_text

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
