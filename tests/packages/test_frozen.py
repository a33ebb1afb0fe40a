"""The tree of the .deb, the .rpm and the single file has all that iptrec loads (packaging/pyinstaller)."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from roots import copied, installed

import iptrec
from iptrec.cli import app

PACKAGE = Path(iptrec.__file__).parent
SAMPLES = "/usr/share/iptrec/samples"
# Extras of the wheel, pytest's plugin, and what Python has since 3.14.
OPTIONAL = {"pyarrow", "duckdb", "chdb", "pyspark", "py4j", "pytest", "compression", "IPython"}
LOADS = """\
import importlib, json, sys
failed = {}
for module, name in json.load(sys.stdin):
    try:
        if not (name and hasattr(importlib.import_module(module), name)):
            importlib.import_module(f"{module}.{name}" if name else module)
    except Exception as error:
        failed[f"{module} {name}"] = repr(error)
print(json.dumps(failed))
"""
# With what a recording looks at besides: a bridge, connections.
RECORDED = """\
set -e
ip link set lo up
ip link add br0 type bridge
iptables-legacy -A INPUT -p udp --dport 9 -j DROP
nft 'add table inet fw; add chain inet fw in { type filter hook input priority 1; }'
nft add rule inet fw in udp dport 10 drop
iptrec record --backend $1 --conntrack -o /root/$1.db udp -- bash -c "echo > /dev/udp/127.0.0.1/$2"
iptrec show /root/$1.db
"""


def imported():
    """What iptrec's modules import, anywhere in them: (module, name or None)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        own = ".".join(("iptrec", *path.relative_to(PACKAGE).with_suffix("").parts))
        yield own.removesuffix(".__init__"), None
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((one.name, None) for one in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((node.module, one.name) for one in node.names)


def commands(command, above=()):
    """The words of each command."""
    yield above
    for name, one in getattr(command, "commands", {}).items():
        yield from commands(one, (*above, name))


def optional(module):
    """Whether a module need not be there."""
    return module.partition(".")[0] in OPTIONAL or module in {
        "iptrec.pytest_plugin",
        "iptrec.__main__",
    }


@pytest.fixture(scope="module")
def root(bases, made, tmp_path_factory):
    """A Debian with the .deb and what it recommends."""
    with copied(bases("bookworm"), tmp_path_factory.mktemp("frozen")) as root:
        installed(root, made)
        yield root


def test_every_module_loads(root):
    asked = json.dumps(sorted({one for one in imported() if not optional(one[0])}, key=str))
    assert '["pyroute2", "IPRoute"]' in asked
    here = subprocess.run(
        [sys.executable, "-I", "-c", LOADS], input=asked, capture_output=True, text=True, check=True
    )
    for_types_only = json.loads(here.stdout)
    there = json.loads(root.run("iptrec", "-I", "-c", LOADS, text=asked).stdout)
    assert {one: why for one, why in there.items() if one not in for_types_only} == {}


def test_every_command_has_its_help(root):
    """And is there: what is loaded with it, is."""
    for one in commands(typer.main.get_command(app)):
        done = root.run("iptrec", *one, "--help")
        assert done.stdout.startswith("Usage: iptrec"), one
        assert done.stderr == ""


def test_doctor_and_cleanup(root):
    """With a bridge, of which doctor asks by pyroute2."""
    script = 'ip link add br0 type bridge; iptrec doctor "$@"; echo "status $?"; iptrec cleanup'
    for arguments in ((), ("--json",)):
        done = root.run("sh", "-c", script, "sh", *arguments)
        assert done.stderr == ""
        assert "status 2" not in done.stdout
        assert "senders" in done.stdout


@pytest.mark.parametrize(("backend", "port"), [("legacy", "9"), ("nft", "10")])
def test_record(root, backend, port):
    done = root.run("bash", "-c", RECORDED, "bash", backend, port, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "=> DROP" in done.stdout


def test_what_the_tree_does_not_have(root):
    """An error is one line, and pip is no advice for this tree."""
    sample = f"{SAMPLES}/docker_hairpin.db"
    done = root.run("iptrec", "export", "parquet", sample, "-o", "/root/tables", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "iptrec: export parquet needs pyarrow, which this build of iptrec"
    )
    assert done.stderr.count("\n") == 1
