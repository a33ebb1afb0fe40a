"""What the documents say is there, is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECURITY = (ROOT / "SECURITY.md").read_text()


def named_tests(text):
    """file::test for each test that a text names; "::test" alone is in the file named before it."""
    path = ""
    for file, test in re.findall(r"`([\w/.]*)::(\w+)`", text):
        path = file or path
        yield f"{path}::{test}"


def promises():
    """Each promise, a sentence in bold, with all that is said of it."""
    for part in re.split(r"^(?=\*\*|## )", SECURITY, flags=re.MULTILINE):
        if part.startswith("**"):
            yield part


@pytest.mark.parametrize("name", [*named_tests(SECURITY)])
def test_named_tests_exist(name):
    """Each test that SECURITY.md names."""
    path, test = name.split("::")
    tree = ast.parse((ROOT / path).read_text())
    assert test in {one.name for one in tree.body if isinstance(one, ast.FunctionDef)}


@pytest.mark.parametrize("promise", [*promises()], ids=lambda text: text[2:40])
def test_each_promise_names_its_tests(promise):
    """At least one."""
    assert list(named_tests(promise))
