"""The workflows of .github: what they are, what they run, and with which rights."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def jobs(path):
    """Each job of a workflow, by its name."""
    return yaml.safe_load(path.read_text())["jobs"]


def steps(path):
    """What all jobs of a workflow do."""
    return [step for job in jobs(path).values() for step in job["steps"]]


def run(*words):
    return subprocess.run([*words], cwd=ROOT, capture_output=True, text=True, check=False)


def test_they_are_workflows():
    """By the schema that GitHub's editors use, which check-jsonschema brings along."""
    done = run(
        sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert len(WORKFLOWS) == 2


def test_they_give_nothing_away():
    """zizmor: no text of strangers in a shell, no rights beyond need, no action that may become another one."""
    done = run(Path(sys.executable).with_name("zizmor"), "--offline", "--no-progress", *WORKFLOWS)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_they_run_is_there(path):
    """Targets of make, tools, directories with tests."""
    text = "\n".join(step["run"] for step in steps(path) if "run" in step)
    matrices = [job.get("strategy", {}).get("matrix", {}) for job in jobs(path).values()]
    made = {*re.findall(r"\bmake ([a-z-]+)", text)}
    tested = {*re.findall(r"tests/[\w./]+", f"{text} {matrices}")}
    for matrix in matrices:
        made.update(matrix.get("target", []))
    rules = {*re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)}
    assert made - rules == set()
    named = tested | {*re.findall(r"(?<![\w/.])tools/[\w-]+", text)}
    assert [one for one in named if not (ROOT / one).exists()] == []
    assert made | named


def test_every_python_is_tested():
    """From the oldest that is allowed on; the classifiers name the same."""
    matrix = jobs(ROOT / ".github" / "workflows" / "test.yml")["suite"]["strategy"]["matrix"][
        "python"
    ]
    assert PROJECT["project"]["requires-python"] == f">={matrix[0]}"
    prefix = "Programming Language :: Python :: 3."
    named = [
        one.rpartition(" ")[2]
        for one in PROJECT["project"]["classifiers"]
        if one.startswith(prefix)
    ]
    assert named == matrix


def test_a_release_is_that_of_the_tree(tmp_path):
    """A tag of another version makes nothing."""
    done = run("tools/release", tmp_path / "dist", "99.9")
    assert (done.returncode, done.stdout) == (2, "")
    assert "not 99.9" in done.stderr
    assert not (tmp_path / "dist").exists()
