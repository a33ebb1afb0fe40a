"""The map of the code holds: who may import whom, and what `show` never touches."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "iptrec"
MAY_IMPORT = {
    "errors": set(),
    "kernel": {"kernel"},
    "recording": {"recording"},
    "decode": {"decode"},
    "recorder": {"kernel", "recording"},
    "analyze": {"analyze", "recording.rows", "decode"},
    "views": {"views", "analyze", "decode", "recording.rows"},
}
HOMES = {
    "pyroute2": {"kernel"},
    "sqlite3": {"recording"},
    "sqlite_utils": {"recording"},
    "typer": {"cli"},
    "rich": {"cli", "views"},
    "dpkt": {"decode"},
    "socket": {"kernel"},
    "subprocess": {"kernel", "recorder", "cli"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """All names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_map(path):
    """A module imports only what its package may; each third party has one home."""
    home = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imports(path):
        first, _, rest = name.partition(".")
        if first in HOMES:
            assert home in HOMES[first], f"{name} does not belong in {home}"
        if (
            first != "iptrec"
            or home not in MAY_IMPORT
            or not rest
            or rest.startswith(("errors", "__"))
        ):
            continue
        allowed = MAY_IMPORT[home]
        assert any(rest == one or rest.startswith(f"{one}.") for one in allowed) or any(
            one.startswith(f"{rest}.") for one in allowed
        ), f"{home} imports {name}"


AUDIT = """\
import sys
def hook(event, args):
    if event.startswith("socket.") and event not in ("socket.gethostname",):
        raise SystemExit(f"socket: {event}")
sys.addaudithook(hook)
from iptrec.cli import app
app(sys.argv[1:], standalone_mode=False)
found = {"pyroute2", "sqlite_utils", "iptrec.kernel"} & set(sys.modules)
sys.exit(f"imported: {found}" if found else 0)
"""


@pytest.mark.parametrize("arguments", [[], ["--json"], ["tcp port 1242"]])
def test_show_opens_no_socket_and_imports_no_kernel(arguments):
    """`iptrec show` works anywhere: no pyroute2, no sqlite-utils, no socket."""
    sample = str(ROOT / "samples" / "docker_hairpin.db")
    done = subprocess.run(
        [sys.executable, "-c", AUDIT, "show", sample, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "DOCKER-ISOLATION-STAGE-2" in done.stdout


def test_help_is_light():
    """`iptrec --help` loads nothing heavy."""
    code = (
        "import sys\nfrom iptrec.cli import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'pyroute2', 'sqlite_utils', 'sqlite3', 'zstandard', 'dpkt'}\n"
        "sys.exit(str(heavy & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
    assert "record" in done.stdout
