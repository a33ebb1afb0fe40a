"""Commands that only look, and that may not end by themselves."""

from __future__ import annotations

import subprocess
import time

import pytest

from iptrec.errors import HostError
from iptrec.kernel import iptables, process
from iptrec.kernel.deadline import Deadline
from iptrec.kernel.nft import listing


def test_a_listing_that_does_not_end_is_ended():
    """Otherwise a recorder whose ruleset changes all the time could not be stopped."""
    begun = time.monotonic()
    with pytest.raises(HostError, match=r"sleep does not come to an end: .*change all the time"):
        process.run(["sleep", "60"], until=Deadline(0.2))
    assert time.monotonic() - begun < 30


@pytest.fixture
def nft(monkeypatch):
    """A ruleset that nft prints."""
    done = subprocess.CompletedProcess([], 0, b"{}", b"")
    monkeypatch.setattr(listing, "generation", lambda: 7)
    monkeypatch.setattr(listing, "nft", lambda: "nft")
    monkeypatch.setattr(process, "run", lambda *_, **__: done)


def refuse(*_, **__):
    raise HostError("iptables-nft-save failed: no memory")


def listed():
    """The kinds of what is listed, and what is said."""
    said = []
    parts = listing.ruleset(counters=True, failed=said.append)
    return [one.kind for one in parts], [str(one) for one in said]


@pytest.mark.usefixtures("nft")
def test_texts_that_iptables_nft_save_does_not_print_are_told(monkeypatch):
    """The rules are recorded in nft's words alone: whoever reads them should know why."""
    monkeypatch.setattr(iptables, "require", lambda *_: None)
    monkeypatch.setattr(iptables, "save", refuse)
    kinds, (first, second) = listed()
    assert kinds == ["nft-generation", "nft-text", "nft"]
    assert first == second
    assert first.startswith("iptables-nft-save failed: no memory; ")


@pytest.mark.usefixtures("nft")
def test_where_there_is_no_iptables_nobody_misses_its_words(monkeypatch):
    """A host with nft alone."""
    monkeypatch.setattr(iptables, "require", refuse)
    assert listed() == (["nft-generation", "nft-text", "nft"], [])


@pytest.mark.usefixtures("nft")
def test_what_is_told_belongs_to_what_is_listed(monkeypatch):
    """A failure under a ruleset that changed meanwhile, so that all is listed again, is nobody's concern."""
    failures = [HostError("it changes")]

    def save(*_, **__):
        if failures:
            raise failures.pop()
        return "iptables-nft-save", b""

    generations = iter([1, 2, 3, 3])
    monkeypatch.setattr(listing, "generation", lambda: next(generations))
    monkeypatch.setattr(iptables, "require", lambda *_: None)
    monkeypatch.setattr(iptables, "save", save)
    saves = "iptables-nft-save", "ip6tables-nft-save"
    assert listed() == (["nft-generation", *saves, "nft-text", "nft"], [])


@pytest.mark.usefixtures("nft")
def test_the_number_of_what_is_listed_is_told_where_it_is_sure(monkeypatch):
    """A listing during which the ruleset changed is of no one generation."""
    numbers = iter(range(100))
    monkeypatch.setattr(listing, "generation", lambda: next(numbers))
    monkeypatch.setattr(iptables, "require", refuse)
    assert listed() == (["nft-generations", "nft-text", "nft"], [])
    monkeypatch.setattr(listing, "generation", lambda: 7)
    first, *_ = listing.ruleset(counters=False, failed=refuse)
    assert (first.kind, first.content) == ("nft-generation", b"7")
