"""Texts that somebody made to do harm, and files that are something else than their names say."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from command import iptrec, program

from iptrec.pasted.lines import LONGEST

PACKET = (
    "SRC=10.0.0.1 DST=10.0.0.2 LEN=29 TOS=0x00 PREC=0x00 TTL=64 ID=1 PROTO=UDP SPT=1 DPT=2 LEN=9 "
)
LINE = f"TRACE: filter:INPUT:rule:1 IN=eth0 OUT= MAC= {PACKET}"
_MOST_BYTES = 160 << 20
SAMPLE = Path(__file__).parents[2] / "samples" / "docker_hairpin.db"


def imported(tmp_path, text):
    """Import bytes; the result, and the packets that show prints."""
    (tmp_path / "log").write_bytes(text)
    done = iptrec("import", tmp_path / "log", "-o", tmp_path / "t.db", "--force")
    shown = iptrec("show", "--json", tmp_path / "t.db").stdout
    return done, [json.loads(one) for one in shown.splitlines()]


HOSTILE = {  # a text -> how many packets it has, what is said of it
    "escape in a name": (LINE.replace("eth0", "\x1b[31m"), 1, ""),
    "not UTF-8": (LINE.encode().replace(b"eth0", b"\xff\xfe"), 1, ""),
    "a name that is none": (LINE.replace("eth0", "x" * 60), 1, ""),
    "NUL": (LINE.replace("eth0", "et\0h0"), 1, ""),
    "long line before": ("x" * (3 * LONGEST) + "\n" + LINE, 1, ""),
    "long line": (LINE + "x" * (3 * LONGEST) + "\n" + LINE.replace("ID=1", "ID=2"), 2, ""),
    "long chain": (LINE.replace("INPUT", "C" * 500) + "\n" + LINE, 1, ""),
    "chain with a colon": (LINE.replace("INPUT", "a:rule:7"), 1, ""),
    "rule 2^64": (LINE.replace("rule:1", f"rule:{1 << 64}") + "\n" + LINE, 1, ""),
    "port beyond": (LINE.replace("SPT=1 ", f"SPT={1 << 16} ") + "\n" + LINE, 1, "1 line of TRACE could"),
    "digits": (LINE.replace("SPT=1 ", "SPT=" + "9" * 9000) + "\n" + LINE, 1, "1 line of TRACE could"),
    "other digits": (LINE.replace("SPT=1 ", "SPT=\u0663 ") + "\n" + LINE, 1, "1 line of TRACE could"),
    "two families": (LINE.replace("DST=10.0.0.2", "DST=::1") + "\n" + LINE, 1, "1 line of TRACE could"),
    "brackets": (LINE + "[" * 5000 + "[SRC=1.2.3.4 " * 1000, 1, ""),
    "quote in a quote": (LINE.replace("PROTO=UDP", "PROTO=ICMP TYPE=3 CODE=1 " + "[SRC=1.2.3.4 " * 100), 1, ""),
    "two in a line": (LINE + LINE.replace("ID=1", "ID=2"), 2, ""),
    "cut by another": (LINE[:90] + LINE, 1, "1 line of TRACE could"),
    "JSON": ('{"MESSAGE": ' + "[" * 100_000 + "\n" + LINE, 1, ""),
    "blanks behind": (LINE + "\n" + " " * 5000 + "x\n" + "A " * 500 + "x\n" + "A" * 60_000 + "x", 1, ""),
    "time": ("[99999999999999.0] " + LINE, 1, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts(tmp_path, name):
    """What can be read is read; nothing else happens."""
    text, count, said = HOSTILE[name]
    done, packets = imported(tmp_path, text if isinstance(text, bytes) else text.encode())
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert len(packets) == count
    text = iptrec("show", tmp_path / "t.db").stdout + iptrec("info", tmp_path / "t.db").stdout
    assert "\x1b" not in text


OTHERS = {
    "compressed": (gzip.compress(LINE.encode()), "is compressed; give it to zcat"),
    "a recording": (b"SQLite format 3\0" + bytes(100), "is a SQLite database; iptrec show"),
    "a journal": (b"LPKSHHRH" + bytes(100), "journalctl --file"),
    "empty": (b"", "is empty"),
    "no event": (
        b"Nov 30 10:00:00 host kernel: eth0: link up\n",
        "holds no TRACE line of the kernel",
    ),
    "LOG": (
        LINE.replace("TRACE: filter:INPUT:rule:1 ", "dropped: ").encode(),
        "holds no TRACE line",
    ),
    "cut": (LINE[:60].encode(), "holds no packet"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files(tmp_path, name):
    """One line says what it is and what to do; there is no recording."""
    data, said = OTHERS[name]
    (tmp_path / "kern.log").write_bytes(data)
    done = iptrec("import", tmp_path / "kern.log", "-o", tmp_path / "t.db")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr
    assert not (tmp_path / "t.db").exists()


@pytest.fixture
def capture(tmp_path):
    """What tcpdump would have captured."""
    done = iptrec("export", "pcapng", "--events", SAMPLE, "-o", tmp_path / "kern.log")
    assert done.returncode == 0
    return tmp_path / "kern.log"


def test_a_capture_with_the_name_of_a_log(tmp_path, capture):
    """Its first bytes tell what it is."""
    done = iptrec("import", capture, "-o", tmp_path / "t.db")
    assert done.returncode == 0, done.stderr
    assert "rebuilt" not in iptrec("show", tmp_path / "t.db").stderr


@pytest.mark.parametrize("kind", ["text", "capture"])
def test_a_pipe(tmp_path, capture, kind):
    """What was looked at is not lost to who reads it."""
    data = capture.read_bytes() if kind == "capture" else LINE.encode()
    done = warm.run(
        [sys.executable, "-m", "iptrec", "import", "-", "-o", str(tmp_path / "t.db")],
        input=data, capture_output=True, check=True,
    )  # fmt: skip
    assert b"imported " in done.stderr
    assert b"breaks off" not in done.stderr


def test_memory_is_bounded(tmp_path):
    """A text of any size is read line by line."""
    with (tmp_path / "log").open("w") as file:
        for number in range(60_000):
            file.write(f"[{number}.0] {LINE.replace('ID=1', f'ID={number % 65536}')}\n")
            file.write(LINE[:90] + "\n")
        file.write("y" * (64 << 20))
    log = str(tmp_path / "log")
    code = (
        "from iptrec.cli import app;"
        f"app(['import', {log!r}, '-o', {log + '.db'!r}, '-q'], standalone_mode=False);"
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) << 10 < _MOST_BYTES


def test_the_text_is_not_replaced(tmp_path):
    """Evidence stays."""
    (tmp_path / "log").write_text(LINE)
    done = program("import", tmp_path / "log", "-o", tmp_path / "log", "--force")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert (tmp_path / "log").read_text() == LINE
