"""`export ndjson --schema`: events of OCSF and ECS are what these say, and tell nothing that was not seen."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from command import iptrec
from handmade import RAW, HandMade, udp, written
from hostile_names import HOSTILE, hostile_recording
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published import FITS, KINDS, ocsf_type, published

from iptrec.views.published import PUBLISHED

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "samples").glob("*.db"))
VERDICTS = {
    "ACCEPT": (1, 1, 1, "success"), "DROP": (2, 2, 2, "success"), "REJECT": (2, 2, 2, "success"),
    "UNKNOWN": (0, 0, 0, "unknown"), "QUEUE": (99, 99, 0, "unknown"), "STOLEN": (99, 99, 0, "unknown"),
    "DISCARDED": (99, 99, 2, "failure"), "REASSEMBLED": (99, 99, 0, None),
}  # fmt: skip


def events(path, name, *words):
    done = iptrec("export", "ndjson", path, "-o", "-", "--schema", name, "-q", *words)
    assert done.returncode in (0, 1), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def query(path, sql):
    return [tuple(json.loads(line).values())
            for line in iptrec("query", path, sql, "--json").stdout.splitlines()]  # fmt: skip


@pytest.mark.parametrize("field", PUBLISHED["ocsf"].fields, ids=lambda one: one.name)
def test_fields_of_ocsf_are_published(field):
    """Under that name, with that type."""
    kind, many = ocsf_type(field.name)
    assert kind == "object" or (kind in KINDS[field.kind] and many == (field.kind == "texts"))


@pytest.mark.parametrize("field", PUBLISHED["ecs"].fields, ids=lambda one: one.name)
def test_fields_of_ecs_are_published(field):
    """Under that name, with that type, or under our own."""
    if not field.name.startswith("iptrec."):
        entry = published("ecs")["fields"][field.name]
        assert entry["type"] in KINDS[field.kind]
        assert entry.get("array", False) == (field.kind == "texts")


def test_data_names_its_source():
    """What the fields are checked against says where it is from, and that we may have it."""
    for name, schema in PUBLISHED.items():
        data = published(name)
        assert (data["version"], data["licence"]) == (schema.version, "Apache-2.0")
        assert data["source"].startswith("https://github.com/")
        assert len(data["commit"]) == 40


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_events_of_samples(path, name):
    """One a packet, each as the schema wants it, with the packet's own values."""
    found = events(path, name)
    for event in found:
        FITS[name](event)
    own = [one["unmapped" if name == "ocsf" else "iptrec"] for one in found]
    assert [(one["packet"], one["time_ns"], one["verdict"], one["complete"], one["ambiguous"], one["steps"])
            for one in own] == query(
        path,
        "SELECT packet, packets.time_ns, verdict, complete, ambiguous, (SELECT count(*) FROM steps"
        " WHERE steps.packet = packets.packet) FROM packets ORDER BY 1",
    )  # fmt: skip
    addresses = [
        (
            one.get("src_endpoint", {}),
            one.get("dst_endpoint", {}),
            one.get("traffic", {}).get("bytes"),
        )
        if name == "ocsf"
        else (
            one.get("source", {}),
            one.get("destination", {}),
            one.get("network", {}).get("bytes"),
        )
        for one in found
    ]
    assert [
        (src.get("ip"), src.get("port"), dst.get("ip"), dst.get("port"), length)
        for src, dst, length in addresses
    ] == query(path, "SELECT src, sport, dst, dport, length FROM packets ORDER BY packet")


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_rules_of_samples(path):
    """The rule that decided is that of `query`, and equal rules have equal digests."""
    wanted = query(
        path,
        "SELECT decided_table, decided_chain, decided_rule, spec, count(*) FROM packets LEFT JOIN"
        " (SELECT DISTINCT packet, steps.table_name AS t, steps.chain AS c, steps.rule AS r, spec FROM steps"
        " JOIN rules ON rules.id = rule_id) USING (packet) WHERE decided_rule IS NOT NULL AND t ="
        " decided_table AND c = decided_chain AND r = decided_rule GROUP BY 1, 2, 3, 4",
    )
    ocsf = Counter(
        (one["unmapped"]["table"], one["unmapped"]["chain"], one["unmapped"]["rule"],
         one["firewall_rule"]["condition"])
        for one in events(path, "ocsf") if "uid" in one.get("firewall_rule", {})
    )  # fmt: skip
    ecs = Counter(
        (one["iptrec"]["decided"]["table"], one["iptrec"]["decided"]["chain"],
         one["iptrec"]["decided"]["rule"], one["iptrec"]["decided"]["spec"])
        for one in events(path, "ecs") if "uuid" in one.get("rule", {})
    )  # fmt: skip
    assert ocsf == ecs == {row[:4]: row[4] for row in wanted}
    digests = {(one["unmapped"]["table"], one["unmapped"]["chain"], one["firewall_rule"]["condition"],
                one["connection_info"]["protocol_ver_id"]): one["firewall_rule"]["uid"]
               for one in events(path, "ocsf") if "uid" in one.get("firewall_rule", {})}  # fmt: skip
    assert len(set(digests.values())) == len(digests)


def verdicts(name, verdict, *, ambiguous):
    """What an event of such a verdict says, by the fields' own functions."""
    known = {"verdict": verdict, "ambiguous": ambiguous, "host": None}
    fields = {one.name: one for one in PUBLISHED[name].fields}
    return lambda field: fields[field].value(known)


@pytest.mark.parametrize("ambiguous", [0, 1])
@pytest.mark.parametrize(("verdict", "wanted"), VERDICTS.items())
def test_every_verdict(verdict, wanted, ambiguous):
    """UNKNOWN is no success, and what may have been otherwise is neither success nor failure."""
    action, disposition, status, outcome = wanted
    ocsf = verdicts("ocsf", verdict, ambiguous=ambiguous)
    assert (ocsf("action_id"), ocsf("disposition_id")) == (action, disposition)
    assert ocsf("status_id") == (0 if ambiguous else status)
    assert ocsf("status_code") == verdict
    ecs = verdicts("ecs", verdict, ambiguous=ambiguous)
    assert ecs("event.outcome") == ("unknown" if ambiguous else outcome)
    assert ecs("event.action") == verdict.lower()
    denied = verdict in ("DROP", "REJECT")
    assert ("denied" in ecs("event.type")) == denied
    assert ("allowed" in ecs("event.type")) == (verdict == "ACCEPT")


def test_many_alike_are_as_one_by_one(tmp_path):
    """Packets that are made together have the values that each has alone."""
    made = HandMade().ruleset(
        RAW
        + "*filter\n:INPUT DROP [0:0]\n-A INPUT -p udp -m comment --comment seen -j ACCEPT\nCOMMIT\n"
    )
    made.events(
        [
            event
            for number in range(40)
            for packet in [udp(b"y" * number, src=f"10.0.0.{number}", sport=2000 + number, ident=number + 1)]
            for event in [
                ("raw:PREROUTING:policy:2", packet, {"indev": 1}),
                ("filter:INPUT:rule:1", packet, {"indev": 1}),
            ]
        ]
    )  # fmt: skip
    path = written(tmp_path / "t.db", made)
    for name in PUBLISHED:
        together = events(path, name)
        alone = [
            event for number in range(1, 41) for event in events(path, name, f"--packet={number}")
        ]
        assert len(together) == 40
        assert together == alone


def test_what_is_not_known_is_absent(tmp_path):
    """No name of the host, no addresses, no end: nothing is made up for them."""
    made = HandMade().ruleset(RAW)
    made.events([("raw:PREROUTING:policy:2", b"\x45", {})])
    made.facts = replace(made.facts, host="", kernel="?")
    path = written(tmp_path / "t.db", made)
    (ocsf,), (ecs,) = events(path, "ocsf"), events(path, "ecs")
    FITS["ocsf"](ocsf)
    FITS["ecs"](ecs)
    absent = {"device", "src_endpoint", "dst_endpoint", "firewall_rule", "policy"}
    assert not absent & ocsf.keys()
    assert (ocsf["action_id"], ocsf["status_id"]) == (0, 0)
    assert ocsf["status_detail"]
    assert not {"host", "destination", "rule"} & ecs.keys()
    assert ecs.get("source", {}).keys() <= {"packets"}
    assert ecs["event"]["outcome"] == "unknown"
    assert "created" not in ecs["event"]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names(name, text, tmp_path):
    """They are values like others, whole, and no line has more than one event."""
    (event,) = events(hostile_recording(tmp_path, text), name)
    FITS[name](event)
    assert (event["device"]["hostname"] if name == "ocsf" else event["host"]["name"]) == text


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(host=st.text(max_size=60), comment=st.binary(max_size=40))
def test_any_names(tmp_path, host, comment):
    """Control characters, the mark of templates, bytes that are not UTF-8: every line is JSON, and fits."""
    rule = (
        b'-A INPUT -p udp -m comment --comment "'
        + comment.translate(None, b'"\\\n\r\0')
        + b'" -j DROP\n'
    )
    made = HandMade()
    made.snapshot(
        "iptables-save", RAW.encode() + b"*filter\n:INPUT ACCEPT [0:0]\n" + rule + b"COMMIT\n"
    )
    made.events(
        [
            event
            for number in range(6)
            for event in [
                ("raw:PREROUTING:policy:2", udp(ident=number + 1), {"indev": 1}),
                ("filter:INPUT:rule:1", udp(ident=number + 1), {"indev": 1}),
            ]
        ]
    )  # fmt: skip
    made.facts = replace(
        made.facts, host=host.replace("\0", ""), kernel=f"Linux {host}".replace("\0", "")
    )
    path = tmp_path / "any.db"
    path.unlink(missing_ok=True)
    written(path, made)
    for name in PUBLISHED:
        found = events(path, name)
        assert len(found) == 6
        for event in found:
            FITS[name](event)


@pytest.mark.parametrize("schema", PUBLISHED.values(), ids=lambda one: one.name)
def test_schemas_are_described(schema, request):
    """schemas/NAME-v1.md has every field."""
    page = ROOT / "schemas" / f"{schema.name}-v1.md"
    if request.config.getoption("--update-golden"):
        page.write_text(schema.described())
    assert page.read_text() == schema.described()


def test_wrong_schema():
    """One line."""
    done = iptrec("export", "ndjson", SAMPLES[0], "-o", "-", "--schema", "cef")
    assert (done.returncode, done.stderr) == (
        2,
        "iptrec: --schema 'cef': must be one of iptrec, ocsf, ecs\n",
    )
