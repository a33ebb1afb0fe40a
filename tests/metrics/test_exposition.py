"""Prometheus's own parser reads back what is written."""

from __future__ import annotations

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from iptrec.metrics.exposition import LABELS, Counts, abandoned, is_at_work, is_ours, text

HOSTILE = '-m comment --comment "a\\b\nc" \x00\x1b[31m\r\u2028{}=,#'
PRINTED = r'-m comment --comment "a\b\x0ac" \x00\x1b[31m\x0d\u2028{}=,#'
COUNTS = Counts(
    packets={
        ("DROP", "ipv4", "filter", "INPUT", "1", HOSTILE): 3,
        ("ACCEPT", "ipv6", "inet fw", "in", "policy", ""): 1 << 60,
    },
    lost={"sequence": 7, "new one": 1},
    losses={"enobufs": 2},
    incomplete=1,
    ambiguous=2,
    events=30,
    uncounted=4,
    size=4096,
    behind_ns=1_500_000_000,
    oldest_ns=1_796_004_738_324_357_123,
)


def parsed(written):
    """The samples, by the name and the values of labels; each family once, with a help and a type."""
    families = list(text_string_to_metric_families(written))
    assert len({one.name for one in families}) == len(families)
    assert all(one.documentation and one.type != "unknown" for one in families)
    found = {}
    for sample in (sample for family in families for sample in family.samples):
        key = sample.name, *(one for label, one in sample.labels.items() if label != "netns")
        assert key not in found
        found[key] = sample.value
    return found


def test_it_is_read_back():
    found = parsed(text(COUNTS, started_ns=1_500_000_000, recording=True))
    assert found["iptrec_packets_total", "DROP", "ipv4", "filter", "INPUT", "1", PRINTED] == 3
    assert found["iptrec_packets_total", "ACCEPT", "ipv6", "inet fw", "in", "policy", ""] == 1 << 60
    assert found["iptrec_events_lost_total", "sequence"] == 7
    assert found["iptrec_events_lost_total", "new one"] == 1
    assert found["iptrec_events_lost_total", "enobufs"] == 0
    assert found["iptrec_losses_total", "enobufs"] == 2
    assert found[("iptrec_events_total",)] == 30
    assert found[("iptrec_behind_seconds",)] == 1.5
    assert found[("iptrec_start_time_seconds",)] == 1.5
    assert found[("iptrec_oldest_event_timestamp_seconds",)] == pytest.approx(1796004738.3243)
    assert found[("iptrec_recording",)] == 1


def test_nothing_counted():
    """There is no oldest event; all else is 0."""
    found = parsed(text(Counts(), started_ns=0, recording=False))
    assert not any(found.values())
    assert ("iptrec_oldest_event_timestamp_seconds",) not in found
    assert ("iptrec_packets_incomplete_total",) in found


def test_counts_travel_as_json():
    assert Counts.of_json(json.loads(json.dumps(COUNTS.as_json()))) == COUNTS


def test_counts_add_up():
    """The oldest event is the older one, and who is behind most tells how far."""
    both = Counts(behind_ns=5, oldest_ns=9)
    both.add(COUNTS)
    both.add(COUNTS)
    assert both.events == 60
    assert both.packets[("DROP", "ipv4", "filter", "INPUT", "1", HOSTILE)] == 6
    assert (both.behind_ns, both.oldest_ns) == (COUNTS.behind_ns, 9)


@pytest.mark.parametrize(
    "change",
    [
        {"events": -1}, {"events": True}, {"events": "1"}, {"events": 1 << 62}, {"events": None},
        {"packets": {}}, {"packets": [["DROP", 1]]}, {"packets": [[*LABELS, "many"]]},
        {"packets": [[*LABELS[1:], 7, 1]]}, {"packets": [["x" * 5000, *LABELS[1:], 1]]},
        {"lost": []}, {"lost": {"a": -1}}, {"oldest_ns": "now"},
    ],
)  # fmt: skip
def test_what_is_nothing_of_the_kind_is_refused(change):
    """Who counts reads what strangers sent, and is not believed to be well."""
    with pytest.raises(ValueError, match="not"):
        Counts.of_json(COUNTS.as_json() | change)


def test_labels_that_are_not_text_are_replaced():
    """UTF-8 has no lone surrogates."""
    found = Counts.of_json(COUNTS.as_json() | {"packets": [["\udcff", *LABELS[1:], 1]]})
    assert (
        parsed(text(found, started_ns=0, recording=True))["iptrec_packets_total", "?", *LABELS[1:]]
        == 1
    )


def test_an_abandoned_file_says_so():
    """What is true for a moment is not known any more; all that was counted stays."""
    before = text(COUNTS, started_ns=0, recording=True)
    after = abandoned(before)
    assert (is_ours(before), is_at_work(before), is_ours(after), is_at_work(after)) == (
        True,
        True,
        True,
        False,
    )
    expected, found = parsed(before), parsed(after)
    expected.pop(("iptrec_behind_seconds",))
    expected.pop(("iptrec_oldest_event_timestamp_seconds",))
    expected[("iptrec_recording",)] = 0
    expected[("iptrec_counting_failures_total",)] += 1
    assert found == expected
    assert "behind_seconds" not in after


def test_what_nobody_knows_is_left_out():
    found = Counts(behind_ns=None)
    found.add(COUNTS)
    assert ("iptrec_behind_seconds",) not in parsed(text(found, started_ns=0, recording=True))


def test_every_sample_has_the_namespace():
    """Else node_exporter takes those of two recorders for one and refuses them all."""
    for netns in ("", "web", 'a"\\b'):
        written = text(COUNTS, started_ns=0, recording=True, netns=netns)
        families = text_string_to_metric_families(written)
        assert {one.labels["netns"] for family in families for one in family.samples} == {netns}


def test_nothing_moves_a_cursor():
    r"""Whoever looks at the file in a terminal; what is equal then is one sample."""
    labels = LABELS[1:]
    both = Counts(
        packets={("a\x1b", *labels): 1, (r"a\x1b", *labels): 2}, lost={"\r": 1, r"\x0d": 4}
    )
    written = text(both, started_ns=0, recording=True, netns="\x1b[31m")
    assert all(line.isprintable() for line in written.split("\n"))
    found = parsed(written)
    assert found["iptrec_packets_total", r"a\x1b", *labels] == 3
    assert found["iptrec_events_lost_total", r"\x0d"] == 5
