"""The map of the code holds: who may import whom, and what `show` never touches."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from iptrec.names import BACKEND_NAMES, Backend

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "iptrec"
MAY_IMPORT = {
    "errors": set(),
    "names": set(),
    "arguments": set(),
    "version": set(),
    "libc": set(),
    "descriptors": set(),
    "identity": {"libc", "descriptors"},
    "files": {"identity", "descriptors"},
    "metrics": {
        "metrics",
        "identity",
        "kernel",
        "recording",
        "packets",
        "rulesets.backends",
        "answers",
        "views.escape",
    },
    "kernel": {"kernel", "identity", "libc"},
    "recording": {"recording", "files", "identity", "descriptors"},
    "decode": {"decode"},
    "demo": {"demo", "kernel"},
    "pcap": {"pcap", "decode", "libc"},
    "pasted": {"pasted", "decode", "matching", "pcap"},
    "redact": {"redact", "decode", "recording.rows", "recording.kinds", "recording.hosts"},
    "recorder": {"recorder", "kernel", "recording"},
    "extcap": {"extcap", "identity", "kernel", "recorder.signals"},
    "rulesets": {"rulesets", "decode", "recording.rows", "recording.kinds"},
    "context": {"context", "decode", "recording.rows", "recording.kinds"},
    "packets": {
        "packets",
        "rulesets",
        "context",
        "decode",
        "recording.rows",
        "recording.kinds",
        "recording.hosts",
    },
    "matching": {
        "matching",
        "decode.rulesets",
        "decode.ipsets",
        "decode.conntrack",
        "decode.packet",
    },
    "answers": {
        "answers",
        "arguments",
        "packets",
        "rulesets",
        "context",
        "matching",
        "pcap",
        "decode",
        "recording.rows",
        "recording.kinds",
        "recording.hosts",
        "lake.keys",
    },
    "views": {
        "views",
        "answers",
        "packets",
        "rulesets",
        "context",
        "matching",
        "decode",
        "recording.rows",
        "recording.kinds",
        "recording.hosts",
        "files",
    },
    "lake": {
        "lake",
        "views",
        "answers",
        "packets",
        "decode",
        "rulesets.table_names",
        "recording.rows",
        "files",
        "descriptors",
    },
    "pack": {
        "pack",
        "answers",
        "packets",
        "decode",
        "rulesets.backends",
        "recording.rows",
        "recording.packing",
    },
    "child_recorder": {"arguments", "recorder", "kernel", "pcap"},
    "pytest_plugin": {"expected", "child_recorder"},
    "expected": {"api", "answers", "child_recorder", "views"},
    "api": {
        "answers",
        "arguments",
        "packets.model",
        "rulesets.backends",
        "decode.rulesets.types",
        "recording",
        "views",
        "files",
    },
    "cli": {
        "api",
        "cli",
        "kernel",
        "demo",
        "metrics",
        "recorder",
        "recording",
        "redact",
        "extcap",
        "pack",
        "lake",
        "decode",
        "pasted",
        "pcap",
        "rulesets",
        "context",
        "packets",
        "answers",
        "views",
        "files",
        "interrupts",
    },
    "__init__": {"api", "child_recorder", "answers.select", "packets.model"},
    "__main__": {"cli", "interrupts"},
    "interrupts": set(),
}
HOMES = {
    "pyroute2": {"kernel", "demo"},
    "sqlite3": {"recording", "files", "views"},  # a database is a view, too: export sqlite
    "sqlite_utils": {"views"},
    "pyarrow": {"views", "api", "lake"},
    "duckdb": {"lake"},
    "chdb": {"lake"},
    "pyspark": {"lake"},
    "py4j": {"lake"},
    "backports": {"recording"},
    "compression": {"recording"},
    "typer": {"cli"},
    "click": {"cli"},
    "rich": {"cli", "views"},
    "dpkt": {"decode", "pcap"},
    "socket": {"kernel", "demo"},
    "pytest": {"pytest_plugin"},
    "subprocess": {"kernel", "recorder", "demo", "cli", "child_recorder", "metrics", "extcap"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(nodes):
    """All names that are imported, wherever in these nodes."""
    for node in (found for top in nodes for found in ast.walk(top)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides where it goes"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def trespasses(home, nodes):
    """The imports that a module of this package may not have."""
    for name in imports(nodes):
        first, _, rest = name.partition(".")
        if first in HOMES and home not in HOMES[first]:
            yield name
        free = f"{rest}.".startswith(("errors.", "names.", "version."))
        own = first == "iptrec" and not free
        if own and not any(f"{rest}.".startswith(f"{one}.") for one in MAY_IMPORT[home]):
            yield name


def home_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_map(path):
    """A module imports only what its package may; each third party has one home."""
    assert list(trespasses(home_of(path), ast.parse(path.read_text()).body)) == []


TRESPASSES = {
    "import iptrec.kernel.legacy.nflog": "views",
    "from iptrec import kernel": "answers",
    "from iptrec.recording.reader import Reader": "answers",
    "from iptrec.recording import reader": "views",
    "from iptrec.cli import app": "recorder",
    "def f():\n    import iptrec.recorder.session": "decode",
    "import iptrec": "kernel",
    "import socket": "recorder",
    "from pyroute2.netlink import nlmsg": "decode",
    "import sqlite3": "answers",
}


@pytest.mark.parametrize("source", TRESPASSES)
def test_the_map_refuses(source):
    """The test above can fail: each of these crosses a line of the map."""
    assert list(trespasses(TRESPASSES[source], ast.parse(source).body))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph(sources):
    """Who imports whom of these modules (name -> source): at the top, for types alone, inside of functions."""
    found = {}
    for name, source in sources.items():
        names = imports(ast.parse(source).body)
        targets = {one if one in sources else one.rpartition(".")[0] for one in names}
        found[name] = targets & sources.keys() - {name}
    return found


def circles(edges):
    """The modules that lead back to themselves."""
    reach = {name: set(targets) for name, targets in edges.items()}
    for through in edges:
        for name, targets in reach.items():
            if through in targets:
                reach[name] = targets | reach[through]
    return {name for name, targets in reach.items() if name in targets}


def test_no_circle():
    """No module needs itself, whatever the kind of import."""
    edges = graph({module_name(path): path.read_text() for path in MODULES})
    assert sum(map(len, edges.values())) > len(MODULES)
    assert circles(edges) == set()


@pytest.mark.parametrize(
    "source",
    [
        "from iptrec.b import x",
        "import iptrec.b",
        "from iptrec import b",
        "if TYPE_CHECKING:\n    from iptrec.b import x",
        "def f():\n    from iptrec.b import x",
    ],
)
def test_a_circle_is_found(source):
    """The test above can fail: of two modules, and of three."""
    two = {"iptrec": "", "iptrec.a": source, "iptrec.b": "import iptrec.a", "iptrec.c": source}
    assert circles(graph(two)) == {"iptrec.a", "iptrec.b"}
    three = two | {"iptrec.b": "import iptrec.d", "iptrec.d": "import iptrec.a"}
    assert circles(graph(three)) == {"iptrec.a", "iptrec.b", "iptrec.d"}


LONGEST_MODULE = 450  # lines
LONGEST_CLASS = 300


def too_long(name, source):
    """What is too long of a module: itself, and its classes."""
    if source.count("\n") > LONGEST_MODULE:
        yield name
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.end_lineno - node.lineno >= LONGEST_CLASS:
            yield f"{name}:{node.name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_too_long(path):
    assert list(too_long(path.name, path.read_text())) == []


def test_what_is_too_long_is_found():
    """The test above can fail."""
    body = "    x = 1\n" * LONGEST_CLASS
    assert list(too_long("a.py", f"class A:\n{body}")) == ["a.py:A"]
    assert list(too_long("a.py", f"class A:\n{body[:-10]}")) == []
    assert list(too_long("a.py", "x = 1\n" * LONGEST_MODULE)) == []
    assert list(too_long("a.py", "x = 1\n" * (LONGEST_MODULE + 1))) == ["a.py"]


@pytest.mark.parametrize("path", [one for one in MODULES if home_of(one) == "cli"], ids=str)
def test_commands_import_inside_their_functions(path):
    """At its top a command imports the command line alone (and types, which cost nothing).

    Interrupts are there already: whoever starts it cares for them first.
    """
    tops = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    for name in imports(tops):
        assert not name.startswith("iptrec.") or name.startswith(
            (
                "iptrec.cli.",
                "iptrec.errors.",
                "iptrec.names.",
                "iptrec.version.",
                "iptrec.interrupts",
            )
        ), name


AUDIT = """\
import sys
def hook(event, args):
    if event.startswith(("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system")):
        raise SystemExit(event)
    if event == "open" and args[1] and set(args[1]) & set("wax+"):
        raise SystemExit(f"{event}: {args}")
sys.addaudithook(hook)
from iptrec.cli import app
app(sys.argv[1:], standalone_mode=False)
found = {"pyroute2", "sqlite_utils", "iptrec.kernel", "iptrec.recorder.session"} & set(sys.modules)
sys.exit(f"imported: {found}" if found else 0)
"""
SAMPLE = str(ROOT / "samples" / "docker_hairpin.db")
SHOWN = "DOCKER-ISOLATION-STAGE-2"


def audited(*arguments):
    """Run iptrec under an audit hook: (exit status, stderr, stdout)."""
    # -B: compiled modules would be files, too
    done = subprocess.run(
        [sys.executable, "-B", "-c", AUDIT, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr, done.stdout


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["show"], SHOWN),
        (["show", "--json"], SHOWN),
        (["show", "--follow"], SHOWN),
        (["show", "--iface", "hairpin-8-2"], SHOWN),
        (["show", "--verdict", "DROP", "--", "tcp port 1242"], SHOWN),  # loads libpcap
        (["info"], "1 DROP"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_analysis_is_offline(options, shown):
    """No socket, no process, no file written, no pyroute2, no sqlite-utils, no kernel code."""
    command, *more = options
    status, errors, output = audited(command, SAMPLE, *more)
    assert (status, errors) == (0, "")
    assert shown in output


@pytest.mark.parametrize(
    "deed",
    ["import socket; socket.socket()", "import os; os.fork()", "open('/dev/null', 'w')"],
)
def test_the_audit_refuses(deed):
    """The test above can fail: each of these ends the process."""
    done = subprocess.run(
        [sys.executable, "-c", AUDIT.replace("from iptrec.cli import app", deed)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_help_is_light():
    """`iptrec --help` loads no command, and nothing heavy."""
    code = (
        "import sys\nfrom iptrec.cli import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'pyroute2', 'sqlite_utils', 'sqlite3', 'backports', 'rich'} & set(sys.modules)\n"
        "ours = {one for one in sys.modules if one.startswith('iptrec.')}\n"
        "light = {'cli', 'cli.commands', 'cli.help_', 'errors', 'version'}\n"
        "sys.exit(str(heavy | ours - {f'iptrec.{one}' for one in light} or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert "record" in done.stdout


def test_show_is_light():
    """`iptrec show` loads what reads and prints a recording, and no more."""
    code = (
        "import sys\nfrom iptrec.cli import app\n"
        f"app(['show', {SAMPLE!r}], standalone_mode=False)\n"
        "heavy = {'rich', 'pyarrow', 'dpkt', 'numpy.ma', 'gzip', 'iptrec.views.pcapng', 'iptrec.views.tables',"
        " 'iptrec.views.templates', 'iptrec.answers.nothing', 'iptrec.answers.summary', 'iptrec.cli.record',"
        " 'iptrec.cli.export'}\n"
        "sys.exit(str(heavy & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert SHOWN in done.stdout


def test_every_backend_has_a_name():
    """The one that `doctor` says."""
    assert set(BACKEND_NAMES) == set(get_args(Backend))
