"""`iptrec diff` of all that nft 1.0.6 prints: a property that changes is told with its place, and only that.

tests/data/nft/every.nft is a ruleset of every kind of object; every.txt and every.json are what nft printed of
it. Flow tables and security marks, which few kernels have, are as nft's sources print them (src/rule.c and
src/json.c).
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest

from iptrec.answers.diff_objects import compare_all
from iptrec.cli import operands
from iptrec.errors import UsageError
from iptrec.views.diff import as_text

DATA = Path(__file__).parents[1] / "data" / "nft"
TEXT = (
    (DATA / "every.txt").read_text()
    + """\
table ip f { # handle 77
	flowtable ft { # handle 1
		hook ingress priority filter + 1
		devices = { eth0, eth1 }
		flags offload
		counter
	}

	secmark ssh { # handle 2
		comment "se"
		"system_u:object_r:ssh_server_packet_t:s0"
	}
}
"""
)
NOT_HERE = [
    {"table": {"family": "ip", "name": "f", "handle": 77}},
    {"secmark": {
        "family": "ip", "name": "ssh", "table": "f", "handle": 2, "comment": "se",
        "context": "system_u:object_r:ssh_server_packet_t:s0",
    }},
    {"flowtable": {
        "family": "ip", "name": "ft", "table": "f", "handle": 1, "hook": "ingress", "prio": 1,
        "dev": ["eth0", "eth1"],
    }},
]  # fmt: skip
JSON = [*json.loads((DATA / "every.json").read_text())["nftables"], *NOT_HERE]
REFUSED = "refused"


def told(old, new):
    """The lines of the answer; why it is refused."""
    try:
        sides = [operands._of_file("-", one.encode()) for one in (old, new)]
    except UsageError:
        return [REFUSED]
    return list(as_text(compare_all(*sides), None, colour=False))


def both_ways(old, new):
    """The answers, and from which places the changes are."""
    for lines in (told(old, new), told(new, old)):
        yield lines, {one[3:].rpartition(" (")[0] for one in lines if one[:2] == "@@"}


# --- JSON: each value in turn is another one, each part is left out -----------------------------------


def paths(value, path=()):
    """Those of all parts of a value."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(one, (*path, key))


def at(value, path):
    """What is at a path."""
    for one in path:
        value = value[one]
    return value


def changed(value, path):
    """A copy with another value at a path; of what has none, with another name. None: it has parts."""
    found = copy.deepcopy(value)
    *way, last = path
    inner = at(found, way)
    match inner[last]:
        case bool(one):
            inner[last] = not one
        case int(one):
            inner[last] = one + 1
        case str(one):
            inner[last] = f"{one}x"
        case None:
            inner[f"{last}x"] = inner.pop(last)
        case _:
            return None
    return found


def without(value, path):
    """A copy in which there is nothing at a path."""
    found = copy.deepcopy(value)
    *way, last = path
    del at(found, way)[last]
    return found


def lasts(kind, path):
    """Whether a part is a property: not what counts, runs out, or nft's own number for it."""
    counts = kind == "counter" or "counter" in path[:-1]
    return path[-1] not in ("handle", "used", "expires") and not (
        counts and path[-1] in ("packets", "bytes")
    )


def place(kind, value):
    """The one that an answer names."""
    table = f"{value['family']} {value['name' if kind == 'table' else 'table']}"
    inside = {"rule": "chain", "chain": "name"}.get(kind)
    within = value[inside] if inside else "table" if kind == "table" else f"{kind} {value['name']}"
    return f"{table}/{within}"


OBJECTS = [one for one in JSON if "metainfo" not in one]


def name_of(one):
    ((kind, value),) = one.items()
    name = value.get("name") or f"{value['chain']} {value['handle']}"
    return f"{value['family']} {value.get('table', '')} {kind} {name}".replace(" ", "-")


def others(value):
    """What becomes of an object, with the path of what is not the same."""
    for path in paths(value):
        if (other := changed(value, path)) is not None:
            yield path, other
        if "counter" not in path[:-1]:  # which has both of its numbers, or none
            yield path, without(value, path)


def is_right(kind, value, path, other, lines, places):
    """Whether an answer is that to a change of what is at a path."""
    of, last = path[0], path[-1]
    if lines == [REFUSED]:  # nft prints it always
        return of in REQUIRED
    still_flagged = kind == "table" and of == "flags" and "flags" in other
    default = kind == "chain" and "policy" not in other and value.get("policy") == "accept"
    if not lasts(kind, path) or still_flagged or default:
        return lines == ["no difference"]
    return lines != ["no difference"] if last in IDENTITY else place(kind, value) in places


IDENTITY = ("family", "table", "name", "chain")
REQUIRED = (*IDENTITY, "handle", "expr", "type", "hook", "prio")
TABLES = {(one["table"]["family"], one["table"]["name"]): one for one in OBJECTS if "table" in one}


@pytest.mark.parametrize("one", OBJECTS, ids=name_of)
def test_each_value_of_the_json(one):
    """What changed, came or went is told, with its place; what counts, runs out or is a handle is not."""
    ((kind, value),) = one.items()
    beside = [] if kind == "table" else [TABLES[value["family"], value["table"]]]
    old = json.dumps({"nftables": [*beside, one]})
    wrong = [
        (path, other, lines)
        for path, other in others(value)
        for lines, places in both_ways(old, json.dumps({"nftables": [*beside, {kind: other}]}))
        if not is_right(kind, value, path, other, lines, places)
    ]
    assert wrong == []


# --- text: each word in turn is another one, each line is left out ------------------------------------

_WORD = re.compile(r"[^\s,;{}\"=()#]+")
_COUNTS = re.compile(r"\t\tpackets \d+ bytes \d+")
_STATE = re.compile(
    r"(?<=# handle )\d+|(?<=packets )\d+|(?<=packets \d bytes )\d+|(?<=expires )\S+|(?<=bytes used )\d+ \w+"
)
_NOT_WORDS = re.compile(
    r"# handle|packets (?=\d+ bytes)|(?<=\d )bytes(?= \d)|expires|used(?= \d+ [a-z]*bytes)"
)


def blocks():
    """The place of each object and chain with its lines, and those of its table."""
    lines = TEXT.splitlines()
    table = ""
    begun = 0
    for number, line in enumerate(lines):
        if line.startswith("table "):
            table = line
            family, name = line.split()[1:3]
        elif found := re.match(r"\t((?:ct )?\w+) (\S+) \{", line):
            inside = found[2] if found[1] == "chain" else f"{found[1]} {found[2]}"
            begun = number
        elif line == "\t}":
            yield f"{family} {name}/{inside}", table, lines[begun : number + 1]
        elif re.match(r"\t\S", line):
            yield f"{family} {name}/table", table, [line]


BLOCKS = [*blocks()]


def other_word(word):
    return f"{word}7" if word[-1].isdigit() else f"{word}x"


def in_span(found, spans):
    return any(one.start() <= found.start() < one.end() for one in spans)


def other_lines(line):
    """A line with each of its words in turn another one, and whether that is a change."""
    for found in _WORD.finditer(line):
        if not in_span(found, _NOT_WORDS.finditer(line)):
            new = f"{line[: found.start()]}{other_word(found[0])}{line[found.end() :]}"
            yield new, not in_span(found, _STATE.finditer(line))


@pytest.mark.parametrize(
    ("where", "table", "lines"),
    BLOCKS,
    ids=[f"{one}-{lines[0].strip()[:5]}" for one, _, lines in BLOCKS],
)
def test_each_word_of_the_text(where, table, lines):
    """What changed, came or went is told, with its place; what counts, runs out or is a handle is not."""

    def text(some):
        return "\n".join([table, *some, "}", ""])

    whole, wrong = text(lines), []
    for number, line in enumerate(lines):
        head = len(lines) > 1 and not line.startswith("\t\t")  # where the name is
        tries = [([new], change) for new, change in other_lines(line)]
        if not head:
            tries.append(([], _COUNTS.fullmatch(line) is None))
        for instead, change in tries:
            for answer, places in both_ways(
                whole, text([*lines[:number], *instead, *lines[number + 1 :]])
            ):
                told = answer != ["no difference"] if head else where in places
                if told != change:
                    wrong.append((line, instead, answer))
    assert wrong == []


# --- what came and went whole -----------------------------------------------------------------------------

NETDEV = "type filter hook ingress devices = { d1, lo } priority filter - 5;"
CAME = {  # what is in a table, as text and as JSON, and what an answer says of it
    "base": (
        "inet", "type filter hook input priority filter + 7; policy drop;",
        {"type": "filter", "hook": "input", "prio": 7, "policy": "drop"},
        [
            "%s      chain %s: type filter hook input priority filter + 7;",
            "%s      chain %s: type filter; hook input; prio 7",
        ],
    ),
    "devices": (
        "netdev", f"{NETDEV} policy accept;",
        {"type": "filter", "hook": "ingress", "prio": -5, "policy": "accept", "dev": ["d1", "lo"]},
        [
            f"%s      chain %s: {NETDEV}",
            '%s      chain %s: type filter; hook ingress; prio -5; dev ["d1","lo"]',
        ],
    ),
    "comment": (
        "inet", 'comment "why"', {"comment": "why"},
        ['%s      chain %s: comment "why"', "%s      chain %s: comment why"],
    ),
    "plain": ("inet", "counter", {}, ["%s      chain %s", "%s      chain %s"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CAME)
def test_a_chain_that_came_or_went(case):
    """With what it is, or was, attached to."""
    family, line, printed, expected = CAME[case]
    table = {"table": {"family": family, "name": "t", "handle": 1}}
    chain = {"family": family, "table": "t", "name": "c", "handle": 2, **printed}
    text = f"table {family} t {{\n\tchain c {{\n\t\t{line}\n\t}}\n}}\n"
    sides = (
        (f"table {family} t {{\n}}\n", text),
        (json.dumps({"nftables": [table]}), json.dumps({"nftables": [table, {"chain": chain}]})),
    )
    for (old, new), words in zip(sides, expected, strict=True):
        assert words % ("+", "created") in told(old, new)
        assert words % ("-", "deleted") in told(new, old)


@pytest.mark.parametrize("family", ["ip", "ip6", "inet", "bridge", "netdev", "arp"])
def test_an_empty_table_that_came_or_went(family):
    """Also the first one of its family; the one that a recorder made is none."""
    full = "table inet other {\n}\n"
    for old in ("table ip t {\n}\n", full):
        new = f"{old}table {family} t2 {{\n}}\n"
        assert told(old, new)[1:] == ["+      table loaded", "1 table loaded"]
        assert told(new, old)[1:] == ["-      table unloaded", "1 table unloaded"]
    ours = f"{full}table ip iptrec-00000000-0000-4000-8000-000000000001 {{\n}}\n"
    assert told(full, ours) == ["no difference"]
