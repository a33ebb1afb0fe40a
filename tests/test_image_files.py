"""The files that an image is made of, and the manifests that start it, fit the package and its options.

tests/image builds and runs them: make image.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
import tomllib
from pathlib import Path

import documents
import pytest
import yaml
from typer.main import get_command

from iptrec.cli import app

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "packaging/Dockerfile").read_text()
MANIFEST = ROOT / "packaging/kubernetes/iptrec.yaml"
RUNS = [
    one for one in documents.lines_that_run("elsewhere") if one.programs & {"docker", "kubectl"}
]


def let_in():
    """What .dockerignore lets into the context."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    return [one[1:] for one in lines if one.startswith("!")]


def wheel():
    """What the wheel is made of, as pyproject.toml names it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    target = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    yield from (
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
    )
    yield from target["packages"]
    yield from (*target.get("shared-data", {}), *target.get("force-include", {}))


@pytest.mark.parametrize("name", [*wheel()])
def test_the_context_has_what_the_wheel_is_made_of(name):
    """Who adds something to the wheel adds it here."""
    assert (ROOT / name).exists()
    parents = [name, *map(str, Path(name).parents)]
    assert any(fnmatch.fnmatch(one, pattern) for one in parents for pattern in let_in())


def test_the_context_has_nothing_that_is_not_there():
    """A name that is gone would be let in for ever."""
    assert [one for one in let_in() if not (ROOT / one).exists()] == []


def test_the_image_has_what_the_recorder_runs():
    """The packages of tools/system-packages that are not for the demo, and no index of this machine."""
    (final,) = re.findall(r"\nFROM \S+\n(.*)", DOCKERFILE.replace("\\\n", ""), re.DOTALL)
    installed = re.search(r"--no-install-recommends([^&]*)", final)[1].split()
    assert installed == ["iproute2", "iptables", "libpcap0.8", "nftables", "python3"]
    assert 'ENTRYPOINT ["iptrec"]' in final
    assert not re.search(r"PIP_|index-url|trusted-host|proxy", DOCKERFILE, re.IGNORECASE)


def understood(words):
    """Every option is there, with a value that it takes; nothing is run."""
    root = get_command(app)
    context = root.make_context("iptrec", [*words])
    name, command, rest = root.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("line", RUNS, ids=lambda line: line.text)
def test_lines_that_run_it_are_understood(line):
    """What stands behind the image's name in docker run, and behind -- in kubectl debug."""
    words = " ".join(line.commands[0]).partition(" < ")[0].split()
    if words[:2] in (["docker", "run"], ["kubectl", "debug"]):
        understood(words[len(words) - words[::-1].index("iptrec") :])
    elif words[:2] == ["docker", "build"]:
        assert (ROOT / words[words.index("-f") + 1]).is_file()
    elif words[:2] == ["kubectl", "apply"]:
        assert (ROOT / words[words.index("-f") + 1]) == MANIFEST
    else:
        assert words[:2] in (["kubectl", "exec"], ["kubectl", "cp"])


@pytest.fixture(scope="module")
def pod():
    """The pod of the DaemonSet."""
    _, daemons = yaml.safe_load_all(MANIFEST.read_text())
    assert daemons["kind"] == "DaemonSet"
    template = daemons["spec"]["template"]
    assert template["metadata"]["labels"] == daemons["spec"]["selector"]["matchLabels"]
    return template["spec"]


def test_the_recorder_has_few_rights(pod):
    """Those that docs/image.md names; what is privileged has ended before."""
    (recorder,) = pod["containers"]
    rights = recorder["securityContext"]
    assert rights.get("privileged", False) is rights["allowPrivilegeEscalation"] is False
    assert rights["readOnlyRootFilesystem"] is True
    assert rights["capabilities"]["drop"] == ["ALL"]
    page = (ROOT / "docs/image.md").read_text()
    assert f"has {', '.join(rights['capabilities']['add'])}".replace(", PERF", " and PERF") in page
    assert [one["name"] for one in pod["initContainers"]] == ["logger"]


def test_what_the_recorder_runs_is_understood(pod):
    """By a shell, then by iptrec; the variable of the name is there."""
    (recorder,) = pod["containers"]
    lines = recorder["args"][0].split("; ")
    assert lines[0] == "iptrec cleanup"
    words = shlex.split(lines[1])
    assert words[:3] == ["exec", "iptrec", "record"]
    understood(words[2:])
    named = re.findall(r"\$(\w+)", lines[1])
    assert {*named} <= {one["name"] for one in recorder["env"]}


def test_volumes(pod):
    """Each is mounted; the lock is a file, or every iptables of the node would fail."""
    (recorder,) = pod["containers"]
    volumes = {one["name"]: one for one in pod["volumes"]}
    mounts = {one["name"]: one["mountPath"] for one in recorder["volumeMounts"]}
    assert mounts.keys() == volumes.keys()
    assert volumes["lock"]["hostPath"] == {"path": mounts["lock"], "type": "FileOrCreate"}
    assert recorder["workingDir"] == mounts["recordings"]


def test_one_version_and_one_image(pod):
    """Of all containers, and that of the package."""
    (image,) = {one["image"] for one in (*pod["containers"], *pod["initContainers"])}
    from iptrec.version import __version__

    assert image.endswith(f"/iptrec:{__version__}")
