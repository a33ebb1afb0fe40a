"""What a shell is told that asks how a command line goes on, and how bash's words are quoted."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import program
from handmade import RAW, HandMade, written
from typer.main import get_command

from iptrec.cli import app, bash_line, candidates
from iptrec.cli.completed import answer
from iptrec.cli.typed import read
from iptrec.recording.writer import Writer

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
HAIRPIN, NFTABLES = SAMPLES / "docker_hairpin.db", SAMPLES / "nftables.db"
TOP = get_command(app)
NASTY = [
    "$(touch obeyed)",
    "`touch obeyed`",
    "it's",
    'a "b"',
    "a;b|c&d",
    "in $HOME",
    "~",
    "!!",
    "*",
    "a:b=c",
    "-x",
    "é ü",
]
UNPRINTABLE = ["two\nlines", "\x1b[31mred", "a\tb", "\u202etxt", "bell\x07"]


def asked(shell, *typed):
    """Kind, words with remarks."""
    kind, *lines = answer(shell, ["iptrec", *map(str, typed)] if shell != "bash" else [*typed], TOP)
    return kind, dict(line.split("\t") if "\t" in line else (line, "") for line in lines)


def words(*typed):
    return list(asked("fish", *typed)[1])


def test_commands():
    kind, found = asked("fish", "")
    assert kind == "values"
    assert found["show"] == "Show packets step by step through tables, chains and rules"
    assert words("exp") == ["export"]
    assert words("export", "p") == ["pcapng", "parquet"]
    assert words("help", "export", "s") == ["sqlite"]
    assert words("completion", "") == ["bash", "zsh", "fish"]
    assert words("nonsense", "") == []


@pytest.mark.parametrize("name", [one for one in TOP.commands if one != "export"])
def test_options(name):
    """Every option that --help has, none that it hides."""
    shown = program(name, "--help").stdout
    documented = set(re.findall(r"^ +(?:-., )?(--[a-z][a-z-]*)", shown, re.MULTILINE))
    assert set(words(name, "--")) >= documented
    assert "--held" not in words(name, "--")


def test_an_option_is_offered_once():
    assert "--verdict" not in words("show", HAIRPIN, "--verdict", "DROP", "--")
    assert "--netns" in words("record", "--netns", "a", "--")


def test_files():
    assert asked("fish", "show", "") == ("files .db .db.gz", {})
    assert asked("fish", "check", HAIRPIN, "")[0] == "files .toml"
    assert asked("fish", "show", HAIRPIN, "-o", "")[0] == "files"
    assert asked("fish", "record", "--output=x")[0] == "files"


def test_what_is_no_option_s_value():
    """Behind "--" record runs a command, in the others come words of a filter."""
    assert asked("fish", "record", "tcp", "--", "l") == ("command", {})
    assert asked("fish", "record", "--", "ls", "-") == ("command", {})
    assert words("show", HAIRPIN, "--", "por") == ["port", "portrange"]
    assert words("record", "tcp", "and", "po") == ["port", "portrange"]


def test_names_of_the_recording():
    assert "filter/DOCKER-USER" in words("show", HAIRPIN, "--chain", "")
    assert words("show", HAIRPIN, "--chain", "DOCKER-U") == ["DOCKER-USER"]
    assert words("show", HAIRPIN, "--chain", "filter/FORWARD,filter/FO") == []
    assert words("show", HAIRPIN, "--chain=filter/FORWARD,filter/IN") == [
        "--chain=filter/FORWARD,filter/INPUT"
    ]
    assert words("rules", NFTABLES, "--table", "") == ["inet fw", "raw"]
    assert words("show", HAIRPIN, "-i", "hair") == ["hairpin-8-1", "hairpin-8-2"]
    assert words("show", HAIRPIN, "-i", "lo,e") == ["lo,eth0"]


def test_rules_have_the_numbers_of_show():
    """Ours are not counted; each number has its rule's text."""
    printed = program("rules", HAIRPIN, "--json").stdout.splitlines()
    told = {
        f"{one['table']}/{one['chain']}/{rule['rule']}": rule["spec"]
        for one in map(json.loads, printed)
        for rule in one["rules"]
        if one["family"] == "ipv4"
    }
    chains = {one.rpartition("/")[0] for one in told}
    assert set(words("show", HAIRPIN, "--rule", "")) == {f"{one}/" for one in chains}
    for chain in chains:
        found = asked("fish", "show", HAIRPIN, "--rule", f"{chain}/")[1]
        assert found.keys() == {one for one in told if one.rpartition("/")[0] == chain}
        for place, spec in found.items():
            assert told[place].startswith(spec.removesuffix("..."))


def test_backends_of_both():
    """Where both were recorded, a table has its backend's name, as `show --chain` wants it."""
    assert {"legacy filter/FORWARD", "nft raw/PREROUTING"} <= set(
        words("show", SAMPLES / "both.db", "--chain", "")
    )


def test_names_of_the_host():
    assert {"lo", "any"} <= set(words("record", "-i", ""))
    assert words("record", "-i", "lo,an") == ["lo,any"]
    assert words("extcap", "-i", "lo,an") == words("extcap", "capture", "-i", "lo,an") == ["lo,any"]
    assert (
        asked("fish", "extcap", "--fifo", "")[0]
        == asked("fish", "extcap", "install", "--dest", "")[0]
        == "files"
    )


REFUSING = {  # where an option is looked at before anything is done
    "--backend": ["record"],
    "--drops": ["record"],
    "--engine": ["lake", "drops", "."],
    "--family": ["record"],
    "--from": ["import", "-"],
    "--keep": ["redact", HAIRPIN, "-o", "-"],
    "--link": ["export", "pcapng", HAIRPIN, "-o", "-"],
    "--log-level": ["record"],
    "--schema": ["export", "ndjson", HAIRPIN, "-o", "-"],
    "--sort": ["paths", HAIRPIN],
}


@pytest.mark.parametrize("name", candidates._CHOICES)
def test_choices_are_those_that_there_are(name):
    """A refusal names them."""
    done = program(*REFUSING.get(name, ["show", HAIRPIN]), name, "nonsense")
    assert done.returncode == 2
    named = re.search(r"must be one of (.*)$", done.stderr)[1].split(", ")
    assert candidates._CHOICES[name].split() == named


def listing(*names):
    """What nft prints of chains of these names."""
    objects = [{"table": {"family": "inet", "name": "fw", "handle": 1}}]
    objects += [
        {"chain": {"family": "inet", "table": "fw", "name": one, "handle": 2}} for one in names
    ]
    return json.dumps({"nftables": objects}).encode()


@pytest.fixture
def hostile(tmp_path):
    """A recording whose chains have names that a shell might obey."""
    made = HandMade()
    made.ruleset(RAW)
    made.snapshot("nft", listing(*NASTY, *UNPRINTABLE))
    path = tmp_path / "hostile.db"
    written(path, made)
    return path


def test_hostile_names(hostile):
    """Each comes whole on a line of its own, or not at all."""
    expected = {f"inet fw/{one}" for one in NASTY}
    assert {one for one in words("show", hostile, "--chain", "inet") if "fw" in one} == expected
    found = asked("bash", f"iptrec show {hostile} --chain inet", "inet")[1]
    assert {shlex.split(one)[0] for one in found} == expected


@pytest.mark.parametrize(("quote", "name"), [*itertools.product(["", "'", '"'], NASTY)])
def test_bash_reads_what_is_replied(tmp_path, quote, name):
    """Whatever is open: bash finds the word itself, and obeys nothing."""
    line = bash_line.read(f"iptrec show {quote}", "")
    reply = line.reply(name)
    if reply is None:
        assert (quote, name) == ('"', "!!")
        return
    script = f"set -o history -o histexpand\nprintf %s {quote}{reply}{quote}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (name, "")
    assert list(tmp_path.iterdir()) == []


LINES = [  # as bash gives them: its line, its own word; the words, what stays of the last one, the open quote
    ("iptrec show --chain fil", "fil", ["show", "--chain", "fil"], "", ""),
    ("iptrec show --chain=fil", "fil", ["show", "--chain=fil"], "--chain=", ""),
    ("iptrec show 'my f", "my f", ["show", "my f"], "", "'"),
    ('iptrec show --chain="inet f', "inet f", ["show", "--chain=inet f"], "--chain=", '"'),
    ("iptrec show a\\ b", "a\\ b", ["show", "a b"], "", ""),
    ("iptrec show a:b", "b", ["show", "a:b"], "a:", ""),
    ("iptrec show 'a b' ", "", ["show", "a b", ""], "", ""),
    ("iptrec show ''", "''", ["show", ""], "", ""),
    ('iptrec show "a\\$\\x', "a\\$\\x", ["show", "a$\\x"], "", '"'),
]


@pytest.mark.parametrize(("line", "last", "found", "kept", "quote"), LINES)
def test_lines_of_bash(line, last, found, kept, quote):
    read_line = bash_line.read(line, last)
    assert [*read_line.words[1:], read_line.word] == found
    assert (read_line.kept, read_line.quote) == (kept, quote)


def test_a_word_that_is_not_the_end_of_the_line():
    assert bash_line.read("iptrec show", "x") is None
    assert list(answer("bash", ["iptrec show", "x"], TOP)) == []


def test_values_in_one_word():
    """As a command line has them: -ieth0, -qo file, --packets 1 2."""
    assert read(["show", "a.db", "-ilo"], TOP).option is None
    assert read(["show", "a.db", "-qo"], TOP).option.name == "output"
    assert read(["show", "a.db", "--tail"], TOP).option.name == "tail"
    assert read(["diff", "--packets", "1"], TOP).option.name == "packets"
    assert read(["diff", "--packets", "1", "2"], TOP).option is None
    assert read(["show", "-nonsense", "a.db"], TOP).operands == ["a.db"]


@pytest.mark.parametrize("content", [b"", b"text", b"SQLite format 3\0" + bytes(4096)])
def test_what_is_not_a_recording(tmp_path, content):
    path = tmp_path / "trace.db"
    path.write_bytes(content)
    for name in candidates._OF_RECORDING:
        if name != "--reason":
            assert asked("fish", "rules" if name == "--table" else "show", path, name, "") == (
                "values",
                {},
            )
    assert words("show", tmp_path / "missing.db", "--chain", "") == []
    assert words("show", "/dev/zero", "--chain", "") == []


def test_every_sample_cut_anywhere(tmp_path):
    """Damaged files are no reason for an error."""
    whole = NFTABLES.read_bytes()
    for size in range(100, len(whole), 4_099):
        path = tmp_path / "cut.db"
        path.write_bytes(whole[:size])
        assert words("show", path, "--chain", "") == []


def test_it_does_not_take_long(monkeypatch):
    """What is found until then is told."""

    def endless(_, __):
        yield from ((f"{number}", "") for number in itertools.count() if not time.sleep(0.01))

    monkeypatch.setitem(candidates._OF_RECORDING, "--chain", endless)
    begun = time.monotonic()
    found = words("show", HAIRPIN, "--chain", "")
    assert time.monotonic() - begun < 2
    assert len(found) > 10


def test_not_more_than_anybody_reads(monkeypatch):
    monkeypatch.setitem(
        candidates._OF_RECORDING, "--chain", lambda *_: ((str(one), "") for one in range(10**5))
    )
    assert len(words("show", HAIRPIN, "--chain", "")) == 2_000


LOADED = """\
import sys
from iptrec.__main__ import main
sys.argv[:] = ["iptrec", "completion", "fish", "--", "iptrec", *sys.argv[1:]]
try:
    main()
finally:
    print("heavy:", {"numpy", "rich", "pyroute2", "sqlite_utils"} & sys.modules.keys() or "", file=sys.stderr)
"""


@pytest.mark.parametrize(
    "typed",
    [
        [""],
        ["show", "--"],
        ["record", "-i", ""],
        ["show", str(HAIRPIN), "--chain", ""],
        ["show", "-i", ""],
    ],
)
def test_nothing_heavy_is_loaded(typed):
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *typed], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == "heavy:"
    assert done.stdout.startswith("values\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script(shell):
    done = program("completion", shell)
    assert done.stdout == (ROOT / f"iptrec/completion/iptrec.{shell}").read_text()


def test_other_shells():
    done = program("completion", "csh")
    assert (done.returncode, done.stderr) == (2, "iptrec: 'csh': must be one of bash, zsh, fish\n")


def test_processes_and_namespaces(tmp_path):
    """Those that the recording names, each once."""
    path = tmp_path / "a.db"
    processes = [
        {"pid": number, "comm": comm, "cgroup": "/", "sockets": []}
        for number, comm in enumerate("aba")
    ]
    owners = json.dumps({"processes": processes, "cgroups": {}}).encode()
    with Writer.create(path, HandMade().facts) as writer:
        for name in (None, "web", "db"):
            namespace = writer.add_namespace(name, 1)
            writer.add_snapshot(namespace, "owners", 0, "sockets", owners)
    assert words("show", path, "--comm", "") == ["a", "b"]
    assert words("show", path, "--netns", "") == ["web", "db"]
    assert words("record", "--netns", "no such one") == []
