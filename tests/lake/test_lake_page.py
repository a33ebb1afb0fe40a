"""docs/lake.md: what stands below a question is its answer."""

from __future__ import annotations

from pathlib import Path

import documents
import pytest
from command import iptrec
from lakes import sample

from iptrec.lake.question import questions

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The lake that the page makes."""
    folder = tmp_path_factory.mktemp("page")
    lines = [line for line in documents.of_pages() if line.where.startswith("docs/lake.md:")]
    (made,) = [
        line
        for line in lines
        if line.lake and "samples/" in line.text and "--schema" not in line.text
    ]
    here = {"before.db": sample("docker_hairpin"), "after.db": sample("kubernetes")}
    words = [
        str(here.get(one, ROOT / one if "samples/" in one else one)) for one in made.commands[0][1:]
    ]
    words = [f"{folder}/{one}" if one == "lake/" else one for one in words]
    assert iptrec(*words).returncode == 0
    return folder


def printed():
    """Each question that the page asks, and the lines below it."""
    for where, block in documents.of_kind("shell"):
        for paragraph in block.split("\n\n") if where.startswith("docs/lake.md:") else ():
            first, *rest = paragraph.splitlines()
            if first.startswith("$ iptrec lake "):
                yield first.removeprefix("$ iptrec "), rest


@pytest.mark.parametrize(("typed", "lines"), [*printed()])
def test_answers(typed, lines, desk, monkeypatch):
    """Of the lake that the page has made."""
    monkeypatch.chdir(desk)
    done = iptrec(*typed.split())
    assert done.stderr == ""
    assert done.stdout.splitlines() == lines


def test_each_question_is_asked():
    """So that one sees what it tells."""
    assert {typed.split()[1] for typed, _ in printed()} == {*questions()}
