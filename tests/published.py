"""Whether an event is what a published schema says: names, types, numbers, and what must be there."""

from __future__ import annotations

import ipaddress
import json
import re
from datetime import datetime
from functools import cache
from pathlib import Path

DATA = Path(__file__).parent / "data"
MOST = {"integer_t": 2**31 - 1, "port_t": 65_535}
KINDS = {
    "text": {"string_t", "ip_t", "mac_t", "hostname_t", "keyword", "match_only_text", "ip"},
    "texts": {"string_t", "keyword"},
    "number": {"integer_t", "long_t", "port_t", "timestamp_t", "long"},
    "truth": {"boolean_t", "boolean"},
    "time": {"datetime_t", "date"},
}  # of our fields -> types of theirs


@cache
def published(name):
    """The names and types of a schema that events use."""
    (path,) = DATA.glob(f"{name}-*.json")
    return json.loads(path.read_text())


def ocsf_type(name):
    """Type and whether it is a list, of a dotted name; ("object", False) for what is unmapped."""
    objects = published("ocsf")["objects"]
    here, entry = "network_activity", None
    for part in name.split("."):
        if here == "object":
            return "object", False
        entry = objects[here]["attributes"][part]
        here = entry["type"]
    return entry["type"], entry.get("array", False)


def fits_ocsf(event):
    """Every attribute is known, of its type, and what is required is there."""
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    _fits_object(event, "network_activity", "")


def _fits_object(value, name, where):
    one = published("ocsf")["objects"][name]
    attributes = one["attributes"]
    assert isinstance(value, dict), where
    assert value.keys() <= attributes.keys(), (where, value.keys() - attributes.keys())
    required = {key for key, entry in attributes.items() if entry.get("requirement") == "required"}
    assert required <= value.keys(), (where, required - value.keys())
    if wanted := one.get("at_least_one"):
        unseen = name == "network_activity" and "bytes" not in value.get("traffic", {})
        assert unseen or value.keys() & set(wanted), where
    for key, inner in value.items():
        entry, path = attributes[key], f"{where}.{key}"
        kind = entry["type"]
        if kind == "object":
            assert isinstance(inner, dict), path
        elif kind in published("ocsf")["objects"]:
            _fits_object(inner, kind, path)
        elif entry.get("array"):
            assert isinstance(inner, list), path
            for item in inner:
                _fits_type(item, kind, path)
        else:
            _fits_type(inner, kind, path)
        if enum := entry.get("enum"):
            assert str(inner) in enum, path
            sibling = _SIBLINGS.get(key, key.removesuffix("_id"))
            if sibling in value and str(inner) != "99":
                assert value[sibling] == enum[str(inner)], path


_SIBLINGS = {
    "activity_id": "activity_name", "category_uid": "category_name", "class_uid": "class_name",
    "type_uid": "type_name", "protocol_ver_id": "protocol_ver",
}  # fmt: skip


def _fits_type(value, kind, where):
    entry = published("ocsf")["types"][kind]
    base = entry.get("is", kind)
    if base == "string_t":
        assert isinstance(value, str), where
        if kind == "ip_t":
            ipaddress.ip_address(value)
        assert len(value) <= entry.get("max_len", len(value)), where
        assert "regex" not in entry or re.search(entry["regex"], value), where
    else:
        assert type(value) is int, where
        assert kind not in MOST or 0 <= value <= MOST[kind], where


def fits_ecs(event):
    """Every field but our own is known, of its type, and what is required is there."""
    known = published("ecs")["fields"]
    found = dict(flat(event))
    own = {name for name in found if name.startswith("iptrec.")}
    assert found.keys() - own <= known.keys(), found.keys() - own - known.keys()
    assert {name for name, one in known.items() if one.get("required")} <= found.keys()
    for name in found.keys() - own:
        entry, value = known[name], found[name]
        assert isinstance(value, list) == entry.get("array", False), name
        for item in value if isinstance(value, list) else [value]:
            _fits_field(item, entry, name)
    assert set(found["event.type"]) <= set(known["event.category"]["types_of_network"])


def _fits_field(value, entry, name):
    kind = entry["type"]
    assert type(value) is (int if kind == "long" else str), name
    if kind == "ip":
        ipaddress.ip_address(value)
    elif kind == "date":
        datetime.fromisoformat(value[:26])
        assert value.endswith("Z"), name
    for allowed in ("allowed", "expected"):
        assert allowed not in entry or value in entry[allowed], name
    assert "pattern" not in entry or re.match(entry["pattern"], value), name


def flat(value, before=""):
    """Dotted names and values of objects in objects."""
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from flat(inner, f"{before}{name}.")
        else:
            yield before + name, inner


FITS = {"ocsf": fits_ocsf, "ecs": fits_ecs}
