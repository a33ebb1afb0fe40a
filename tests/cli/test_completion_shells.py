"""TAB in real shells."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from handmade import RAW, HandMade, written

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "iptrec/completion"
BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")
# Each prints the line that is typed when Ctrl-G comes, in << >>.
SETUP = {
    "bash": f". {SCRIPTS}/iptrec.bash\nbind -x '\"\\C-g\": printf \"<<%s>>\" \"$READLINE_LINE\"'\nPS1= PS2=\n",
    "zsh": (
        f"autoload -U compinit; compinit -u -D; . {SCRIPTS}/iptrec.zsh\n"
        "g() { print -rn -- \"<<$BUFFER>>\" }; zle -N g; bindkey '^G' g; PS1= PS2=\n"
    ),
}  # fmt: skip
ARGV = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
PATIENCE_S = 20
QUIET_S = 0.1
NAME = "$(touch obeyed) 'x'"


class Shell:
    """An interactive one, in a terminal of its own."""

    def __init__(self, kind, setup, directory):
        argv = ARGV[kind]
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            os.environ.update(TERM="dumb", HOME=str(directory), LC_ALL="C.UTF-8")
            os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
            os.execvp(argv[0], argv)  # noqa: S606 - no shell around the shell
        self._type(setup + "echo re''ady\n")
        self._until(b"ready\r")
        self.keys = os.open(f"/proc/{self.pid}/fd/0", os.O_RDONLY | os.O_NOCTTY)
        self._silence()

    def completed(self, line):
        """The line after a TAB, and all that was printed meanwhile."""
        self._type(f"{line}\t")
        shown = self._silence()
        self._type("\x07")
        shown += self._until(b">>")
        self._type("\x15")  # Ctrl-U; Ctrl-C might take what is typed next along
        self._silence()
        text = shown.decode(errors="replace")
        return text.rpartition("<<")[2].partition(">>")[0], text

    def _type(self, text):
        os.write(self.terminal, text.encode())

    def _until(self, end):
        found, late = b"", time.monotonic() + PATIENCE_S
        while end not in found:
            assert time.monotonic() < late, found
            found += self._read()
        return found

    def _silence(self):
        """All that it prints until it has nothing to do any more."""
        found, late = b"", time.monotonic() + PATIENCE_S
        more = self._read()
        while more or self._busy():
            assert time.monotonic() < late, found
            found += more
            more = self._read()
        return found

    def _busy(self):
        """Whether there are keys that it has not read, or it works, or something that it started does."""
        unread = struct.unpack("i", fcntl.ioctl(self.keys, termios.FIONREAD, bytes(4)))[0]
        own = Path(f"/proc/{self.pid}")
        is_asleep = (own / "stat").read_text().rpartition(")")[2].split()[0] == "S"
        return unread or not is_asleep or (own / f"task/{self.pid}/children").read_text()

    def _read(self):
        there = select.select([self.terminal], [], [], QUIET_S)[0]
        return os.read(self.terminal, 65536) if there else b""

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.keys)
        os.close(self.terminal)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with recordings, one of which is hostile."""
    directory = tmp_path_factory.mktemp("shells")
    shutil.copy(ROOT / "samples/docker_hairpin.db", directory / "hairpin one.db")
    shutil.copy(ROOT / "samples/nftables.db", directory / "nftables.db")
    (directory / "notes.txt").touch()
    (directory / "$(touch obeyed).db").touch()
    objects = [
        {"table": {"family": "inet", "name": "fw", "handle": 1}},
        {"chain": {"family": "inet", "table": "fw", "name": NAME, "handle": 2}},
        {"chain": {"family": "inet", "table": "fw", "name": "\x1b]0;x\x07evil", "handle": 3}},
    ]
    made = HandMade().ruleset(RAW)
    made.snapshot("nft", json.dumps({"nftables": objects}).encode())
    written(directory / "strange.db", made)
    return directory


@pytest.fixture(scope="module", params=SETUP)
def shell(request, place):
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param}: not installed")
    opened = Shell(request.param, SETUP[request.param], place)
    opened.kind = request.param
    yield opened
    opened.close()


LINES = {
    "iptrec sh": "iptrec show ",
    "iptrec export pc": "iptrec export pcapng ",
    "iptrec show --orph": "iptrec show --orphans ",
    "iptrec show nf": "iptrec show nftables.db ",
    "iptrec show hair": "iptrec show hairpin\\ one.db ",
    "iptrec show nftables.db --chain bef": "iptrec show nftables.db --chain before ",
    "iptrec show nftables.db --chain 'inet fw/bef": "iptrec show nftables.db --chain 'inet fw/before' ",
    "iptrec show nftables.db --chain=inet\\ fw/bef": "iptrec show nftables.db --chain=inet\\ fw/before ",
    "iptrec show hairpin\\ one.db --rule filter/FORW": "iptrec show hairpin\\ one.db --rule filter/FORWARD/",
    "iptrec show 'hairpin one.db' --verdict DROP,REJ": "iptrec show 'hairpin one.db' --verdict DROP,REJECT ",
    "iptrec show '$(tou": "iptrec show '$(touch obeyed).db' ",
    "iptrec show \\$\\(tou": "iptrec show \\$\\(touch\\ obeyed\\).db ",
    "iptrec rules nftables.db --table in": "iptrec rules nftables.db --table inet\\ fw ",
    "iptrec record -i lo,an": "iptrec record -i lo,any ",
    "iptrec record --output=note": "iptrec record --output=notes.txt ",
    "iptrec record tcp port 80 -- cat note": "iptrec record tcp port 80 -- cat notes.txt ",
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_a_tab(shell, place, line):
    assert shell.completed(line)[0] == LINES[line]
    assert not (place / "obeyed").exists()


def test_a_hostile_name_is_inert(shell, place):
    """It is quoted, nothing of it is obeyed, and no escape sequence gets to the terminal."""
    line, shown = shell.completed("iptrec show strange.db --chain inet")
    assert "evil" not in shown
    prefix = "iptrec show strange.db --chain "
    assert line.startswith(prefix)
    printed = subprocess.run(
        [shell.kind, "-c", f"printf %s {line.removeprefix(prefix)}"],
        capture_output=True, text=True, check=True, cwd=place,
    )  # fmt: skip
    assert (printed.stdout, printed.stderr) == (f"inet fw/{NAME}", "")
    assert not (place / "obeyed").exists()


def test_nothing_is_said(shell):
    """What is wrong with the line, or the file, is not told in the middle of typing."""
    for line in (
        "iptrec show missing.db --chain x",
        "iptrec nonsense x",
        "iptrec show notes.txt --rule x",
    ):
        assert shell.completed(line)[0] == line


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish: not installed")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("iptrec sh", ["show\tShow packets step by step through tables, chains and rules"]),
        ("iptrec show nf", ["nftables.db"]),
        ("iptrec show nftables.db --chain bef", ["before\tof any table"]),
        ("iptrec show nftables.db --chain=inet\\ fw/bef", ["--chain=inet fw/before\t1 rule"]),
        ("iptrec show strange.db --chain inet", [f"inet fw/{NAME}\t0 rules"]),
        ("iptrec record --output=note", ["--output=notes.txt"]),
        ("iptrec record -- cat note", ["notes.txt"]),
        ("iptrec show missing.db --chain x", []),
    ],
)
def test_fish(place, line, found):
    """It quotes by itself what it puts into the line."""
    script = f"source {SCRIPTS}/iptrec.fish; complete -C {json.dumps(line)}"
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(place), "LC_ALL": "C.UTF-8",
    }  # fmt: skip
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        capture_output=True, text=True, check=False, cwd=place, env=environment,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines() == found
    assert not (place / "obeyed").exists()


def test_zsh_finds_it_by_itself(place, tmp_path):
    """As a package installs it: a file _iptrec in $fpath."""
    if shutil.which("zsh") is None:
        pytest.skip("zsh: not installed")
    shutil.copy(SCRIPTS / "iptrec.zsh", tmp_path / "_iptrec")
    setup = SETUP["zsh"].replace(f". {SCRIPTS}/iptrec.zsh", ":")
    opened = Shell("zsh", f"fpath=({tmp_path} $fpath); {setup}", place)
    try:
        assert opened.completed("iptrec sh")[0] == "iptrec show "
        assert opened.completed("iptrec show nf")[0] == "iptrec show nftables.db "
    finally:
        opened.close()


@pytest.mark.skipif(not BASH_COMPLETION.exists(), reason="bash-completion: not installed")
def test_bash_completion_finds_it_by_itself(place, tmp_path):
    """As a package installs it; what is behind "--", sudo and the like is its part."""
    found = tmp_path / "bash-completion/completions/iptrec"
    found.parent.mkdir(parents=True)
    shutil.copy(SCRIPTS / "iptrec.bash", found)
    setup = SETUP["bash"].replace(f". {SCRIPTS}/iptrec.bash", f". {BASH_COMPLETION}")
    opened = Shell("bash", f"export XDG_DATA_DIRS={tmp_path}\n{setup}", place)
    try:
        for line in ("iptrec show nf", "env iptrec show nf"):
            assert opened.completed(line)[0] == f"{line}tables.db "
        line = "iptrec record tcp port 80 -- cat note"
        assert opened.completed(line)[0] == LINES[line]
    finally:
        opened.close()
