"""What the documents say is there, is there."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import textwrap
import tomllib
from pathlib import Path

import pytest
from command import iptrec
from typer.main import get_command
from validation import validator

from iptrec.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
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


def commands():
    """Each command as it is typed."""
    for one in app.registered_commands:
        yield f"iptrec {one.name or one.callback.__name__}"
    for group in app.registered_groups:
        for one in group.typer_instance.registered_commands:
            yield f"iptrec {group.typer_instance.info.name} {one.name or one.callback.__name__}"


@pytest.mark.parametrize("command", [*commands()])
def test_every_command_is_in_the_readme(command):
    """Who looks for it finds it there."""
    assert command in README


@pytest.mark.parametrize("promise", [*promises()], ids=lambda text: text[2:40])
def test_each_promise_names_its_tests(promise):
    """At least one."""
    assert list(named_tests(promise))


def examples():
    """Each command line of the README, as a shell would split it."""
    for line in re.findall(r"^    (?:\$ |sudo )?iptrec (.*)$", README, re.MULTILINE):
        yield tuple(itertools.takewhile(lambda word: word != "|", shlex.split(line, comments=True)))


@pytest.mark.parametrize("words", [*examples()], ids=" ".join)
def test_examples_are_understood(words):
    """Every option is there, with a value that it takes; nothing is run."""
    root = get_command(app)
    context = root.make_context("iptrec", [*words])
    while hasattr(context.command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def readable(text):
    """With tabs of four columns."""
    return text.replace("-->\t", "--> ").replace("\t", "    ")


def outputs():
    """Each command line of the README whose output is printed below it, with that; "..." is left out."""
    for words, lines in re.findall(r"^    \$ iptrec (.*)\n((?:    .*\n)+)", README, re.MULTILINE):
        printed = textwrap.dedent(lines).splitlines()
        yield words, [line for line in printed if line != "..."]


@pytest.mark.parametrize(("words", "expected"), [*outputs()], ids=str)
def test_outputs_are_those_of_today(words, expected, monkeypatch):
    """In the zone of the tests."""
    monkeypatch.chdir(ROOT)
    lines = readable(iptrec(*shlex.split(words)).stdout).splitlines()
    assert expected
    assert [line for line in expected if line not in lines] == []


def test_the_demo_prints_what_the_readme_says():
    """The sample is a recording of the demo."""
    printed = README[README.index("What `make demo` prints:") :].split("\n\n")[1]
    shown = iptrec("show", ROOT / "samples" / "docker_hairpin.db").stdout
    assert textwrap.dedent(printed) + "\n" == readable(shown)


def test_the_sample_of_expectations():
    """firewall.toml is one that `iptrec check` takes."""
    found = re.findall(r"^    \[\[expect\]\]\n(?:(?:    .*)?\n)*", README, re.MULTILINE)
    assert found
    for one in found:
        validator("expectations").validate(tomllib.loads(textwrap.dedent(one)))
