"""A terminal: what is longer than the screen goes through a pager, and many packets get a line each."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from pathlib import Path

import pytest
import warm
from command import IPTREC
from test_show_command import many

from iptrec.cli import pager

LOOPBACK = str(Path(__file__).parents[2] / "samples" / "loopback.db")
HAIRPIN = str(Path(__file__).parents[2] / "samples" / "docker_hairpin.db")
SAYS_SO = "more than 40 packets get a line each; --no-brief prints every step"


OURS = ("PAGER", "LESS", "SUDO_UID", "LINES", "COLUMNS")  # variables


class Terminal:
    """A process on a terminal of its own size; ``together``: its stderr is there, too."""

    def __init__(self, *words, rows=24, columns=80, together=False, **environment):
        self._reading, writing = pty.openpty()
        fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        kept = {name: one for name, one in os.environ.items() if name not in OURS}
        self.process = warm.popen(
            [*IPTREC, *map(str, words)],
            stdin=subprocess.DEVNULL, stdout=writing, text=True,
            stderr=writing if together else subprocess.PIPE,
            env=kept | {"TERM": "xterm"} | environment,
        )  # fmt: skip
        os.close(writing)

    def end(self):
        """What it wrote on the terminal and on stderr, and its status."""
        shown = b""
        while True:
            try:
                part = os.read(self._reading, 65536)
            except OSError:  # EIO: nobody writes any more
                break
            if not part:
                break
            shown += part
        os.close(self._reading)
        with self.process as process:
            said = process.stderr.read() if process.stderr else ""
        return shown.decode().replace("\r\n", "\n"), said, self.process.returncode


def test_what_is_long_goes_through_the_pager():
    """$PAGER with its arguments, all of the output, LESS and LV as git sets them."""
    program = "sh -c 'echo LESS=$LESS LV=$LV; sed s/^/:/' "
    shown, said, status = Terminal("show", LOOPBACK, "--color", "never", PAGER=program).end()
    first, *rest = shown.splitlines()
    plain = warm.run([*IPTREC, "show", LOOPBACK], capture_output=True, text=True, check=True)
    assert first == "LESS=FRX LV=-c"
    assert [line.removeprefix(":") for line in rest] == plain.stdout.splitlines()
    assert (said, status) == ("", 0)


NONE = {
    "shorter than the screen": (["show", LOOPBACK], {"rows": 999}),
    "--no-pager": (["show", LOOPBACK, "--no-pager"], {}),
    "cat": (["show", LOOPBACK], {"PAGER": "cat"}),
    "empty": (["show", LOOPBACK], {"PAGER": ""}),
    "not there": (["show", LOOPBACK], {"PAGER": "/nope/more"}),
    "an open quote": (["show", LOOPBACK], {"PAGER": "less '"}),
    "--follow": (["show", LOOPBACK, "--follow"], {}),
}


@pytest.mark.parametrize("case", NONE)
def test_no_pager(case, tmp_path):
    """The same on the terminal, at once."""
    words, options = NONE[case]
    mark = tmp_path / "paged"
    shown, said, status = Terminal(*words, **({"PAGER": f"tee {mark}"} | options)).end()
    assert not mark.exists()
    assert "\x1b[31mDROP\x1b[0m" in shown
    assert (shown.count("\n#"), said, status) == (16, "", 0)


def test_wrapped_lines_count(tmp_path):
    """A screen of 20 columns is full sooner."""
    mark = tmp_path / "paged"
    Terminal("show", HAIRPIN, rows=30, columns=200, PAGER=f"tee {mark}").end()
    assert not mark.exists()
    Terminal("show", HAIRPIN, rows=30, columns=20, PAGER=f"tee {mark}").end()
    assert mark.exists()


@pytest.mark.parametrize("program", ["true", "head -n1"])
def test_a_pager_that_is_quit(program, tmp_path):
    """Quitting ends it: status 0, no word but how to see more, however much was to come."""
    path = many(tmp_path / "t.db", 2000)
    shown, said, status = Terminal("show", path, "--no-brief", PAGER=program).end()
    assert (said, status) == ("", 0)
    assert shown.count("\n") <= 1
    _, said, status = Terminal("show", path, PAGER=program).end()
    assert (said, status) == (f"iptrec show: {SAYS_SO}\n", 0)


def test_ctrl_c_is_the_pagers(tmp_path):
    """While it shows what it has, it stays."""
    fifo, ready = tmp_path / "fifo", tmp_path / "ready"
    os.mkfifo(fifo)
    os.mkfifo(ready)
    program = f"sh -c 'trap : INT; cat >/dev/null; echo >{ready}; read word <{fifo}; echo $word'"
    terminal = Terminal("show", LOOPBACK, PAGER=program)
    ready.read_text()
    terminal.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        terminal.process.wait(0.3)
    fifo.write_text("quit\n")
    assert terminal.end() == ("quit\n", "", 0)


def test_remarks_come_behind_the_pager(tmp_path):
    """What is said on stderr is said when the screen is the shell's again."""
    path = many(tmp_path / "t.db", 50)
    program = "sh -c 'cat >/dev/null; echo end'"
    shown, _, status = Terminal("show", path, rows=10, together=True, PAGER=program).end()
    assert (shown, status) == (f"end\niptrec show: {SAYS_SO}\n", 0)


def test_many_packets_get_a_line_each(tmp_path):
    """On a terminal, and it is said; not where something else was asked for."""
    few, more = many(tmp_path / "few.db", 40), many(tmp_path / "more.db", 41)
    for words, brief, told in (
        (["show", few], False, False),
        (["show", more], True, True),
        (["show", more, "--quiet"], True, False),
        (["show", more, "--limit", "40"], False, False),
        (["show", more, "--no-brief"], False, False),
        (["show", more, "--classic"], False, False),
        (["show", more, "--verbose"], False, False),
        (["show", more, "--brief"], True, False),
        (["show", few, "--brief"], True, False),
        (["show", more, "--follow"], False, False),
    ):
        shown, said, status = Terminal(*words, "--no-pager").end()
        assert ("MATCH RULE" not in shown, status) == (brief, 0), words
        assert said == (f"iptrec show: {SAYS_SO}\n" if told else ""), words


def test_json_stays_json(tmp_path):
    """Whatever the number."""
    path = many(tmp_path / "t.db", 41)
    shown, said, _ = Terminal("show", path, "--json", "--no-pager").end()
    assert (shown.count('{"format":1,'), said) == (41, "")


@pytest.mark.parametrize(
    ("uid", "sudo", "expected"),
    [(0, "1000", ["less"]), (0, None, ["most", "-x"]), (1000, "1000", ["most", "-x"])],
)
def test_behind_sudo(monkeypatch, uid, sudo, expected):
    """Who may run iptrec as root may not therefore run what PAGER says, nor a shell out of less."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setenv("PAGER", "most -x")
    monkeypatch.delenv("LESSSECURE", raising=False)
    monkeypatch.delenv("SUDO_UID", raising=False)
    if sudo:
        monkeypatch.setenv("SUDO_UID", sudo)
    assert pager._command() == expected
    assert ("LESSSECURE" in pager._environment()) == (expected == ["less"])


def test_what_is_set_stays(monkeypatch):
    """LESS of the user's own."""
    monkeypatch.setenv("LESS", "S")
    assert pager._environment()["LESS"] == "S"


def test_diff_goes_through_the_pager(tmp_path):
    """What is long; what is remarked of the recordings comes when the pager is quit. JSON does not."""
    rules = str(Path(HAIRPIN).with_name("kubeadm-flannel.rules"))
    pager = f"sh -c 'cat > {tmp_path}/paged'"
    shown, said, status = Terminal("diff", rules, HAIRPIN, PAGER=pager).end()
    assert (shown, said, status) == ("", "", 1)
    paged = (tmp_path / "paged").read_text()
    assert "5 chains created" in paged.splitlines()[-1]
    shown, _, _ = Terminal("diff", rules, HAIRPIN, "--no-pager", PAGER=pager).end()
    assert shown == paged
    shown, _, status = Terminal("diff", "--json", rules, HAIRPIN, PAGER=pager).end()
    assert (shown[:1], status) == ("{", 1)
