"""Help in lines, however it is asked for."""

from __future__ import annotations

import pytest
from command import iptrec

COMMANDS = ["show", "record", "import", "help", "export", "export pcapng"]


@pytest.mark.parametrize("group", ["", "export"])
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
