"""The pages of the manual are what the command line says of itself, and man has nothing to say against them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "man").iterdir())


def test_they_are_current(tmp_path):
    subprocess.run([sys.executable, ROOT / "tools/manual", tmp_path], check=True)
    made = {one.name: one.read_text() for one in tmp_path.iterdir()}
    assert made == {one.name: one.read_text() for one in PAGES}, "run make manual"
    assert len(made) > 20


@pytest.mark.skipif(shutil.which("man") is None, reason="no man")
@pytest.mark.parametrize("page", PAGES, ids=lambda one: one.stem)
def test_man_has_no_warning(page):
    """Nor does it take anything of a text for an order: options are there as they are typed."""
    command = ["man", "--warnings", "-E", "UTF-8", "-l", page]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "100"},
    )
    assert done.stderr == ""
    assert "--help" in done.stdout
    assert "SEE ALSO" in done.stdout
