"""Help in lines, however it is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command import iptrec

from iptrec import cli
from iptrec.cli.commands import SUMMARIES, Commands

COMMANDS = ["show", "record", "import", "help", "export", "export pcapng"]


@pytest.mark.parametrize("group", ["", "export", "extcap"])
def test_without_a_command(group):
    """What everybody types first: the help, in lines, on stdout; the status says that nothing was done."""
    done = iptrec(*group.split())
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == iptrec(*group.split(), "--help").stdout
    assert done.stdout.count("\n") > 8
    assert done.stdout.startswith(f"Usage: iptrec {group}".rstrip())


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_command(command):
    """The same as --help."""
    done = iptrec("help", *command.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == iptrec(*command.split(), "--help").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nope", "iptrec: no command 'nope'; iptrec has record, trace, show, "),
        ("export nope", "iptrec: no command 'export nope'; iptrec export has ndjson, pcapng, "),
        ("show nope", "iptrec: no command 'show nope'; iptrec show has none"),
    ],
)
def test_unknown_topic(words, message):
    """One line that names what there is."""
    done = iptrec("help", *words.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(message)


def test_wrong_use_of_a_group_is_an_error_still():
    """An option that there is not, a command that there is not."""
    for words in (["--nope"], ["export", "--nope"], ["nope"], ["export", "nope"]):
        done = iptrec(*words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def commands():
    """Each command as it is typed, with its docstring."""
    export = Commands()["export"].commands
    typed = [*Commands().items(), *((f"export {name}", one) for name, one in export.items())]
    return [(name, one.callback.__doc__) for name, one in typed if name != "export"]


@pytest.mark.parametrize("name", SUMMARIES)
def test_summaries_are_what_commands_say(name):
    """The help of all loads no command: what it says of each is the first sentence of the own help."""
    about = Commands()[name].help.partition("\n\n")[0]
    assert " ".join(about.split()) == SUMMARIES[name]


def test_every_command_is_in_the_table():
    """One that is missing there would be lost without a word; a module of one begins with its name."""
    modules = Path(cli.__file__).parent.glob("*.py")
    said = (re.match(r'"""``iptrec (\S+)``', one.read_text()) for one in modules)
    assert sorted(one[1] for one in said if one) == sorted(SUMMARIES)


@pytest.mark.parametrize("group", ["", "export"])
def test_summaries_are_short(group):
    """Each fits its line: none is cut, none has more than 60 letters."""
    _, _, listed = iptrec(*group.split(), "--help").stdout.partition("\nCommands:\n")
    found = re.findall(r"^  (\S+) +(.+)$", listed.partition("\n\n")[0], re.MULTILINE)
    assert len(found) == listed.partition("\n\n")[0].strip().count("\n") + 1
    assert not [text for _, text in found if "..." in text or len(text) > 60]


@pytest.mark.parametrize(("command", "doc"), [*commands()])
def test_examples_are_verbatim(command, doc, monkeypatch):
    """However narrow the terminal is: they are there to be copied."""
    monkeypatch.setenv("COLUMNS", "60")
    text = iptrec(*command.split(), "--help").stdout
    examples = re.findall(r"^      (\S.*)$", doc, re.MULTILINE)
    assert [one for one in examples if f"\n    {one}\n" not in text] == []


@pytest.mark.parametrize(("command", "_"), [*commands()])
def test_metavars_are_words(command, _):
    """What a value is, not its type in the program."""
    assert re.findall(r"<[a-z ]+>", iptrec(*command.split(), "--help").stdout) == []


@pytest.mark.parametrize(
    ("command", "groups"),
    [
        ("record", ["What to record", "When to stop", "Output", "Options"]),
        ("trace", ["What to record", "When to stop", "Which packets", "Output", "Options"]),
        ("show", ["Which packets", "Output", "Options"]),
        ("info", ["Which packets", "Options"]),
    ],
)
def test_options_are_in_groups(command, groups):
    """In the order in which one asks; what fits none comes last."""
    heads = re.findall(r"^([A-Z].*):$", iptrec(command, "--help").stdout, re.MULTILINE)
    assert heads == ["Arguments", *groups]


def test_what_is_not_a_number():
    """In words that are not the program's."""
    done = iptrec("record", "--snaplen", "abc")
    assert done.stderr == (
        "iptrec record: Invalid value for '--snaplen': 'abc' is not a valid number;"
        " see iptrec record --help\n"
    )
