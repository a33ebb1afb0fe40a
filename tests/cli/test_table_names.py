"""Tables and chains of nf_tables, whose names may hold blanks and slashes."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import iptrec
from test_commands import HAIRPIN

from iptrec.answers import select
from iptrec.answers.selection import ANY_TABLE, is_among
from iptrec.cli import selection
from iptrec.errors import UsageError
from iptrec.recording.rows import Stream

NFT = str(Path(HAIRPIN).with_name("nftables.db"))


def test_rules_of_a_table():
    """Any table that the recording has."""
    done = iptrec("rules", NFT, "--table", "inet fw")
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if line.startswith("*")] == ["*inet fw"]


@pytest.mark.parametrize(
    ("recording", "table", "there"),
    [(NFT, "inet nope", "'inet fw'"), (HAIRPIN, "raw,security", "'filter', 'nat', 'raw'")],
)
def test_unknown_table(recording, table, there):
    """One line that names those that there are."""
    done = iptrec("rules", recording, "--table", table)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"iptrec: --table {table.split(',')[-1]!r}: the tables of this")
    assert there in done.stderr


COMMANDS = {
    "show": ["show"], "json": ["show", "--json"], "paths": ["paths"], "why": ["why"], "rules": ["rules"],
    "ndjson": ["export", "ndjson", "-o", "-"],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("recording", "chain"), [(NFT, "inet fw/nosuch"), (HAIRPIN, "filter/NOPE")]
)
def test_unknown_chain(command, recording, chain):
    """That is an answer; one line names some of those that there are."""
    name, *options = COMMANDS[command]
    done = iptrec(name, *options, recording, "--chain", chain)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    told = f"no packet matches; none passes {chain}, but "
    if name == "rules":
        told = "no rule fits; the chains of this recording are "
    assert done.stderr.startswith(f"iptrec {name}: {told}{chain.partition('/')[0]}/")
    assert len(done.stderr) < 600


@pytest.mark.parametrize(
    ("recording", "chain"),
    [
        (NFT, "inet fw/__chain7"),  # which nft does not list
        (HAIRPIN, "mangle/POSTROUTING"),  # which was not loaded
        (HAIRPIN, "filter/DOCKER"),
    ],
)
def test_a_chain_that_no_packet_passed(recording, chain):
    """That is an answer."""
    done = iptrec("show", recording, "--chain", chain, "udp")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("iptrec show: no packet matches")


class Kinds:
    """A recording of these streams."""

    def __init__(self, *kinds):
        self.streams = [Stream(at, 1, kind, {}) for at, kind in enumerate(kinds, 1)]


LEGACY, NATIVE, BOTH = (
    Kinds("nflog", "link"),
    Kinds("nftrace", "nftables"),
    Kinds("nflog", "nftrace"),
)


@pytest.mark.parametrize(
    ("recording", "name", "meant"),
    [
        (LEGACY, "filter", {"filter"}),
        (LEGACY, "legacy filter", {"filter"}),
        (LEGACY, "nft filter", {"nft filter"}),  # which it has not
        (NATIVE, "filter", {"filter"}),
        (NATIVE, "nft filter", {"filter"}),
        (NATIVE, "ip filter", {"filter"}),
        (NATIVE, "nft ip6 filter", {"filter"}),
        (NATIVE, "ip own", {"ip own"}),
        (NATIVE, "nft inet filter", {"inet filter"}),
        (NATIVE, "legacy filter", {"legacy filter"}),
        (BOTH, "filter", {"legacy filter", "nft filter"}),
        (BOTH, "legacy filter", {"legacy filter"}),
        (BOTH, "nft filter", {"nft filter"}),
        (BOTH, "ip filter", {"nft filter"}),
        (BOTH, "legacy ip filter", {"legacy ip filter"}),
        (BOTH, "inet side", {"inet side"}),
        (BOTH, "nft inet side", {"inet side"}),
    ],
)
def test_whose_tables(recording, name, meant):
    """A leading legacy or nft is the backend; a plain name means the tables of both."""
    chain, rule = selection.chain(f"{name}/C"), selection.rule(f"{name}/C/7")
    assert select.tables(recording, name) == meant
    assert select.places(recording, chain) == {(one, "C") for one in meant}
    assert select.rule_places(recording, rule) == {(one, "C", 7) for one in meant}


def test_slashes():
    """A name can be read once for each slash; the number is behind the last one."""
    assert selection.chain("filter/FORWARD") == {("filter", "FORWARD")}
    assert selection.chain("inet fw/a/b") == {("inet fw", "a/b"), ("inet fw/a", "b")}
    assert selection.rule("inet fw/a/b/7") == {("inet fw", "a/b", 7), ("inet fw/a", "b", 7)}
    assert selection.rule("filter/own//2") == {("filter", "own/", 2), ("filter/own", "/", 2)} - {
        ("filter/own", "/", 2)
    }


@pytest.mark.parametrize("text", ["", "/", "a/", "/a", "a" * 10**5, "a/b" * 10**5, "/" * 10**5])
def test_no_names(text):
    with pytest.raises(UsageError, match="TABLE/CHAIN"):
        selection.chain(text)
    with pytest.raises(UsageError, match="TABLE/CHAIN/N"):
        selection.rule(f"{text}/5")
    with pytest.raises(UsageError, match="TABLE/CHAIN/N"):
        selection.rule("a/b/" + "9" * 5000)


def test_any_table():
    """A chain alone is one of any table; a rule has a table."""
    assert selection.chain("FORWARD") == {(ANY_TABLE, "FORWARD")}
    assert select.places(BOTH, selection.chain("FORWARD")) == {(ANY_TABLE, "FORWARD")}
    assert is_among({(ANY_TABLE, "C"), ("filter", "D")}, "nat", "C")
    assert not is_among({(ANY_TABLE, "C"), ("filter", "D")}, "nat", "D")
    with pytest.raises(UsageError, match="TABLE/CHAIN/N"):
        selection.rule("FORWARD/5")
