"""What the documents and the help texts print verbatim: shell lines, programs, files, outputs.

Each block has a kind, by its first line. A block of no kind, and a shell line that nobody runs, fail in
tests/test_docs.py, where ELSEWHERE and OUTPUTS have the exceptions, each with its reason.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import re
import shlex
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from iptrec.cli.commands import Commands
from iptrec.kernel import process

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "RELEASE", "SECURITY")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PROMPT = re.compile(r"(\w*)\$ ")  # of this machine, or of the one that it names
ELSEWHERE = {  # a program that no test runs from here, and why
    "aws": "ships to a store that nobody has here",
    "apt-get": "installs packages of the host, as make does for every test",
    "cp": "is of docs/service.md: tests/live/test_service.py",
    "dmesg": "prints this kernel's log: tests/live/test_kernel_log_live.py imports what the kernel logs",
    "docker": "runs the image: make image, which is tests/image",
    "find": "is of docs/collecting.md: tests/live/test_collecting.py",
    "iptrec-ship": "is the script of docs/collecting.md: tests/live/test_collecting.py",
    "iptables-legacy": "puts rules into the host's tables: tests/live/test_kernel_log_live.py does in a lab",
    "kubectl": "asks a cluster",
    "make": "runs these tests",
    "mc": "ships to a store that nobody has here",
    "mv": "is of docs/collecting.md, behind kubectl",
    "pip": "installs from the network",
    "nft": "prints the host's rules, and traces: tests/live/test_nft_text_live.py does in a lab",
    "nsenter": "enters a container: make image, which is tests/image",
    "pipx": "installs from the network",
    "python3": "makes an environment for what was built",
    "tools/release": "builds all that is shipped: tests/test_workflows.py",
    "rclone": "is of docs/collecting.md: tests/live/test_collecting.py",
    "rm": "is of docs/collecting.md: tests/live/test_collecting.py",
    "systemctl": "asks systemd: tests/live/test_service.py",
    "source": "is for a shell's startup file: tests/cli/test_completion_shells.py",
    "sysctl": "changes the host, with rules by hand: tests/live/test_import_live.py does",
    "tcpdump": "captures until Ctrl-C what rules by hand trace: tests/live/test_import_live.py does",
    "iptrec extcap": "is for a home of its own: tests/live/test_extcap_live.py",
    "ssh": "asks another host: tests/live/test_ssh_live.py",
    "tshark -D": "needs what the line before it installs: tests/live/test_extcap_live.py",
    "tshark -i": "captures until Ctrl-C: tests/live/test_extcap_live.py",
    "touch": "makes a lock of the host's: make image, which is tests/image",
    "wireshark": "shows windows: tests/live/test_extcap_live.py has tshark in its place",
    ".venv/bin/python": "runs these tests",
    "xtables-monitor": "prints until Ctrl-C: tests/live/test_nft_text_live.py does in a lab",
    "iptrec lake --engine": "needs what make lake installs; tests/lake_engines/test_lake_pages.py runs it",
    "/tmp/release/bin/iptrec": "is what the line before it has built",  # noqa: S108
}
OUTPUTS = {  # how a block begins that is neither command, program nor file, and what it is
    "%wireshark ALL=(root)": "a rule of sudo's: tests/live/test_extcap_rights.py",
    "polkit.addRule(": "a rule of polkit's: tests/live/test_extcap_rights.py",
    "#14 ... ACCEPT icmpv6 ... by": "titles of several recordings, shortened",
    "#1 22:19:24.140 UNKNOWN udp": "a packet of tests/live/test_ends_recorded.py",
    "#8 22:10:58.972 DISCARDED udp 10.0.2.2:20002": "of a recording of tests/live/test_drops.py",
    "IN=lo OUT= SRC=127.0.0.1 DST=127.0.0.1 ... UID=33": "a line of show: tests/live/test_owners_live.py",
    "origin: Docker; keeps": "the last lines of why: tests/answers/test_origins.py",
    "clock of server is 12.304 ms ahead of client": "a line of info: tests/live/test_hosts_live.py",
    "kernel → recorder → file": "a drawing",
    "E   AssertionError": "a failure of a test: tests/live/test_pytest_plugin.py",
    "sum without (rule)": "a query of Prometheus",
    "time() - node_textfile": "a query of Prometheus",
    "lake/packets/dt=": "the name of a file",
    "restrict,command=": "a line of sshd's: tests/live/test_collecting.py has such a one",
    "1 flow whose fate changed:": "of two recordings: tests/live/test_diff_traces_live.py",
}
SESSIONS = ("docs/tutorial.md", "docs/recipes/")  # typed as a whole by tests/live/test_recipes.py
LIVE = {"record", "trace", "demo", "doctor", "cleanup"}  # what asks or changes the host
BESIDE = {"duckdb", "jq", "sqlite3", "tshark"}  # other programs that examples run where they are


@dataclass(frozen=True)
class Line:
    """A shell line, as it is printed in a page or a help text."""

    where: str
    text: str

    @property
    def commands(self):
        """Each command of it, split as by a shell, without what stands before a program."""
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars="|;&")
        lexer.whitespace_split = True
        found = [[]]
        for word in lexer:
            if set(word) <= set("|;&"):
                found.append([])
            elif found[-1] or not re.fullmatch(r"sudo|\w+=.*", word):
                found[-1].append(word)
        return [one for one in found if one]

    @property
    def programs(self):
        """What it runs; another engine than DuckDB is a program of its own."""
        return {
            "iptrec lake --engine"
            if one[:2] == ["iptrec", "lake"] and "--engine" in one
            else " ".join(one[:2])
            if " ".join(one[:2]) in ELSEWHERE
            else one[0]
            for one in self.commands
        }

    @property
    def makes(self):
        """The file that it writes, if any."""
        words = [word for command in self.commands for word in command]
        return self.lake or dict(itertools.pairwise(words)).get("-o")

    @property
    def lake(self):
        """The lake that it puts recordings into, if any: what is there stays."""
        found = re.search(r"export parquet ([\w-]+)/ ", self.text)
        return found and found[1]

    @property
    def runs(self):
        """Where it is run: "session", "elsewhere", "live" or "here"; None: nowhere."""
        if self.where.startswith(SESSIONS):
            return "session"
        programs = self.programs
        if programs & ELSEWHERE.keys():
            return "elsewhere"
        if not programs <= {"iptrec", "nft"} | BESIDE:
            return None
        asked = {command[1] for command in self.commands if command[0] == "iptrec"}
        return "live" if asked & LIVE or "nft" in programs else "here"


def blocks(page):
    """Each verbatim block of a page, with its place; lines that a backslash continues are one.

    A fence for the site, such as {include}, is none.
    """
    for token in MarkdownIt().parse(page.read_text()):
        if token.type in {"code_block", "fence"} and not token.info.startswith("{"):
            yield (
                f"{page.relative_to(ROOT)}:{token.map[0] + 1}",
                re.sub(r" *\\\n *", " ", token.content),
            )


def kind(block):
    """What a block is, None if nobody knows.

    "shell", "script", "python", "toml", "unit", "environment", "ini", "workflow", "sql" or "output".
    """
    first = block.splitlines()[0]
    if any(first.startswith(words) for words in OUTPUTS):
        return "output"
    if first == "#!/bin/sh":
        return "script"
    if first.startswith(("INSTALL ", "SET ", "CREATE ")):
        return "sql"
    if first.startswith("OPTIONS="):
        return "environment"
    if first.startswith("- uses: "):
        return "workflow"
    if first == "[pytest]":
        return "ini"
    if first in {"[[expect]]", "[Service]", "[Path]", "[Timer]"}:
        return "toml" if first == "[[expect]]" else "unit"
    if PROMPT.match(first) or Line("", first).runs:
        return "shell"
    try:
        compile(block, "", "exec")
    except SyntaxError:
        return None
    return "python"


def of_kind(wanted):
    """All blocks of one kind, with their places."""
    for page in PAGES:
        yield from (one for one in blocks(page) if kind(one[1]) == wanted)


def commands():
    """Each command of iptrec as it is typed, with the text of its help."""
    for name, command in Commands().items():
        group = getattr(command, "commands", {})
        for typed, one in [(f"{name} {sub}", of) for sub, of in group.items()] or [(name, command)]:
            yield typed, inspect.cleandoc(one.callback.__doc__)


def typed():
    """Each shell line of the pages, with the lines below it that it prints.

    These are there where it begins with a prompt, up to the next one that does; some may be empty.
    """
    for where, block in of_kind("shell"):
        for part in re.split(rf"^(?={PROMPT.pattern})", block, flags=re.MULTILINE):
            if prompt := PROMPT.match(part):
                line, *printed = part[prompt.end() :].rstrip("\n").split("\n")
                yield Line(where, line), printed
            else:
                yield from ((Line(where, line), []) for line in part.splitlines() if line)


def of_pages():
    """The shell lines of the pages, without what is said of them behind."""
    yield from (Line(line.where, re.sub(r" +# .*", "", line.text)) for line, _ in typed())


def of_units():
    """What the services of the pages start. In a unit a percent sign is written twice (systemd.unit(5))."""
    for where, block in of_kind("unit"):
        for line in re.findall(r"^ExecStart=\S*/(.*)$", block, re.MULTILINE):
            yield Line(where, line.replace("%%", "%"))


def of_help():
    """The shell lines of the help texts: the paragraphs that are indented there, but for a file."""
    for command, text in commands():
        for paragraph in text.split("\n\n"):
            if paragraph.startswith("  ") and kind(block := textwrap.dedent(paragraph)) != "toml":
                yield from (Line(f"iptrec {command} --help", line) for line in block.splitlines())


@functools.cache
def lines():
    """Every shell line that is printed anywhere, once."""
    found: dict[str, Line] = {}
    for line in (*of_help(), *of_units(), *of_pages()):
        found.setdefault(line.text, line)
    return list(found.values())


def lines_that_run(wanted):
    """Those that are run there."""
    return [line for line in lines() if line.runs == wanted]


def tools(directory):
    """Make stand-ins that examples find first, and give the PATH: ours, no sudo, the module of DuckDB."""
    directory.mkdir(exist_ok=True)
    for name, text in {
        "iptrec": f'exec {sys.executable} -m iptrec "$@"',
        "sudo": 'exec "$@"',
        "duckdb": f"exec {sys.executable} -c 'import sys, duckdb; print(duckdb.sql(sys.argv[2]))' \"$@\"",
    }.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
    return f"{directory.resolve()}:{process.search_path()}"
