"""Whose a rule is, is told of a redacted recording as well: names that `origins.toml` knows stay."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_origins import CASES, REPORTS, case, found

from iptrec.answers.origins import Decider
from iptrec.redact.key import Key
from iptrec.redact.maps import Redaction, surveyed
from iptrec.redact.nft_text import NftText
from iptrec.redact.save_text import SaveText

ENTRIES = tomllib.loads(files("iptrec.answers").joinpath("origins.toml").read_text())["origin"]
ALL = [*CASES, *map(case, REPORTS.values())]
OTHERS = [
    "NETAVARK_ISOLATION_1", "NETAVARK-ISOLATION-3", "CNI-DN-", "KUBE-HOSTPORTS", "fail2ban-ssh",
    "zone_lan_forward", "zone_wan_dest_ACCEPT", "zone_wan_src_DROP", "nixos-fw-log-refuse", "cilium", "istio",
    "flannel-ipv4", "kube-router", "crowdsec", "crowdsec6", "CROWDSEC_CHAIN", "f2b-table",
]  # fmt: skip


def redaction(secret, *texts):
    key = Key(secret)
    addresses, survey = surveyed(key, ())
    for change, text in texts:
        change(survey).rule(text)
    return Redaction(key, addresses, (), ())


def named(maps, table):
    """A table, with its family perhaps."""
    family, space, name = table.rpartition(" ")
    return f"{family}{space}{maps.name(name)}"


@pytest.mark.parametrize("secret", [b"one", b"other"])
@pytest.mark.parametrize("one", ALL, ids=str)
def test_an_origin_stays(one, secret):
    """Of each rule that is known to be somebody's, or nobody's."""
    told = one.decider
    change = SaveText if told.text.startswith(("-", "!")) else NftText
    maps = redaction(secret, (change, told.text))
    tables = {named(maps, of): list(map(maps.name, chains)) for of, chains in one.tables.items()}
    comment = None if told.comment is None else maps.prose(told.comment)
    text = change(maps).rule(told.text)
    made = Decider(
        named(maps, told.table), maps.name(told.chain), told.policy, told.target, text, comment
    )
    assert found(made, tables) == one.wanted


PLACES = [
    (entry["id"], one) for entry in ENTRIES for one in (*entry["chains"], *entry.get("beside", ()))
]


@pytest.mark.parametrize(("id_", "pattern"), PLACES)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(data=st.data())
def test_each_place_of_an_entry_stays_one(id_, pattern, data):
    """Whatever a pattern of a table and a chain fits: what is behind a known prefix may be mapped."""
    table, _, chain = pattern.partition("/")
    letters = st.characters(codec="ascii", categories=["L", "Nd"], include_characters="-_")
    whole = [data.draw(st.from_regex(one, fullmatch=True, alphabet=letters | st.just(" ")))
             for one in (table, chain)]  # fmt: skip
    maps = redaction(b"one")
    assert re.fullmatch(table, named(maps, whole[0])), (id_, whole)
    assert re.fullmatch(chain, maps.name(whole[1])), (id_, whole, maps.name(whole[1]))


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_programs_stay(name):
    """Which no entry has yet, or which older versions made; what is behind them is mapped."""
    assert redaction(b"one").name(name) == name
    assert redaction(b"one").name(
        f"{name.rstrip('-')}-acme"
    ) != f"{name.rstrip('-')}-acme" or name.startswith(("NETAVARK", "nixos"))


def test_the_network_of_tailscale_stays():
    """By which its rule is known: it is the same everywhere."""
    rule = "-s fd7a:115c:a1e0::/48 ! -i tailscale0 -j DROP"
    maps = redaction(b"one", (SaveText, rule))
    assert SaveText(maps).rule(rule) == rule
    one = SaveText(maps).rule("-s fd7a:115c:a1e0::7/128 -j DROP")
    assert one.startswith("-s fd7a:115c:a1e0:")
    assert "a1e0::7/" not in one
