"""What `pip install iptrec` brings."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel."""
    pytest.importorskip("hatchling", reason="hatchling: not installed; pip install -e '.[dev]'")
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (made,) = directory.iterdir()
    with zipfile.ZipFile(made) as opened:
        yield opened


def test_every_file_of_the_package(wheel):
    """Programs, and what they read: the SQL of questions, the pages of reports."""
    there = {one for one in wheel.namelist() if one.startswith("iptrec/")}
    wanted = {
        str(one.relative_to(ROOT))
        for one in (ROOT / "iptrec").rglob("*")
        if one.is_file() and "__pycache__" not in one.parts
    }
    assert there == wanted
    assert "iptrec/lake/questions/drops.sql" in there


COMPLETIONS = {
    "bash-completion/completions/iptrec": "iptrec.bash",
    "zsh/site-functions/_iptrec": "iptrec.zsh",
    "fish/vendor_completions.d/iptrec.fish": "iptrec.fish",
}


def test_what_is_beside_the_package(wheel):
    """Manual pages and completion where man and the shells look, schemas and samples."""
    beside = ".data/data/share/"
    there = {one.partition(beside)[2]: wheel.read(one) for one in wheel.namelist() if beside in one}
    wanted = {f"man/man1/{one.name}": one for one in (ROOT / "man").iterdir()}
    for name in ("schemas", "samples"):
        wanted |= {f"iptrec/{name}/{one.name}": one for one in (ROOT / name).iterdir()}
    wanted |= {at: ROOT / "iptrec/completion" / one for at, one in COMPLETIONS.items()}
    assert there == {at: one.read_bytes() for at, one in wanted.items()}
