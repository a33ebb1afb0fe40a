"""An error names what to give in its reader's words: options for who typed a command, arguments for Python."""

from __future__ import annotations

import ast
import errno
import os
import pickle
from pathlib import Path

import pytest
from command import iptrec as command
from handmade import HandMade

import iptrec
from iptrec import child_recorder, errors
from iptrec.kernel.child import Forked
from iptrec.recording.writer import Writer

PACKAGE = Path(iptrec.__file__).parent
LOOPBACK = str(Path(__file__).parents[1] / "samples" / "loopback.db")


def test_a_package_that_is_missing(monkeypatch):
    """By pip nothing comes into a program that has its own Python (packaging/pyinstaller)."""
    assert str(errors.missing("export parquet", "pyarrow", "parquet")) == (
        "export parquet needs pyarrow: pip install 'iptrec[parquet]'"
    )
    monkeypatch.setattr("sys.frozen", True, raising=False)
    assert str(errors.missing("export parquet", "pyarrow", "parquet")) == (
        "export parquet needs pyarrow, which this build of iptrec does not have; install iptrec by pip instead:"
        " pip install 'iptrec[parquet]'"
    )


def test_the_words_of_both():
    """One text; what it advises is named twice. It stays so when it goes through a pickle."""
    error = iptrec.UsageError("a.db exists; use ", errors.FORCE, " or ", errors.ANOTHER_OUTPUT)
    for one in (error, pickle.loads(pickle.dumps(error))):  # noqa: S301 - ours
        assert str(one) == "a.db exists; use force=True or another output"
        assert one.typed == "a.db exists; use --force or another -o"
    assert str(iptrec.HostError("plain")) == iptrec.HostError("plain").typed == "plain"


def exists(tmp_path):
    path = tmp_path / "t.db"
    path.write_text("mine")
    Writer.create(path, HandMade().facts)


def no_directory(tmp_path):
    Writer.create(tmp_path / "no" / "t.db", HandMade().facts)


def no_regular_file(tmp_path):
    (tmp_path / "t.db").mkdir()
    Writer.create(tmp_path / "t.db", HandMade().facts, force=True)


def slow(tmp_path):
    recording = tmp_path / "t.db"
    with Writer.create(recording, HandMade().facts) as writer:
        writer.close(2000, "test")
    endless = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    with iptrec.open(recording) as opened:
        list(opened.query(f"SELECT max(i) FROM ({endless})", timeout_s=0.01))


def filtered(tmp_path):
    recording = tmp_path / "t.db"
    with Writer.create(recording, HandMade().facts) as writer:
        writer.close(2000, "test")
    with iptrec.open(recording) as opened:
        opened.packets("inbound")


ADVICE = {
    exists: ("use force=True or another output", "use --force or another -o"),
    no_directory: ("make it or use another output", "make it or use another -o"),
    no_regular_file: ("use another output", "use another -o"),
    slow: ("see timeout_s", "see --timeout"),
    filtered: ("for interfaces there is iface", "for interfaces there is --iface"),
}


@pytest.mark.parametrize("cause", ADVICE)
def test_advice(tmp_path, cause):
    """Nothing else of the two texts differs."""
    python, typed = ADVICE[cause]
    with pytest.raises(iptrec.IptrecError) as raised:
        cause(tmp_path)
    assert str(raised.value).endswith(f"; {python}")
    assert raised.value.typed == str(raised.value).removesuffix(python) + typed
    assert " -" not in str(raised.value)


def test_the_command_line_has_its_own():
    """It is typed there."""
    done = command("show", LOOPBACK, "inbound")
    assert done.stderr.endswith("for interfaces there is --iface\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("query", LOOPBACK, "SELECT 1", "--timeout", "0"),
            "--timeout=0.0: expected seconds, more than 0 and less than 10^9",
        ),
        (
            ("query", LOOPBACK, "SELECT 1", "--timeout", "999999999h"),
            "--timeout=3599999996400.0: expected seconds, more than 0 and less than 10^9",
        ),
        (
            ("show", LOOPBACK, "--packet", str(2**63)),
            f"--packet={2**63}: expected a number between -2^63 and 2^63",
        ),
        (
            ("show", LOOPBACK, "--path", str(2**63)),
            f"--path={2**63}: expected a number between -2^63 and 2^63",
        ),
    ],
)
def test_what_was_typed_is_named_so(arguments, expected):
    """By its option; Python's argument is another word."""
    done = command(*arguments)
    assert (done.returncode, done.stderr) == (2, f"iptrec: {expected}\n")


@pytest.mark.parametrize("cause", ["tcp and udp", "", "tcp and (", "inbound", "x" * 3000])
def test_what_a_filter_raises_is_public(cause):
    """The very class that is documented."""
    with iptrec.open(LOOPBACK) as opened, pytest.raises(iptrec.UsageError) as raised:
        opened.packets(cause or " ")
    assert type(raised.value) is iptrec.UsageError


def test_what_a_recorder_says(monkeypatch, tmp_path):
    """Of the child's errors the words of Python come through."""
    error = iptrec.RecordingError("t.db exists; use ", errors.FORCE)
    answer = {"error": type(error).__name__, "text": str(error)}
    monkeypatch.setattr(child_recorder, "_answers", lambda _: iter([answer]))
    monkeypatch.setattr(child_recorder, "iptrec", lambda *_, **__: ["true"])
    with pytest.raises(iptrec.RecordingError, match=r"use force=True$"):
        iptrec.record(tmp_path / "t.db")


@pytest.mark.parametrize(
    ("error", "plain", "place"),
    [
        (
            OSError(errno.ENOENT, "No such file or directory", "/x"),
            "No such file or directory",
            "/x: ",
        ),
        (OSError(errno.EPERM, "Operation not permitted"), "Operation not permitted", ""),
        (TimeoutError("timed out"), "timed out", ""),
    ],
)
def test_what_the_system_says(error, plain, place):
    """Without the number that Python puts before it."""
    assert errors.strerror(error) == plain
    assert errors.located(error) == place + plain


def python_words(source):
    """Lines that tell an OSError as Python does, "[Errno 2] ..."."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.ExceptHandler)
            and node.name
            and "OSError" in ast.unparse(node.type)
        ):
            for one in ast.walk(node):
                if (
                    isinstance(one, ast.FormattedValue) and ast.unparse(one.value) == node.name
                ) or (isinstance(one, ast.Call) and ast.unparse(one) == f"str({node.name})"):
                    yield one.lineno
        if isinstance(node, ast.Attribute) and ast.unparse(node).endswith(".strerror"):
            yield from [] if ast.unparse(node) == "os.strerror" else [node.lineno]


def test_errors_of_the_system_are_told_in_one_way():
    """By `strerror` and `located`."""
    found = {
        str(path.relative_to(PACKAGE)): lines
        for path in PACKAGE.rglob("*.py")
        if path.name != "errors.py" and (lines := [*python_words(path.read_text())])
    }
    assert found == {}


@pytest.mark.parametrize(
    ("told", "lines"),
    [
        ("f'cannot: {error}'", [4]),
        ("str(error)", [4]),
        ("f'{error.strerror}'", [4]),
        ("f'{strerror(error)}'", []),
        ("os.strerror(2)", []),
    ],
)
def test_python_words_are_found(told, lines):
    """The test above can fail."""
    source = f"try:\n    pass\nexcept (ValueError, OSError) as error:\n    say({told})\n"
    assert list(python_words(source)) == lines


def test_a_fork_tells_what_the_system_said():
    """As who called it would have."""

    def look():
        os.open("/nowhere/at/all", os.O_RDONLY)

    with Forked("the sets", look) as forked, pytest.raises(errors.HostError) as caught:
        forked.result()
    assert str(caught.value) == "cannot read the sets: /nowhere/at/all: No such file or directory"
