"""Ctrl-C and SIGTERM at any moment: no traceback, no file, no word."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import ANSWERING

from iptrec import interrupts

SAMPLE = Path(__file__).parents[1] / "samples" / "docker_hairpin.db"
QUIET = {signal.SIGINT: {0, 130, -signal.SIGINT}, signal.SIGTERM: {0, 143, -signal.SIGTERM}}


def ended(number, moment, *words):
    """Status and stderr of iptrec, sent a signal so many seconds after its start."""
    with subprocess.Popen(
        [*ANSWERING, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        child.stdout.readline()
        time.sleep(moment)  # the moment is what is tested, nothing is waited for
        child.send_signal(number)
        _, said = child.communicate(timeout=60)
    return child.returncode, said


class Destroyed:
    """Is interrupted while it goes."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def unwinding():
    """As within `main`; afterwards signals are what they were."""
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGALRM)}
    yield interrupts.unwinding([signal.SIGINT])
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_module_is_loaded_whole(unwinding, tmp_path, monkeypatch):
    """Ctrl-C while it loads is answered when it is there: half of it could not be loaded again."""
    (tmp_path / "interrupted.py").write_text(
        "import signal\nsignal.raise_signal(signal.SIGINT)\nWHOLE = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with contextlib.suppress(KeyboardInterrupt), unwinding:
        importlib.import_module("interrupted")
        time.sleep(10)
        pytest.fail("nobody was interrupted")
    assert sys.modules.pop("interrupted").WHOLE


def test_a_destructor_does_not_swallow_it(unwinding, capsys):
    """Python would print the exception there, and go on."""
    with contextlib.suppress(KeyboardInterrupt), unwinding:
        Destroyed()
        time.sleep(10)
        pytest.fail("nobody was interrupted")
    assert capsys.readouterr().err == ""


def test_others_are_told(unwinding, capsys):
    """An error in a destructor that has nothing to do with signals."""

    class Broken:
        def __del__(self):
            raise ValueError("broken")

    with unwinding:
        Broken()
    assert "ValueError: broken" in capsys.readouterr().err


# A signal as soon as the file has its name.
PUBLISHED = """
import signal, sys
import iptrec.__main__ as started
from iptrec import files
number = int(sys.argv.pop())
for draft in (files.Draft, files.DraftDirectory):
    def published(self, *, replace, publish=draft.publish):
        publish(self, replace=replace)
        signal.raise_signal(number)
    draft.publish = published
started.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "words",
    [("pack",), ("report",), ("redact",), ("export", "sqlite"), ("export", "parquet")],
    ids=lambda words: words[-1],
)
def test_what_has_its_name_is_done(words, number, tmp_path):
    """Status 130 would say that there is nothing."""
    output = tmp_path / "made"
    command = [sys.executable, "-c", PUBLISHED, *words, SAMPLE, "-q", "-o", output, int(number)]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [*tmp_path.iterdir()] == [output]


@pytest.mark.parametrize(("number", "times"), [(signal.SIGINT, 40), (signal.SIGTERM, 20)])
def test_at_any_moment(number, times, tmp_path):
    """While modules are loaded, while it answers, while it ends."""
    for _ in range(int(os.environ.get("IPTREC_KILLS", times))):
        moment = random.uniform(0, 0.4)  # noqa: S311
        output = tmp_path / f"{moment}.db"
        status, said = ended(number, moment, "export", "sqlite", SAMPLE, "-o", output)
        assert (status in QUIET[number], said.strip()) == (True, ""), (moment, status, said)
        assert {*tmp_path.iterdir()} <= ({output} if status == 0 else set()), moment
        output.unlink(missing_ok=True)
