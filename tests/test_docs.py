"""What the documents say is there, is there."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import documents
import pytest
import test_api
from command import iptrec
from typer.main import get_command
from validation import validator

from iptrec.cli import app
from iptrec.recording.reader import Reader

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
COMMANDS = (ROOT / "docs" / "commands.md").read_text()
SECURITY = (ROOT / "SECURITY.md").read_text()
# Which sample is trace.db: the first of these that has what an example asks for.
ORDER = [f"{name}.db" for name in ("docker_hairpin", "nftables", "loopback", "kubernetes")]
LINKED = {
    "before.db": "docker_hairpin.db",
    "after.db": "kubernetes.db",
    "old.rules": "kubeadm-flannel.rules",
    "yesterday.rules": "kubeadm-flannel.rules",
}
LAKE = [
    "before.db",
    "samples/both.db",
    "samples/loopback.db",
]  # what is in lake/, where a line reads it
NO = {
    "diff",
    "check",
    "--orphans",
    "differing",
}  # 1 says something of the sample: different, failed, there are none
PASTED = {
    "kern.log": "kern.log", "trace.txt": "monitor.txt", "nft.rules": "handles.nft",
    "xtables.txt": "xtables.txt",
}  # fmt: skip
PRINTED = {"v4.rules": "iptables-save", "v6.rules": "ip6tables-save"}  # of the sample


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


@pytest.mark.parametrize("command", [name for name, _ in documents.commands()])
def test_every_command_is_in_the_list(command):
    """Who looks for it finds it there: docs/commands.md."""
    assert re.search(rf"`iptrec {command}`", COMMANDS)


@pytest.mark.parametrize("promise", [*promises()], ids=lambda text: text[2:40])
def test_each_promise_names_its_tests(promise):
    """At least one."""
    assert list(named_tests(promise))


def test_every_block_has_a_kind():
    """What is neither commands, a program nor a file is named in `documents.OUTPUTS`, with the reason."""
    assert [where for where, _ in documents.of_kind(None)] == []


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        ("iptrec show trace.db\n", "shell"),
        ("sudo nft list ruleset | iptrec diff trace.db -\n", "shell"),
        ("$ iptrec show trace.db\n#1 ...\n", "shell"),
        ("import iptrec\n", "python"),
        ("[[expect]]\nverdict = 'DROP'\n", "toml"),
        ("SET x = 1;\n", "sql"),
        ("$ iptrec show trace.db\n#1 ...\n\n#2 ...\n", "shell"),
        ("rsh box iptrec trace\n", None),
        ("iptrec show trace.db | less\n", None),
    ],
)
def test_kinds_of_blocks(block, kind):
    """What no test knows how to run is not taken for something else."""
    assert documents.kind(block) == kind


@pytest.mark.parametrize("line", documents.lines(), ids=lambda line: line.text)
def test_every_line_is_run(line):
    """Here, in a lab, or elsewhere, by the programs that it names."""
    assert line.runs, line


def test_reasons_are_needed():
    """Each program and each block that is not run is there."""
    programs = {
        program for line in documents.lines_that_run("elsewhere") for program in line.programs
    }
    assert documents.ELSEWHERE.keys() - programs == set()
    assert len([*documents.of_kind("output")]) == len(documents.OUTPUTS)


@pytest.mark.parametrize("page", [str(one.relative_to(ROOT)) for one in documents.PAGES])
def test_no_two_lines_write_the_same_file(page):
    """Who types them one after the other is not refused: nothing is replaced without --force.

    Sessions, where a page has some, are typed as a whole elsewhere.
    """
    lines = [line for line in documents.of_pages() if line.where.startswith(f"{page}:")]
    made = Counter(line.makes for line in lines if not line.lake and line.runs != "session")
    assert [name for name, times in made.items() if times > 1 and name and "%" not in name] == []


def called():
    """The words of each iptrec that is called in an example, or named in a sentence."""
    for line in documents.lines():
        yield from (tuple(words[1:]) for words in line.commands if words[0] == "iptrec")


@pytest.mark.parametrize("words", [*called()], ids=" ".join)
def test_examples_are_understood(words):
    """Every option is there, with a value that it takes; nothing is run."""
    root = get_command(app)
    context = root.make_context("iptrec", [*words])
    while hasattr(context.command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def mentioned():
    """Each command of iptrec that a sentence of the pages names."""
    parser = documents.MarkdownIt().enable("table")
    for page in documents.PAGES:
        for token in parser.parse(page.read_text()):
            for part in token.children or ():
                if part.type == "code_inline":
                    yield from re.findall(r"\biptrec ([a-z]\w+)", part.content)


@pytest.mark.parametrize("name", sorted(set(mentioned())))
def test_mentioned_commands_exist(name):
    """None was renamed."""
    assert name in get_command(app).commands


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A directory with the files that examples read, but for trace.db, which each test puts there."""
    (tmp_path / "samples").symlink_to(SAMPLES)
    for name, source in LINKED.items():
        (tmp_path / name).symlink_to(SAMPLES / source)
    with Reader(SAMPLES / "docker_hairpin.db") as reader:
        found = {one.kind: one.content for one in reader.snapshots()}
    for name, kind in PRINTED.items():
        (tmp_path / name).write_bytes(found[kind])
    (tmp_path / "links.json").write_text("[]")
    for name, pasted in PASTED.items():
        (tmp_path / name).symlink_to(ROOT / "tests/data/pasted" / pasted)
    (tmp_path / "firewall.toml").write_text(next(documents.of_kind("toml"))[1])
    monkeypatch.chdir(tmp_path)
    assert not iptrec("export", "pcapng", "--events", "before.db", "-o", "capture.pcap").returncode
    return tmp_path


def run(line):
    """Run a line where we are: in this process, or by a shell that finds our iptrec."""
    if len(line.commands) == 1 and line.commands[0][0] == "iptrec":
        return iptrec(*line.commands[0][1:])
    path = documents.tools(Path("bin"))
    for program, *_ in line.commands:
        if not shutil.which(program, path=path):
            pytest.skip(f"{program}: not installed")
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.text],
        env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def before(line):
    """The lines beside it that make a file which it reads."""
    beside = [one for one in documents.lines_that_run("here") if one.where == line.where]
    for one in beside:
        read = one.makes and re.search(rf"(?<![\w./-]){re.escape(one.makes)}\b", line.text)
        if read and one.makes != line.makes:
            yield one


@pytest.mark.parametrize("line", documents.lines_that_run("here"), ids=lambda line: line.text)
def test_examples_run(line, desk):
    """With one sample after the other as trace.db, until one has what is asked for: the last one must."""
    for sample in ORDER:
        (desk / "trace.db").unlink(missing_ok=True)
        if line.makes != "trace.db":
            (desk / "trace.db").symlink_to(SAMPLES / sample)
        if "lake/" in line.text and not line.lake:
            assert iptrec("export", "parquet", "lake/", *LAKE).returncode == 0
        assert [one for one in before(line) if run(one).returncode] == []
        done = run(line)
        assert "Traceback" not in done.stderr
        if done.returncode == 0 or (done.returncode == 1 and NO & {*line.commands[0]}):
            break
    else:
        pytest.fail(f"no sample has what it asks for: {done.stderr}")
    assert done.stdout or done.returncode or Path(line.makes).exists()


@pytest.mark.parametrize(("where", "program"), [*documents.of_kind("python")])
def test_programs_are_run(where, program):
    """By tests/test_api.py and tests/live/test_api_record.py; tests by tests/live/test_pytest_plugin.py."""
    if where.startswith("docs/pytest.md"):
        return
    known = [test_api.example(), *test_api.documented(), *test_api.examples(test_api.RECORD)[:1]]
    assert program.strip() in {one.strip() for one in known}, where


def readable(text):
    """With tabs of four columns."""
    return text.replace("-->\t", "--> ").replace("\t", "    ")


def outputs():
    """Each line of iptrec whose output is printed below it, with the parts of that: "..." is between them."""
    for line, printed in documents.typed():
        if (
            printed
            and line.runs == "here"
            and line.programs == {"iptrec"}
            and "lake/" not in line.text
        ):
            parts = [[]]
            for one in printed:
                if one == "...":
                    parts.append([])
                else:
                    parts[-1].append(one)
            yield line, [part for part in parts if part]


def found(lines, part):
    """Behind the lines that are a part of them; None: they are not."""
    for at in range(len(lines) - len(part) + 1):
        if lines[at : at + len(part)] == part:
            return lines[at + len(part) :]
    return None


@pytest.mark.parametrize(
    ("lines", "part", "rest"),
    [("abcd", "bc", "d"), ("abcd", "", "abcd"), ("abcd", "bd", None), ("abcd", "abcde", None)],
)
def test_parts_are_found(lines, part, rest):
    """As they stand there, line behind line."""
    assert found([*lines], [*part]) == (rest if rest is None else [*rest])


@pytest.mark.parametrize(
    ("line", "parts"),
    [*outputs()],
    ids=lambda one: one.text if isinstance(one, documents.Line) else "",
)
def test_outputs_are_those_of_today(line, parts, monkeypatch):
    """In the zone of the tests; docs/lake.md has a test of its own, tests/lake/test_lake_page.py."""
    monkeypatch.chdir(ROOT)
    lines = readable(iptrec(*shlex.split(line.text)[1:]).stdout).splitlines()
    assert parts
    for part in parts:
        rest = found(lines, part)
        assert rest is not None, (part, lines)
        lines = rest


@pytest.mark.parametrize(("_", "text"), [*documents.of_kind("toml")])
def test_the_sample_of_expectations(_, text):
    """firewall.toml is one that `iptrec check` takes."""
    validator("expectations").validate(tomllib.loads(text))
