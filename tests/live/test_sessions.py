"""What compares a page with what was printed can tell them apart (sessions.py)."""

from __future__ import annotations

import documents
import pytest
import recipes
import sessions

PAGE = """\
# A page

## One

```console
$ iptrec why a.db --packet 1
#1 03:31:06.961 DROP tcp 10.8.0.2:60244 > 10.8.0.1:80 in wg0 by filter/FORWARD policy
...
--> policy => DROP
```

## Two

```toml expected.toml
[[expect]]
```

```console
client$ curl -m 2 http://10.8.0.1/
$ sudo iptrec record icmp -o b.db
^C
recorded 3 events (none lost), 61,440 bytes: b.db
```
"""
PRINTED = [
    "#1 14:00:00.123 DROP tcp 10.8.0.2:41111 > 10.8.0.1:80 in wg0 by filter/FORWARD policy",
    "  raw/PREROUTING: policy => ACCEPT",
    "-->\tpolicy => DROP",
]


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_the_commands_of_a_heading(page):
    """Whose prompt it is, and what each prints; a file is one, too."""
    (one,) = sessions.read(page, "One")
    assert (one.host, one.text, len(one.expected)) == ("", "iptrec why a.db --packet 1", 3)
    two = [(each.host, each.text, each.expected) for each in sessions.read(page, "Two")]
    assert two == [
        ("", "expected.toml", ["[[expect]]"]),
        ("client", "curl -m 2 http://10.8.0.1/", []),
        ("", "sudo iptrec record icmp -o b.db", []),
        ("", "^C", ["recorded 3 events (none lost), 61,440 bytes: b.db"]),
    ]
    assert len(sessions.read(page)) == 5


def test_what_is_the_same(page):
    """Times and ports of clients are others each time; what stands for "..." may be anything."""
    (one,) = sessions.read(page, "One")
    assert sessions.differences(one.expected, PRINTED) is None
    assert sessions.differences(PRINTED, PRINTED) is None


@pytest.mark.parametrize(
    "printed",
    [
        [],
        PRINTED[:2],
        [*PRINTED, "more"],
        PRINTED[1:],
        PRINTED[::-1],
        [PRINTED[0].replace("DROP", "ACCEPT"), *PRINTED[1:]],
        [PRINTED[0].replace("policy", "rule 1: -j DROP"), *PRINTED[1:]],
        [PRINTED[0].replace(":80", ":81"), *PRINTED[1:]],
        ["before", *PRINTED],
    ],
)
def test_what_differs(page, printed):
    """Another verdict, place or port of a server; a line too many, too few, or elsewhere."""
    (one,) = sessions.read(page, "One")
    assert sessions.differences(one.expected, printed) is not None


def test_policies_of_the_other_backend():
    """They do not count there, those that drop do."""
    there = [one.replace("raw/PREROUTING", "nat/PREROUTING") for one in PRINTED]
    assert sessions.differences(PRINTED, there) is not None
    assert sessions.differences(PRINTED, there, other=True) is None
    there[2] = there[2].replace("DROP", "REJECT")
    assert sessions.differences(PRINTED, there, other=True) is not None


def test_what_is_printed_is_written(page):
    """But where the page leaves something out."""
    commands = sessions.read(page)
    sessions.update(
        page, commands, {one.line: ["new"] for one in commands if one.text != "expected.toml"}
    )
    text = page.read_text()
    assert text.count("\nnew\n") == 3
    assert "...\n--> policy => DROP\n" in text


@pytest.mark.parametrize(
    "page", [*(documents.ROOT / "docs" / "recipes").glob("*.md"), documents.ROOT / "docs" / "tutorial.md"],
    ids=lambda one: one.stem,
)  # fmt: skip
def test_every_command_of_a_page_is_typed(page):
    """Below a heading that has a network."""
    name = str(page.relative_to(documents.ROOT / "docs").with_suffix(""))
    headings = [heading for of, heading in recipes.NETWORKS if of == name]
    typed = [one.line for heading in headings for one in sessions.read(page, heading)]
    assert sorted(typed) == [one.line for one in sessions.read(page)]
    assert typed


def test_every_network_is_of_a_page():
    """No heading was renamed."""
    for name, heading in recipes.NETWORKS:
        assert sessions.read(documents.ROOT / "docs" / f"{name}.md", heading), (name, heading)
