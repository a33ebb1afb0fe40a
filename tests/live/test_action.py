"""The GitHub Action, as a runner runs it: each step's script under bash, inputs put in as GitHub does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import documents
import pytest
import yaml

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
RULES = {
    "legacy": "iptables-legacy -A OUTPUT -p udp --dport 7 -m comment --comment closed -j DROP",
    "nft": "nft add table ip f; nft add chain ip f OUTPUT '{ type filter hook output priority 0; }';"
    " nft add rule ip f OUTPUT udp dport 7 counter drop comment closed",
}
SEND = "for i in 1 2 3; do echo x > /dev/udp/127.0.0.1/7 || true; done"
EXPECTED = """
[[expect]]
name = "port 7 is closed"
filter = "udp dst port 7"
verdict = "VERDICT"
"""


class Runner:
    """What GitHub's runner does with a composite action; in the lab, where iptrec is installed already."""

    def __init__(self, lab, place):
        self._lab = lab
        self.place = place
        self.summary = place / "summary.md"
        self.summary.touch()
        self.said = ""
        environment = place / "temp" / "iptrec" / "bin"
        environment.mkdir(parents=True)
        for name in ("python", "iptrec"):
            script = environment / name
            words = '-c "from iptrec.__main__ import main; main()" ' if name == "iptrec" else ""
            script.write_text(f'#!/bin/sh\nexec {sys.executable} {words}"$@"\n')
            script.chmod(0o755)

    def run(self, **inputs):
        """The status of the step that fails, or 0; and the action's outputs."""
        unknown = inputs.keys() - ACTION["inputs"].keys()
        assert not unknown
        required = {name for name, one in ACTION["inputs"].items() if one.get("required")}
        assert required <= inputs.keys()
        defaults = {name: one.get("default", "") for name, one in ACTION["inputs"].items()}
        context = {f"inputs.{name}": value for name, value in (defaults | inputs).items()}
        for number, step in enumerate(ACTION["runs"]["steps"]):
            if step["name"] == "Install iptrec":
                continue
            status, outputs = self._step(number, step, context)
            if "id" in step:
                context |= {
                    f"steps.{step['id']}.outputs.{name}": one for name, one in outputs.items()
                }
            if status:
                break
        told = {name: substituted(one["value"], context) for name, one in ACTION["outputs"].items()}
        return status, told

    def _step(self, number, step, context):
        script, output = self.place / f"{number}.sh", self.place / f"{number}.output"
        script.write_text(substituted(step["run"], context))
        output.touch()
        environment = {
            **os.environ,
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "RUNNER_TEMP": str(self.place / "temp"),
            **{name: substituted(value, context) for name, value in step["env"].items()},
        }
        words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        with self._lab.popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as child:
            said, _ = child.communicate(timeout=120)
        self.said += said
        return child.returncode, parsed(output.read_text())


def substituted(text, context):
    """${{ NAME }} is replaced by what it stands for, before anything else is done with a text."""
    return re.sub(r"\$\{\{ *([\w.]+) *\}\}", lambda found: context.get(found[1], ""), text)


def parsed(text):
    """The outputs of a step, a line each."""
    assert "<<" not in text
    return dict(line.split("=", 1) for line in text.splitlines())


@pytest.fixture
def runner(lab, tmp_path, backend, monkeypatch):
    lab.run(["sh", "-c", RULES[backend]])
    monkeypatch.chdir(tmp_path)
    yield Runner(lab, tmp_path)
    assert "iptrec" not in lab.run(["sh", "-c", "iptables-legacy-save; nft list ruleset"]).stdout


def test_github_takes_it():
    """By the schema of composite actions, as check-jsonschema has it."""
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.github-actions"]
    done = subprocess.run(
        [sys.executable, *words, ROOT / "action.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    broken = subprocess.run(
        [sys.executable, *words, "-"], input="name: x\nruns: {using: composite}\n",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert broken.returncode == 1


def test_the_page_is_true():
    """The steps of docs/github-action.md: its inputs and outputs are the action's, all in its tables."""
    ((_, block),) = documents.of_kind("workflow")
    steps = yaml.safe_load(block)
    (ours,) = (step for step in steps if step.get("id") == "iptrec")
    assert ours["with"].keys() <= ACTION["inputs"].keys()
    page = (ROOT / "docs" / "github-action.md").read_text()
    used = re.findall(r"steps\.iptrec\.outputs\.(\w+)", block)
    assert {*used} <= ACTION["outputs"].keys()
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted([*ACTION["inputs"], *ACTION["outputs"]])


def test_no_input_is_part_of_a_script():
    """Inputs, which may be a stranger's, are environment alone, and each of them is used."""
    steps = ACTION["runs"]["steps"]
    assert not [step for step in steps if "${{" in step["run"]]
    used = re.findall(r"inputs\.(\w+)", json.dumps([step["env"] for step in steps]))
    assert {*used} == ACTION["inputs"].keys()


def test_what_was_recorded_is_told(runner, backend):
    """Outputs and a summary: the counts, and why packets were dropped."""
    status, told = runner.run(command=SEND, filter="udp", backend=backend)
    assert status == 0, runner.said
    assert told["recording"] == str(runner.place / "iptrec.db")
    assert (told["packets"], told["dropped"], told["accepted"], told["rejected"]) == (
        "3",
        "3",
        "0",
        "0",
    )
    assert json.loads(told["verdicts"]) == {"DROP": 3}
    assert (told["lost"], told["expected"]) == ("0", "")
    summary = runner.summary.read_text()
    assert "| DROP | 3 |" in summary
    assert summary.count("### Packet") == 1  # of the rule that dropped them
    assert re.search(r"#1 +.*dport 7.*closed", summary)


@pytest.mark.parametrize("verdict", ["DROP", "ACCEPT"])
def test_expectations(runner, backend, verdict):
    """A job fails where they do, with the packet and the rule; JUnit is written in any case."""
    (runner.place / "expect.toml").write_text(EXPECTED.replace("VERDICT", verdict))
    inputs = {"expectations": "expect.toml", "junit": "junit.xml", "backend": backend}
    status, told = runner.run(command=SEND, filter="udp dst port 7", **inputs)
    case = ET.parse(runner.place / "junit.xml").find("testcase")  # noqa: S314
    failed = case.find("failure")
    if verdict == "DROP":
        assert (status, told["expected"], failed) == (0, "true", None)
        assert "ok   port 7 is closed: 3 packets" in runner.summary.read_text()
        return
    assert (status, told["expected"]) == (1, "false")
    flow = r"udp 127\.0\.0\.1:\d+ > 127\.0\.0\.1:7"
    assert re.search(rf"expected ACCEPT \({flow}\)", failed.get("message"))
    assert re.search(rf"DROP {flow} .*rule 1: .*dport 7", failed.text)
    assert re.search(
        "^::error title=iptrec::FAIL port 7 is closed: packet #1 ", runner.said, re.MULTILINE
    )
    assert "FAIL port 7 is closed: packet #1 is DROP" in runner.summary.read_text()


def test_a_percent_sign_is_part_of_the_name(runner, backend):
    """`record` takes it for a date otherwise, and nobody would find the file."""
    name = 'a "b $(touch PWN) %Y%%.db'
    status, told = runner.run(command=SEND, filter="udp", recording=name, backend=backend)
    assert status == 0, runner.said
    assert (told["recording"], told["packets"]) == (str(runner.place / name), "3")
    assert [one.name for one in runner.place.glob("*.db")] == [name]


def only_error(said):
    """The one annotation; no traceback."""
    assert "Traceback" not in said
    (found,) = re.findall(r"^::error title=iptrec::(.*)", said, re.MULTILINE)
    return found


@pytest.mark.parametrize(
    ("text", "junit", "reason"),
    [
        (None, "", r"cannot open .*/expect\.toml: No such file or directory"),
        ("[[expect", "", r"\S*/expect\.toml is not TOML: .*"),
        (EXPECTED.replace("VERDICT", "DROP"), "/nowhere/junit.xml", r".*/nowhere.*"),
    ],
)
def test_what_cannot_be_checked(runner, backend, text, junit, reason):
    """The job fails and says why; what was recorded is told all the same."""
    if text is not None:
        (runner.place / "expect.toml").write_text(text)
    inputs = {"expectations": "expect.toml", "junit": junit, "backend": backend}
    status, told = runner.run(command=SEND, filter="udp", **inputs)
    assert status == 2, runner.said
    assert re.fullmatch(reason, only_error(runner.said))
    assert (told["packets"], told["dropped"], told["expected"]) == ("3", "3", "")
    summary = runner.summary.read_text()
    assert "| DROP | 3 |" in summary
    assert re.search(reason, summary)


@pytest.mark.parametrize("backend", ["nft"], indirect=True)
@pytest.mark.parametrize("expectations", ["", "expect.toml"])
@pytest.mark.parametrize("damaged", [False, True], ids=["gone", "damaged"])
def test_a_recording_that_cannot_be_read(runner, expectations, damaged):
    """Whatever happened to it after it was made."""
    (runner.place / "expect.toml").write_text(EXPECTED.replace("VERDICT", "DROP"))
    path = runner.place / "a.db"
    if damaged:
        path.write_text("no recording")
    (number,) = (at for at, one in enumerate(ACTION["runs"]["steps"]) if one.get("id") == "report")
    context = {"inputs.expectations": expectations, "steps.record.outputs.status": "0"}
    context["steps.record.outputs.recording"] = str(path)
    status, told = runner._step(number, ACTION["runs"]["steps"][number], context)
    assert (status, told) == (2, {}), runner.said
    assert str(path) in only_error(runner.said)


def test_a_command_that_fails(runner, backend):
    """Its status is the job's; what it did is told before. pipefail and -e hold for it, as for every step."""
    status, told = runner.run(command=f"{SEND}\nfalse | true\necho never", backend=backend)
    assert status == 1
    assert "never" not in runner.said
    assert int(told["dropped"]) == 3
    assert "::error title=iptrec::the command ended with status 1" in runner.said


@pytest.mark.parametrize("backend", ["legacy"], indirect=True)
@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"filter": "prot tcp"}, "it cannot record: iptrec: filter"),
        ({"netns": "nowhere"}, "it cannot record: iptrec: .*nowhere"),
        ({"filter": "--flush"}, "filter: it begins with -"),
        ({"recording": "a\nb.db"}, "recording: it has several lines"),
        ({"recording": ""}, "recording: name a file"),
    ],
)
def test_wrong_inputs(runner, inputs, reason):
    """The job fails with the reason, and the command was not run."""
    status, _ = runner.run(command="touch run", **inputs)
    assert status == 2
    assert re.search(f"^::error title=iptrec::{reason}", runner.said, re.MULTILINE), runner.said
    assert not (runner.place / "run").exists()


@pytest.mark.parametrize("backend", ["legacy"], indirect=True)
@pytest.mark.parametrize("name", sorted({*ACTION["inputs"]} - {"command"}))
def test_no_input_is_run(runner, name):
    """Whatever it is: not by bash, and not as an option of iptrec."""
    for hostile in ("$(touch run)`touch run`'; touch run; '\"; touch run; #", "--output=run"):
        runner.run(command=SEND, **{name: hostile})
        assert not (runner.place / "run").exists(), hostile


def test_another_namespace(lab, runner, backend):
    """By its name of ip netns, with the command where the job is."""
    lab.host("far")
    command = "ip netns exec far ping -c1 127.0.0.1"
    status, told = runner.run(command=command, netns="far", filter="icmp", backend=backend)
    assert (status, told["packets"]) == (0, "4"), runner.said


def test_it_is_installed(tmp_path):
    """The step that installs, with a pip that notes what it is asked for."""
    place = tmp_path / "temp"
    tools = tmp_path / "tools"
    (tmp_path / "bin").mkdir()
    python3 = tmp_path / "bin" / "python3"
    copies = "".join(f'cp {tmp_path}/fake "$3/bin/{name}"\n' for name in ("python", "iptrec"))
    python3.write_text(f'#!/bin/sh\nmkdir -p "$3/bin"\n{copies}')
    (tmp_path / "fake").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    tools.mkdir()
    (tools / "system-packages").write_text(f"#!/bin/sh\necho packages >> {tmp_path}/asked\n")
    for one in (python3, tmp_path / "fake", tools / "system-packages"):
        one.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "GITHUB_ACTION_PATH": str(tmp_path),
        "RUNNER_TEMP": str(place),
    }  # fmt: skip
    for version, asked in (("", str(tmp_path)), ("0.1.0", "iptrec==0.1.0"), ("$(touch x)", None)):
        (tmp_path / "asked").unlink(missing_ok=True)
        done = subprocess.run(
            [ROOT / "packaging" / "action" / "install"], env=environment | {"INPUT_VERSION": version},
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == (0 if asked else 2), done.stderr
        lines = (tmp_path / "asked").read_text().splitlines() if asked else []
        assert lines == (
            ["packages", f"-m pip install --quiet --disable-pip-version-check {asked}", "--version"]
            if asked
            else []
        )
