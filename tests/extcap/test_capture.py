"""Who waits beside a recorder: it ends with Wireshark, by whatever sign, and is told of in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from recorder import until

from iptrec.errors import HostError, UsageError
from iptrec.extcap import fifo, rights
from iptrec.kernel import privileges

# Its arguments: words of a shell for each way to record, after the status that says that it is refused.
DRIVER = """\
import os, sys
from iptrec.errors import HostError
from iptrec.extcap import capture, rights
ways = [rights.Way(["sh", "-c", one], frozenset({9})) for one in sys.argv[1:]]
rights.ways = lambda _: ways
def say(said):
    sys.stderr.buffer.write(said)
try:
    sys.exit(capture.capture([], 1, say, None))
except HostError as error:
    sys.exit(f"error: {error}")
"""
WAITS = "echo began; cat; echo over"


def started(*ways):
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *ways], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def ended(child):
    """Status, stdout, stderr."""
    printed, said = child.communicate(timeout=30)
    return child.returncode, printed, said


def test_a_recorder_that_ends():
    """Without a word; what it writes is Wireshark's."""
    assert ended(started("echo packets")) == (0, "packets\n", "")


def test_an_error_is_told():
    """What it said, and that it failed; it is the only thing on stderr."""
    assert ended(started("echo iptrec: no namespace >&2; exit 2")) == (
        2,
        "",
        "iptrec: no namespace\n",
    )


def test_the_next_way_is_tried():
    """What a way says that was refused is nobody's business."""
    assert ended(started("echo a password is required >&2; exit 9", "echo packets")) == (
        0,
        "packets\n",
        "",
    )


def test_no_way_is_tried_after_the_end():
    """A dialog that comes up when nobody captures any more would be odd."""
    child = started("echo began; cat; exit 9", "echo dialog")
    assert child.stdout.readline() == "began\n"
    child.terminate()
    assert ended(child) == (0, "", "")


@pytest.mark.parametrize("ways", [["exit 9", "exit 9"], []])
def test_no_way_is_left(ways):
    status, printed, said = ended(started(*ways))
    assert (status, printed) == (1, "")
    assert said == f"error: {rights.none()}\n"
    assert said.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_closes_its_stdin(number):
    """It may be root's: nobody sends it one. It has time to write what is left."""
    child = started(WAITS)
    assert child.stdout.readline() == "began\n"
    child.send_signal(number)
    assert ended(child) == (0, "over\n", "")


def test_nobody_reads_any_more():
    """No packet comes, and nothing is written."""
    child = started("echo began; cat; echo it ended >&2; exit 2")
    assert child.stdout.readline() == "began\n"
    child.stdout.close()
    with child.stderr as said:
        assert said.read() == "it ended\n"
    assert child.wait(timeout=30) == 2


def test_whoever_started_it_is_killed(tmp_path):
    """As tshark is: its child ends, and the recorder."""
    mark = tmp_path / "mark"
    words = [sys.executable, "-c", DRIVER, f"echo began; cat; touch {mark}"]
    between = f"import subprocess; subprocess.run({words!r})"
    child = subprocess.Popen([sys.executable, "-c", between], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "began\n"
    child.kill()
    child.wait()
    until(mark.exists)  # stdout stays open: it is not by that
    child.stdout.close()


def test_it_is_killed_itself(tmp_path):
    """Then the recorder's stdin is closed as well."""
    mark = tmp_path / "mark"
    child = started(f"echo began; cat; touch {mark}")
    assert child.stdout.readline() == "began\n"
    child.kill()
    until(mark.exists)
    child.communicate()


def test_the_recorder_is_killed():
    status, _, said = ended(started("kill -9 $$"))
    assert (status, said) == (1, "error: the recorder was ended by SIGKILL\n")


def test_stopped_before_it_began():
    """The recorder was about to load: that is no error."""
    child = started("trap 'exit 143' TERM; echo began; cat; kill $$")
    assert child.stdout.readline() == "began\n"
    child.terminate()
    assert ended(child) == (0, "", "")


def test_much_is_said():
    """The end of it is kept."""
    status, _, said = ended(started("yes nonsense | head -c 1000000 >&2; echo last >&2; exit 2"))
    assert status == 2
    assert said.endswith("last\n")
    assert len(said) <= 1 << 14


class TestFifo:
    """The pipe that Wireshark made."""

    def test_nobody_opens_it(self, tmp_path):
        os.mkfifo(tmp_path / "f")
        begun = time.monotonic()
        with pytest.raises(HostError, match=r"nobody has opened .*/f to read for 0.2 s"):
            fifo.opened(tmp_path / "f", 0.2)
        assert time.monotonic() - begun >= 0.2

    def test_somebody_reads(self, tmp_path):
        """Then writing waits for room, as a recorder expects."""
        os.mkfifo(tmp_path / "f")
        with subprocess.Popen(["cat", tmp_path / "f"], stdout=subprocess.PIPE) as reader:
            descriptor = fifo.opened(tmp_path / "f")
            assert os.get_blocking(descriptor)
            os.write(descriptor, b"packets")
            os.close(descriptor)
            assert reader.stdout.read() == b"packets"

    @pytest.mark.parametrize("kind", ["file", "directory", "device", "link"])
    def test_something_else(self, tmp_path, kind):
        """It is left as it is."""
        path = tmp_path / "f"
        if kind == "directory":
            path.mkdir()
        elif kind == "file":
            path.write_text("theirs")
        else:
            path.symlink_to("/dev/null" if kind == "device" else tmp_path / "nothing")
        words = "No such file" if kind == "link" else "is not a fifo"
        with pytest.raises(UsageError, match=words):
            fifo.opened(path, 0.1)
        assert kind != "file" or path.read_text() == "theirs"


class TestRights:
    """Which ways there are."""

    def test_with_rights_of_its_own(self, monkeypatch):
        monkeypatch.setattr(privileges, "has_net_admin", lambda: True)
        (way,) = rights.ways(["extcap", "capture"])
        assert way.command[0] == sys.executable
        assert way.command[-2:] == ["extcap", "capture"]
        assert not way.refused

    def test_without(self, monkeypatch):
        """By sudo, which asks nothing, then by pkexec, which asks in a dialog; both name the same command."""
        monkeypatch.setattr(privileges, "has_net_admin", lambda: False)
        monkeypatch.setattr(rights.shutil, "which", lambda name, **_: f"/usr/bin/{name}")
        sudo, pkexec = rights.ways(["extcap", "capture", "--netns=a"])
        wanted = ["/usr/bin/iptrec", "extcap", "capture", "--netns=a"]
        assert sudo.command == ["/usr/bin/sudo", "-n", "--", *wanted]
        assert pkexec.command == ["/usr/bin/pkexec", "--disable-internal-agent", *wanted]
        assert not sudo.refused & {0, 2}  # what iptrec ends with
        assert not pkexec.refused & {0, 2}

    def test_without_all_of_them(self, monkeypatch):
        monkeypatch.setattr(privileges, "has_net_admin", lambda: False)
        monkeypatch.setattr(rights.shutil, "which", lambda *_, **__: None)
        assert rights.ways(["extcap"]) == []

    def test_files_are_of_the_caller(self, monkeypatch):
        """SUDO_GID of a sudo before is of somebody else."""
        monkeypatch.setenv("SUDO_UID", "0")
        monkeypatch.setenv("SUDO_GID", "0")
        monkeypatch.setenv("PKEXEC_UID", "1234")
        rights.take_caller()
        assert os.environ["SUDO_UID"] == "1234"
        assert "SUDO_GID" not in os.environ
