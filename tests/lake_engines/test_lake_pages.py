"""What the pages and help texts type for engines that tests/test_docs.py does not have."""

from __future__ import annotations

import os
from pathlib import Path

import documents
import pytest
from command import program
from lakes import put, sample
from test_lake_engines import MASTER, need

LINES = [
    line
    for line in documents.lines_that_run("elsewhere")
    if "iptrec lake --engine" in line.programs
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A directory with a lake."""
    folder = tmp_path_factory.mktemp("desk")
    put(folder / "lake", sample("docker_hairpin"), sample("kubernetes"))
    return folder


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.text)
def test_examples_run(line, desk):
    """With the cluster that is there in the place of somebody else's."""
    ((_, *typed),) = line.commands
    engine = typed[typed.index("--engine") + 1]
    need("cluster" if "--master" in typed else engine)
    asked = [MASTER if word.startswith("spark://") else word for word in typed]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = program(*asked, cwd=desk, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
