"""Whatever reads takes - for stdin, and reads pipes. A recording is never written to stdout."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from command import IPTREC, iptrec

from iptrec.errors import RecordingError
from iptrec.recording import spooled
from iptrec.recording.reader import Reader

SAMPLE = Path(__file__).parents[2] / "samples" / "docker_hairpin.db"
COMMANDS = (
    "show {}", "why {}", "paths {}", "rules {}", "info {}", "diff {}", "diff --packets 1 1 {}",
    "diff {}@start {}@end", "export ndjson {} -o -", "export sqlite {} -o -",
)  # fmt: skip


def piped(words, content, **options):
    """A command that has this on its stdin."""
    return warm.run([*IPTREC, *words], input=content, capture_output=True, check=False, **options)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where temporary files go; none may stay."""
    place = tmp_path / "temporary"
    place.mkdir(mode=0o700)
    monkeypatch.setenv("TMPDIR", str(place))
    yield place
    assert list(place.iterdir()) == []


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize("command", [one for one in COMMANDS if one.count("{}") == 1])
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_stdin_is_as_good_as_a_file(command, packed):
    """Compressed or not; the answers are the same, to the byte."""
    words = command.format("-").split()
    done = piped(words, packed(SAMPLE.read_bytes()))
    expected = warm.run(
        [*IPTREC, *command.format(SAMPLE).split()], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (expected.returncode, expected.stderr)
    if "sqlite" not in command:
        assert done.stdout == expected.stdout
    assert done.stdout


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize("command", ["show {0}", "diff {0}@start {1}@end", "diff --traces {0} {1}"])
def test_process_substitution(command):
    """`<(...)` of a shell: pipes with names in /dev/fd."""
    pipes = [f"<(cat {SAMPLE})"] * 2
    line = f'exec "$@" {command.format(*pipes)}'
    words = ["bash", "-c", line, "bash", *IPTREC]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout or "diff" in command


@pytest.mark.usefixtures("temporary")
def test_rulesets_by_pipes(tmp_path):
    """What iptables-save prints may come by a pipe on either side."""
    rules = tmp_path / "a.rules"
    rules.write_text("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j DROP\nCOMMIT\n")
    line = f'exec "$@" diff <(cat {rules}) {rules}'
    done = subprocess.run(
        ["bash", "-c", line, "bash", *IPTREC], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "no difference\n", "")


def test_expectations_on_stdin():
    """`check` reads both of its files from there, one at a time."""
    expected = b'[[expect]]\nname = "one"\nverdict = "DROP"\ncount = 1\n'
    done = piped(["check", str(SAMPLE), "-"], expected)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("temporary")
def test_what_is_not_a_recording():
    """It is noticed at its beginning: what writes for ever fills no disk."""
    yes = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
    done = warm.run(
        [*IPTREC, "show", "-"], stdin=yes.stdout, capture_output=True, text=True, check=False
    )
    yes.stdout.close()
    yes.wait()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "iptrec: /dev/stdin is not an iptrec recording\n"
    assert piped(["show", "-"], b"").returncode == 2


@pytest.mark.usefixtures("temporary")
def test_more_than_there_is_room_for(monkeypatch, tmp_path):
    """The spool is bounded."""
    monkeypatch.setattr(spooled, "_LARGEST", 10_000)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    script = f"import sys; open(sys.argv[1], 'wb').write(open({str(SAMPLE)!r}, 'rb').read())"
    writing = subprocess.Popen([sys.executable, "-c", script, pipe], stderr=subprocess.DEVNULL)
    held = os.open(pipe, os.O_RDWR)  # a pipe that nobody writes to yet is empty
    try:
        with pytest.raises(RecordingError, match=r"more than 10,000 bytes come by .*: set TMPDIR"):
            Reader(pipe)
    finally:
        os.close(held)
        writing.wait()


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize("command", ["show -", "diff --packets 1 1 -"])
def test_killed_while_it_reads_a_pipe(command):
    """Nothing stays: what is kept has no name."""
    with subprocess.Popen([*IPTREC, *command.split()], stdin=subprocess.PIPE) as child:
        child.stdin.write(SAMPLE.read_bytes() + bytes(1 << 20))  # more than the pipe holds
        child.stdin.flush()
        child.kill()  # it would read on


@pytest.mark.parametrize(
    "words", ["record -o -", "record -w -", "trace -o -", "import x.pcap -o -"]
)
def test_no_recording_goes_to_stdout(words, tmp_path, monkeypatch):
    """Nor into a file that is called "-"."""
    monkeypatch.chdir(tmp_path)
    done = iptrec(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("iptrec: --output -: a recording is a file")
    assert list(tmp_path.iterdir()) == []
