"""What Wireshark is told, read as Wireshark reads it."""

from __future__ import annotations

import re

import pytest

from iptrec.extcap import sentences
from iptrec.extcap.sentences import Choice

# extcap_parser.c: the word, then what is in braces up to a brace that another one, a space or the end follows.
WORD = re.compile(r"^[\t| ]*(arg|value|interface|extcap|dlt|control)(?=[\t| ]+\{)")
PART = re.compile(r"\{([a-zA-Z_-]*?)=(.*?)\}(?=\{|$|\s)")
UNSAYABLE = ["}{x=y", "a}", "{", "two\nlines", "\x1b[31m", "\u2028", "a\udcffb", "\x00", "\x85"]


def read(lines):
    """(word, parts) of each sentence, out of the text as it is written."""
    text = "".join(f"{line}\n" for line in lines).encode().decode()
    for line in text.split("\n")[:-1]:
        yield WORD.match(line)[1].strip(), dict(PART.findall(line))


def arguments(namespaces=()):
    """By their names: the sentence, and its values."""
    found = {}
    for word, parts in read(sentences.config(namespaces)):
        if word == "arg":
            found[parts["call"]] = last = (parts, [])
            assert int(parts["number"]) == len(found) - 1
        else:
            assert parts["arg"] == last[0]["number"]
            last[1].append(parts)
    return found


def test_there_is_one_interface():
    (program, version), (word, interface) = read(sentences.interfaces())
    assert (program, word) == ("extcap", "interface")
    assert version["version"]
    assert interface["value"] == "iptrec"
    assert interface["display"].startswith("netfilter trace")


def test_link_types():
    ((word, parts),) = read(sentences.link_types())
    assert (word, parts["number"], parts["name"]) == ("dlt", "147", "iptrec")


def test_each_option_is_whole():
    """A name, a type that Wireshark has, a tooltip; a selector has values of which one is the default."""
    found = arguments()
    assert len(found) == 10
    for parts, values in found.values():
        assert parts["display"]
        assert parts["tooltip"]
        assert parts["type"] in {"selector", "string", "boolflag", "unsigned", "fileselect"}
        defaults = [one["value"] for one in values if one.get("default") == "true"]
        assert len(defaults) == (parts["type"] == "selector")
    assert found["--snaplen"][0]["range"] == "64,65535"
    assert found["--output"][0]["mustexist"] == "false"
    assert [one["value"] for one in found["--backend"][1]] == ["auto", "legacy", "nft", "both"]


def test_namespaces_are_a_choice():
    """The present one first; a name may have spaces, and be as odd as it likes otherwise."""
    names = ["web", "a b", "=x", "-x", "é", "a,b", "$(id)", "'"]
    (parts, values) = arguments([Choice(one, one) for one in names])["--netns"]
    assert parts["reload"] == "true"
    assert [one["value"] for one in values] == ["", *names]
    assert [one["display"] for one in values] == ["this one", *names]


@pytest.mark.parametrize("name", UNSAYABLE, ids=ascii)
@pytest.mark.parametrize("where", ["value", "display"])
def test_what_cannot_be_said_is_left_out(name, where):
    """Nothing of it is said, and the others come back as they are."""
    choice = Choice(name, "x") if where == "value" else Choice("x", name)
    _, values = arguments([choice, Choice("web", "web")])["--netns"]
    assert [one["value"] for one in values] == ["", "web"]


@pytest.mark.parametrize("option", ["netns", "--netns"])
def test_one_option_again(option):
    """Wireshark asks without the dashes."""
    found = [parts["value"] for _, parts in read(sentences.reloaded(option, [Choice("a", "a")]))]
    assert found == ["", "a"]


def test_another_option_again():
    assert list(sentences.reloaded("nothing", [])) == []
