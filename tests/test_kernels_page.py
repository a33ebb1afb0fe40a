"""The page of make kernels: what guests said, kernel beside kernel."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "bench/kernels/page.py"


@pytest.fixture
def page(monkeypatch):
    found = importlib.util.spec_from_file_location("kernels_page", PAGE)
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "kernels_page", module)
    found.loader.exec_module(module)
    return module


def test_kernels_beside_each_other(page, tmp_path):
    """The oldest first; who did not pass is told with the reason, and a silent guest has no counts."""
    told = {
        "6.12.9": [
            ("a", "failed", "assert 3 == 4"),
            ("b[x|y]", "skipped", "no nft"),
            ("a", "passed", "at the second try: assert 3 == 4"),
        ],
        "6.1.0-56": [("a", "failed", "assert 1 == 2")],
        "5.10.0": [],
    }
    for name, (release, lines) in enumerate(told.items()):
        directory = tmp_path / str(name)
        directory.mkdir()
        (directory / "kernel").write_text(release)
        (directory / "parts").write_text("BTF\tyes\n" if lines else "")
        if lines:
            keys = ("test", "outcome", "reason")
            rows = [json.dumps(dict(zip(keys, one, strict=True))) for one in lines]
            (directory / "outcomes").write_text("\n".join(rows) + "\n")
    lines = page.page(tmp_path).splitlines()
    assert "|  | 5.10.0 | 6.1.0-56 | 6.12.9 |" in lines
    assert "| passed | 0 | 0 | 1 |" in lines
    assert "| `a` |  | failed | passed |" in lines
    assert r"| `b[x\|y]` |  |  | skipped |" in lines
    assert "- `a` failed on 6.1.0-56: `assert 1 == 2`" in lines
    assert "- `a` passed on 6.12.9: `at the second try: assert 3 == 4`" in lines
    assert "| BTF |  | yes | yes |" in lines
    assert page.summary(tmp_path / "2").startswith("ran no test: see ")
