"""What may be given to the public Python API: taken where its meaning is plain, else refused in one line."""

from __future__ import annotations

import math
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

import iptrec
from iptrec import child_recorder

SAMPLES = Path(__file__).parents[1] / "samples"
DOCKER, LOOPBACK = (SAMPLES / f"{name}.db" for name in ("docker_hairpin", "loopback"))
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001
HUGE = 10**5000  # repr() refuses it
NAN, INFINITE = math.nan, math.inf
SECONDS = "expected seconds, more than 0 and less than 10\\^9"


class Index:
    """A number of somebody else's."""

    def __init__(self, number):
        self.number = number

    def __index__(self):
        return self.number


class Unprintable:
    def __repr__(self):
        return "two\nlines\x1b[31m"


@pytest.fixture
def loopback():
    with iptrec.open(LOOPBACK) as recording:
        yield recording


def refused(expected):
    """One line of printable characters that says what was given and what was expected."""
    return pytest.raises(
        iptrec.UsageError, match=expected, check=lambda one: str(one).isprintable()
    )


@pytest.fixture
def ordered(monkeypatch):
    """What a recorder would be told to do; none is started."""
    orders = []

    def outcome(order, progress):  # noqa: ARG001
        orders.append(order)
        return {
            "events": 1, "lost": 0, "packets": 1, "reason": "", "exit_status": 0, "notes": [],
        }  # fmt: skip

    monkeypatch.setattr(child_recorder, "_outcome", outcome)
    return orders


@pytest.mark.parametrize(
    ("reason", "status"), [("command", 7), ("packets", None), ("duration", None), ("SIGTERM", None)]
)
def test_the_status_of_a_command_that_ended(monkeypatch, reason, status):
    """There is none where no command ran, or the recording ended before it."""
    outcome = {
        "events": 1, "lost": 0, "packets": 1, "reason": reason, "exit_status": status or 0, "notes": [],
    }  # fmt: skip
    monkeypatch.setattr(child_recorder, "_outcome", lambda *_: outcome)
    assert iptrec.record("t.db", command=["x"]).exit_status == status


NOT_RECORDED = {
    "output as number": ({"output": 5}, "output=5: expected the name of a file"),
    "no output": ({"output": ""}, "output='': expected the name of a file"),
    "output with NUL": ({"output": "a\0b"}, r"output='a\\x00b': holds a NUL byte"),
    "filter as number": ({"filter": 5}, "filter=5: expected a text"),
    "output compressed": ({"output": "t.db.gz"}, "output='t.db.gz': iptrec record compresses"),
    "filter half a character": ({"filter": "\ud800"}, "filter=.*: holds half a surrogate pair"),
    "filter as list": ({"filter": ["tcp"]}, r"filter=\['tcp'\]: expected a text"),
    "duration as text": ({"duration": "30s"}, f"duration='30s': {SECONDS}"),
    "no duration": ({"duration": 0}, f"duration=0: {SECONDS}"),
    "duration before": ({"duration": -1}, f"duration=-1: {SECONDS}"),
    "duration NaN": ({"duration": NAN}, f"duration=nan: {SECONDS}"),
    "duration infinite": ({"duration": INFINITE}, f"duration=inf: {SECONDS}"),
    "duration huge": ({"duration": HUGE}, f"duration=.*: {SECONDS}"),
    "duration as truth": ({"duration": True}, f"duration=True: {SECONDS}"),
    "packets as text": ({"packets": "5"}, "packets='5': expected a number from 1"),
    "half a packet": ({"packets": 1.5}, "packets=1.5: expected a number from 1"),
    "no packets": ({"packets": 0}, "packets=0: expected a number from 1$"),
    "packets as truth": ({"packets": True}, "packets=True: expected a number from 1"),
    "packets huge": ({"packets": HUGE}, "packets=.*: expected a number from 1, less than 2\\^63$"),
    "packets large": ({"packets": 2**63}, "packets=.*: expected a number from 1, less than 2\\^63$"),
    "netns as float": ({"netns": 1.0}, "netns=1.0: expected a name of ip netns, a path or a pid"),
    "netns as truth": ({"netns": True}, "netns=True: expected a name"),
    "netns before": ({"netns": -1}, "netns=-1: expected a name"),
    "netns with NUL": ({"netns": "a\0"}, "netns=.*: holds a NUL byte"),
    "backend as number": ({"backend": 5}, "backend=5: must be one of auto, legacy, nft, both"),
    "backend as list": ({"backend": ["nft"]}, r"backend=\['nft'\]: must be one of auto"),
    "command as text": ({"command": "ls -l"}, "command='ls -l': expected a list of words"),
    "command as bytes": ({"command": b"ls"}, "command=b'ls': expected a list of words"),
    "command as number": ({"command": 5}, "command=5: expected a list of words"),
    "word as number": ({"command": ["sleep", 1]}, r"command=\['sleep', 1\]: expected a list of"),
    "word with NUL": ({"command": ["a\0"]}, "command=.*: holds a NUL byte"),
    "command without order": ({"command": {"ls"}}, r"command=\{'ls'\}: expected a list of words"),
    "force as number": ({"force": 1}, "force=1: must be True or False"),
    "progress": ({"progress": "yes"}, "progress='yes': expected a function"),
    "not printable": ({"filter": Unprintable()}, r"filter=two lines\\x1b\[31m: expected a text"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_RECORDED)
def test_what_cannot_be_recorded(tmp_path, monkeypatch, case):
    """It is said before a recorder is started."""
    monkeypatch.setattr(child_recorder.subprocess, "Popen", None)
    given, expected = NOT_RECORDED[case]
    with refused(expected):
        iptrec.record(**{"output": tmp_path / "t.db"} | given)


RECORDED = {
    "a process": ({"netns": 123}, "netns", "/proc/123/ns/net"),
    "a process of numpy's": ({"netns": np.int32(123)}, "netns", "/proc/123/ns/net"),
    "a process as text": ({"netns": "123"}, "netns", "123"),
    "a namespace by path": ({"netns": Path("/run/netns/web")}, "netns", "/run/netns/web"),
    "words and paths": ({"command": [Path("/bin/ls"), "-l"]}, "command", ("/bin/ls", "-l")),
    "no command": ({"command": None}, "command", ()),
    "packets of numpy": ({"packets": np.int64(5)}, "packets", 5),
    "packets of somebody": ({"packets": Index(5)}, "packets", 5),
    "seconds of numpy": ({"duration": np.float32(0.5)}, "duration_s", 0.5),
    "whole seconds of numpy": ({"duration": np.int64(30)}, "duration_s", 30.0),
    "output as bytes": ({"output": b"t.db"}, "output", "t.db"),
}  # fmt: skip


@pytest.mark.parametrize("case", RECORDED)
def test_what_is_recorded(ordered, case):
    """A pid as a number is a process, whatever a namespace is called."""
    given, name, expected = RECORDED[case]
    iptrec.record(**{"output": "t.db"} | given)
    assert getattr(ordered[0], name) == expected
    assert type(getattr(ordered[0], name)) is type(expected)


def test_the_order_as_a_command_line(ordered):
    """It says exactly what was asked for."""
    iptrec.record("t.db", duration=1234567.25, packets=3, netns="web", force=True, filter="tcp")
    assert ordered[0].argv == (
        "iptrec", "record", "--output=t.db", "--backend=auto", "--duration=1234567.25s", "--packets=3",
        "--netns=web", "--force", "tcp",
    )  # fmt: skip


NOT_OPENED = {
    "number": (5, "path=5: expected the name of a file"),
    "nothing": (None, "path=None: expected the name of a file"),
    "no name": ("", "path='': expected the name of a file"),
    "NUL": ("a\0b", "path=.*: holds a NUL byte"),
}


@pytest.mark.parametrize("case", NOT_OPENED)
def test_what_cannot_be_opened(case):
    path, expected = NOT_OPENED[case]
    with refused(expected):
        iptrec.open(path)


def test_a_path_as_bytes():
    """As os.fsdecode has it."""
    with iptrec.open(bytes(LOOPBACK)) as recording:
        assert recording.path == LOOPBACK


SQL = "SELECT packet FROM packets"
NOT_ASKED = {
    "SQL as number": ({"sql": 5}, "sql=5: expected a text"),
    "SQL as bytes": ({"sql": b"SELECT 1"}, "sql=b'SELECT 1': expected a text"),
    "SQL with NUL": ({"sql": "SELECT 1\0"}, "sql=.*: holds a NUL byte"),
    "SQL that is no Unicode": ({"sql": "SELECT '\udc80'"}, "query .*surrogates not allowed"),
    "no time": ({"timeout_s": 0}, f"timeout_s=0: {SECONDS}"),
    "time before": ({"timeout_s": -1.5}, f"timeout_s=-1.5: {SECONDS}"),
    "time NaN": ({"timeout_s": NAN}, f"timeout_s=nan: {SECONDS}"),
    "time as truth": ({"timeout_s": True}, f"timeout_s=True: {SECONDS}"),
    "time as text": ({"timeout_s": "5s"}, f"timeout_s='5s': {SECONDS}"),
    "time huge": ({"timeout_s": HUGE}, f"timeout_s=.*: {SECONDS}"),
    "no memory": ({"heap_limit": 0}, "heap_limit=0: expected bytes, a number from 1048576"),
    "too little": ({"heap_limit": 256}, "heap_limit=256: expected bytes, a number from 1048576"),
    "memory before": ({"heap_limit": -1}, "heap_limit=-1: expected bytes"),
    "memory NaN": ({"heap_limit": NAN}, "heap_limit=nan: expected bytes"),
    "memory as truth": ({"heap_limit": True}, "heap_limit=True: expected bytes"),
    "memory as text": ({"heap_limit": "1M"}, "heap_limit='1M': expected bytes"),
    "memory huge": ({"heap_limit": 2**63}, "heap_limit=9223372036854775808: .*, less than 2\\^63$"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_ASKED)
def test_what_cannot_be_asked(loopback, case):
    """Nor is SQLite limited in the whole process by a slip."""
    given, expected = NOT_ASKED[case]
    with refused(expected):
        loopback.query(**{"sql": SQL} | given)
    assert len(list(loopback.query(SQL))) > 1


NOT_SELECTED = {
    "mark outside of its mask": (
        {"mark": (0x100, 0xFF)},
        r"mark=\(256, 255\): the value has bits that the mask leaves out, so nothing can match",
    ),
    "mark as truth": ({"mark": True}, "mark=True: expected 32 bits"),
    "mark NaN": ({"mark": NAN}, "mark=nan: expected 32 bits"),
    "mark with three parts": ({"mark": (1, 1, 1)}, "expected 32 bits"),
    "time without zone": ({"since": NAIVE}, "ns since 1970, or a datetime with a time zone"),
    "time as truth": ({"until": True}, "ns since 1970, or a datetime with a time zone"),
    "time as float": ({"until": 1e18}, "ns since 1970, or a datetime with a time zone"),
    "several names in an array of numbers": ({"iface": np.array([1, 2])}, "expected a text"),
    "huge": ({"verdict": HUGE}, "verdict=.*: expected a text"),
}


@pytest.mark.parametrize("case", NOT_SELECTED)
def test_what_cannot_be_selected(loopback, case):
    given, expected = NOT_SELECTED[case]
    with refused(expected):
        loopback.packets(**given)


def test_numbers_of_others(loopback):
    """What has __index__ is a number, wherever one is meant."""
    whole = [one.number for one in loopback.packets()]
    first, last = loopback.packet(1), loopback.packet(whole[-1])
    assert loopback.packet(np.int64(1)) == loopback.packet(Index(1)) == first
    assert loopback.why(np.uint8(1)).packet == first
    for since in (np.int64(last.time_ns), Index(last.time_ns)):
        assert list(loopback.packets(since=since)) == list(loopback.packets(since=last.time_ns))
    assert list(loopback.packets(until=np.int64(last.time_ns))) == list(
        loopback.packets(until=last.time_ns)
    )
    assert list(loopback.packets(mark=(np.uint32(0), np.uint32(1)))) == list(
        loopback.packets(mark=(0, 1))
    )
    assert list(loopback.packets(rule=("filter", "INPUT", np.int64(1)))) == list(
        loopback.packets(rule=("filter", "INPUT", 1))
    )
    assert list(loopback.packets(verdict=np.array(["DROP", "ACCEPT"]))) == list(
        loopback.packets(verdict=["DROP", "ACCEPT"])
    )


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, HUGE], ids=["large", "low", "huge"])
def test_numbers_beyond_all(loopback, number):
    """There is no such packet; all is before or after such a time."""
    for ask in (loopback.packet, loopback.why, lambda one: loopback.packets(path=one)):
        with refused(r"expected a number between -2\^63 and 2\^63$"):
            ask(number)
    everything = len(list(loopback.packets()))
    assert len(list(loopback.packets(since=number))) == (0 if number > 0 else everything)
    assert len(list(loopback.packets(until=number))) == (everything if number > 0 else 0)
    assert len(loopback.rulesets(number)) == len(loopback.rulesets())
    for greatest in (2**63 - 1, -(2**63) + 1):
        with pytest.raises(LookupError, match=f"no packet {greatest}$"):
            loopback.packet(greatest)


def test_times_as_datetimes():
    """Everywhere where times are, exact to the microsecond, in any zone; never without one."""
    with iptrec.open(DOCKER) as recording:
        moment = datetime.fromtimestamp(0, UTC) + timedelta(
            microseconds=recording.facts.started_ns // 1000 + 1
        )
        there = moment.astimezone(timezone(timedelta(hours=9)))
        assert recording.rulesets(moment) == recording.rulesets(there) != {}
        assert recording.rulesets(datetime(1969, 1, 1, tzinfo=UTC)) == recording.rulesets(0)
        for wrong in (NAIVE, "2026-01-01", 1.0, True):
            with refused("time_ns=.*: expected ns since 1970, or a datetime with a time zone"):
                recording.rulesets(wrong)


@pytest.mark.parametrize("wrong", ["x", 1.0, None, True])
def test_why_of_what(loopback, wrong):
    with refused("packet=.*: expected a number"):
        loopback.why(wrong)


def test_numpy_is_not_loaded_to_record():
    """It starts threads, and a caller of `record` need not have any."""
    code = "import iptrec, sys; iptrec.record; print('numpy' in sys.modules)"
    done = subprocess.run(
        [child_recorder.sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
