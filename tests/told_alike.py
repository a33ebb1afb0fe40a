"""The end of each packet of a recording, as every view tells it: all of them have to say the same."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import struct
from collections import Counter
from urllib.parse import unquote

from command import iptrec
from selected import by_reason

import iptrec as api

_PACKET, _ID, _COMMENT = 6, 5, 1  # https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-02.html
_END = ("source", "reason", "where", "sure", "text")
_COMMON = _END[:-1]  # what the packets of a path have in common


def ends(path, directory):
    """By packet what `show --json` says of its end, None where there is none; all other views agree."""
    shown = {one["packet"]: one for one in _lines("show", path)}
    told = {number: _end(one) for number, one in shown.items()}
    assert _why(path) == told
    assert _table(path, directory) == told
    _pcapng_agrees(path, directory, shown)
    _paths_agree(path, directory, told)
    _info_agrees(path, shown)
    with api.open(path) as recording:
        selected = by_reason(recording.rows)
    assert selected == _by_reason(told)
    return told


def _lines(command, path, *words):
    done = iptrec(command, path, "--json", *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _end(one, names=_END):
    end = one.get("end")
    return None if end is None else tuple(end[name] for name in names)


def _by_reason(told):
    found = {}
    for number, end in told.items():
        if end is not None:
            found.setdefault(end[1], []).append(number)
    return found


def _why(path):
    found = [one["packet"] for one in _lines("why", path)]
    return {one["packet"]: _end(one) for one in found}


def _table(path, directory):
    output = directory / "alike.sqlite"
    assert iptrec("export", "sqlite", path, "-o", output, "--force").returncode == 0
    columns = ", ".join(f"end_{name}" for name in _END)
    with contextlib.closing(sqlite3.connect(output)) as made:
        rows = made.execute(f"SELECT packet, {columns} FROM packets")
        return {number: _row(end) for number, *end in rows}


def _row(end):
    return None if end[0] is None else (*end[:3], bool(end[3]), end[4])


def _pcapng_agrees(path, directory, shown):
    """The comment of each packet has the words of its end, the kernel's own as well, and no other one's."""
    output = directory / "alike.pcapng"
    assert iptrec("export", "pcapng", path, "-o", output, "--force").returncode == 0
    comments = _comments(output.read_bytes())
    assert comments.keys() == shown.keys()
    every = {_words(one["end"]) for one in shown.values() if "end" in one}
    for number, one in shown.items():
        comment, fields = comments[number]
        lines = comment.splitlines()
        how = f"{one['verdict']} by the kernel: "
        said = [line.removeprefix("end: ") for line in lines if line.startswith("end: ")]
        said += [
            line.removeprefix(how).partition(" (incomplete")[0]
            for line in lines[:1]
            if line.startswith(how)
        ]
        assert said == ([_words(one["end"])] if "end" in one else []), (number, lines)
        assert (f"({one['reason']})" in lines) == (one["reason"] is not None), (number, lines)
        end = one.get("end", {"reason": None, "text": None})
        named = dict(pair.split("=") for pair in fields.partition("?")[2].split("&"))
        wanted = {"reason": one["reason"], "end": end["reason"], "end_text": end["text"]}
        for name, value in wanted.items():
            assert (name in named) == (value is not None), (number, name, fields)
            assert value is None or unquote(named[name]) == value, (number, name, fields)
    assert every or not any("end: " in one for one, _ in comments.values())


def _words(end):
    kernels = f" ({end['reason']} at {end['where']})" if end["source"] == "seen" else ""
    return end["text"] + kernels


def _comments(data):
    """By their numbers the comments of the packets of a capture: for people, and for programs."""
    found, at = {}, 0
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind == _PACKET:
            (captured,) = struct.unpack_from("<I", data, at + 20)
            options = list(_options(data[at + 28 + (captured + 3 & ~3) : at + size - 4]))
            number = next(struct.unpack("<Q", value)[0] for code, value in options if code == _ID)
            found[number] = [value.decode() for code, value in options if code == _COMMENT]
        at += size
    return found


def _options(data):
    at = 0
    while at < len(data):
        code, size = struct.unpack_from("<HH", data, at)
        yield code, data[at + 4 : at + 4 + size]
        at += 4 + (size + 3 & ~3)


def _paths_agree(path, directory, told):
    """Packets of a path end alike, the first of them in its very words; numbers are those of SQL and `show`."""
    with contextlib.closing(sqlite3.connect(directory / "alike.sqlite")) as made:
        numbers = dict(made.execute("SELECT packet, path FROM packets"))
    counts = Counter(numbers.values())
    found = _lines("paths", path)
    assert {one["path"]: one["packets"] for one in found} == counts
    for one in found:
        members = [number for number, its in numbers.items() if its == one["path"]]
        assert one["example"] == members[0]
        assert _end(one) == told[members[0]]
        common = {told[number] and told[number][:-1] for number in members}
        assert common == {_end(one, _COMMON)}
    odd = next((one for one in found if "end" in one), found[0])
    members = [number for number, its in numbers.items() if its == odd["path"]]
    assert [one["packet"] for one in _lines("show", path, "--path", odd["path"])] == members


def _info_agrees(path, shown):
    """It counts what the kernel told as it happened."""
    done = iptrec("info", path, "--json")
    assert done.returncode == 0, done.stderr
    info = json.loads(done.stdout)
    assert info["verdicts"] == Counter(one["verdict"] for one in shown.values())
    seen = [one["end"] for one in shown.values() if _end(one, ("source",)) == ("seen",)]
    told = info.get("drop_reasons", {"ends": {}, "in_doubt": 0})
    assert told["ends"] == Counter(one["reason"] for one in seen if one["sure"])
    assert told["in_doubt"] == sum(not one["sure"] for one in seen)
