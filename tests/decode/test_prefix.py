"""The log prefix of TRACE, as kernels print it and as strangers may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode.prefix import Prefix, parse

CHAIN = st.binary(min_size=1, max_size=28)


@pytest.mark.parametrize(
    ("prefix", "place"),
    [
        (b"TRACE: raw:PREROUTING:policy:2 \0", Prefix("raw", "PREROUTING", "policy", 2)),
        (b"TRACE: raw:PREROUTING:policy:2 ", Prefix("raw", "PREROUTING", "policy", 2)),
        (b"TRACE: raw:PREROUTING:policy:2", Prefix("raw", "PREROUTING", "policy", 2)),
        (b"TRACE: filter:INPUT:rule:1  \0\0", Prefix("filter", "INPUT", "rule", 1)),
        (b"TRACE: filter:a:b:return:1 ", Prefix("filter", "a:b", "return", 1)),
        (b"TRACE: filter:rule:1:rule:3 ", Prefix("filter", "rule:1", "rule", 3)),
        (b"TRACE: filter:x:policy:7:rule:3 ", Prefix("filter", "x:policy:7", "rule", 3)),
        (b"TRACE: filter:::rule:3 ", Prefix("filter", ":", "rule", 3)),
        (b"TRACE: nat:caf\xc3\xa9:rule:3 ", Prefix("nat", "caf\u00e9", "rule", 3)),
        (b"TRACE: nat:\xff\xfe:rule:3 ", Prefix("nat", "\\xff\\xfe", "rule", 3)),
        (b"TRACE: nat:a\nb:rule:3 ", Prefix("nat", "a\nb", "rule", 3)),
        (b"TRACE: nat:X:rule:2147483647 ", Prefix("nat", "X", "rule", 2147483647)),
        (b"TRACE: nat:X:rule:2147483648 ", None),
        (b"TRACE: nat:X:rule:99999999999999999999 ", None),
        (b"TRACE: nat:X:rule:0 ", None),
        (b"TRACE: nat:X:rule:-1 ", None),
        (b"TRACE: nat:X:rule:01 ", None),
        (b"TRACE: nat:X:rule:\xd9\xa1 ", None),
        (b"TRACE: nat:X:rule: ", None),
        (b"TRACE: nat:X:goto:1 ", None),
        (b"TRACE: nat:X:1 ", None),
        (b"TRACE: nat::rule:1 ", None),
        (b"TRACE: :X:rule:1 ", None),
        (b"TRACE: nat:X:rule:1 IN=", None),
        (b" TRACE: nat:X:rule:1 ", None),
        (b"trace: nat:X:rule:1 ", None),
        (b"", None),
    ],
)
def test_prefix_names_a_place_or_nothing(prefix, place):
    """Only what trace_packet() can have written is a place."""
    assert parse(prefix) == place


@given(
    table=st.sampled_from(["raw", "mangle", "nat", "filter", "security"]),
    chain=CHAIN,
    type_=st.sampled_from(["rule", "return", "policy"]),
    rulenum=st.integers(1, 2**31 - 1),
    end=st.sampled_from([b"", b" ", b" \0"]),
)
def test_any_chain_name_comes_out_whole(table, chain, type_, rulenum, end):
    """A chain's name, ':' and odd bytes included, does not disturb the other three."""
    written = b"TRACE: %s:%s:%s:%d%s" % (table.encode(), chain, type_.encode(), rulenum, end)
    expected = Prefix(table, chain.decode("utf-8", "backslashreplace"), type_, rulenum)
    assert parse(written) == expected


@given(st.binary(max_size=140) | st.builds(b"TRACE: %b".__mod__, st.binary(max_size=130)))
def test_any_bytes_are_printable_places_or_none(prefix):
    """Nothing raises, and a place can be encoded and counted."""
    place = parse(prefix)
    if place is not None:
        assert f"{place.table}:{place.chain}".encode()
        assert 0 < place.rulenum < 2**31
