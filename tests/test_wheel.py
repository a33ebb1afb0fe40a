"""What `pip install iptrec` brings."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_file_of_the_package(tmp_path):
    """Programs, and what they read: the SQL of questions, the pages of reports."""
    pytest.importorskip("hatchling", reason="hatchling: not installed; pip install -e '.[dev]'")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as opened:
        there = {one for one in opened.namelist() if one.startswith("iptrec/")}
    wanted = {
        str(one.relative_to(ROOT))
        for one in (ROOT / "iptrec").rglob("*")
        if one.is_file() and "__pycache__" not in one.parts
    }
    assert there == wanted
    assert "iptrec/lake/questions/drops.sql" in there
