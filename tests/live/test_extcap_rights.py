"""A user's Wireshark captures by real sudo or real polkit, as the rules that are shipped allow, and no more."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from command import IPTREC
from recorder import packets, processes, until
from rights import ROOT, installed
from users import PROGRAM, UID, User
from wiresharks import FILTER, RULES, records, send, traced

pytestmark = [pytest.mark.live, pytest.mark.cold, ROOT]
TREE = Path(__file__).parents[2]
SUDOERS = (TREE / "packaging/sudo/iptrec-wireshark").read_text().replace("/usr/bin/iptrec", PROGRAM)
PAGE = (TREE / "docs/wireshark.md").read_text()
POLKIT = re.search(r"```\n(polkit\.addRule.*?)```", PAGE, re.DOTALL)[1]
WAYS = {"sudo": (SUDOERS, None), "pkexec": ("", POLKIT)}
NEEDED = {"sudo": ["sudo", "tshark"], "pkexec": ["pkexec", "dbus-daemon", "tshark"]}
INSTALL = f"{' '.join(IPTREC)} extcap install >/dev/null"
CAPTURE = f"exec tshark -Q -i iptrec -f '{FILTER}' -w a.pcapng"


@pytest.fixture(params=WAYS)
def user(request, labs, tmp_path):  # noqa: ARG001 - skips
    return made(tmp_path, request.param)


def made(tmp_path, way):
    for program in NEEDED[way]:
        if not installed(program):
            pytest.skip(f"{program}: not found; tools/system-packages tests installs it")
    if way == "pkexec" and not Path("/usr/lib/polkit-1/polkitd").exists():
        pytest.skip("polkitd: not found; install the package polkitd")
    (tmp_path / "place").mkdir()
    return User(tmp_path / "place", *WAYS[way])


def started(lab, user, script):
    return lab.popen(
        user.command("sh", "-c", script), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def capturing(lab, user, *more):
    """A tshark of the user's whose recorder, root's, traces."""
    child = started(lab, user, f"{INSTALL}; {CAPTURE} {' '.join(more)}")
    until(lambda: child.poll() is not None or records(lab), "it does not record")
    assert child.poll() is None, child.communicate()
    return child


def test_the_page_has_the_rule_that_is_shipped():
    (line,) = [one for one in SUDOERS.splitlines() if not one.startswith("#")]
    assert line.replace(PROGRAM, "/usr/bin/iptrec") in PAGE


def test_a_capture(lab, user, backend):
    """Packets, their rules, and the recording that is kept, as a file of the user's."""
    lab.restore(None, "ipv4", RULES, backend)
    before = processes(lab)
    child = capturing(
        lab,
        user,
        "-c",
        "4",
        f"-o extcap.iptrec.backend:{backend}",
        "-o extcap.iptrec.output:/mnt/home/kept.db",
    )
    send(lab, 9, 10)
    _, said = child.communicate(timeout=60)
    assert "Error" not in said
    until(lambda: processes(lab) == before)
    assert not traced(lab)
    kept = user.place / "home" / "kept.db"
    assert kept.stat().st_uid == UID
    assert [one.verdict for one in packets(kept)] == ["ACCEPT", "DROP", "ACCEPT", "ACCEPT"]
    assert b"DROP by filter/INPUT rule 1" in (user.place / "home" / "a.pcapng").read_bytes()


SHOW = "-l -c 8 -Y 'iptrec.verdict == \"DROP\"' -T fields -e iptrec.decided_by -e iptrec.decided_by.rule_text"


def test_fields_while_it_captures(lab, user):
    """The plugin that is installed beside it: a display filter finds the dropped ones, as they come."""
    lab.restore(None, "ipv4", RULES)
    child = started(lab, user, f"{INSTALL}; exec tshark -Q -i iptrec -f '{FILTER}' {SHOW}")
    until(lambda: child.poll() is not None or records(lab), "it does not record")
    for _ in range(2):
        send(lab, 10, 9)
        decided, text = child.stdout.readline().rstrip("\n").split("\t")
        assert decided == "filter/INPUT/1"
        assert "--dport 9 -j DROP" in text
    _, said = child.communicate(timeout=60)
    assert "Lua" not in said
    until(lambda: not traced(lab))


@pytest.mark.parametrize("number", ["INT", "KILL"])
def test_root_s_recorder_ends_with_the_user_s_tshark(lab, user, number):
    """No packet comes, and the user can signal nothing of root's."""
    before = processes(lab)
    # The shell stays, so that nothing ends because its namespace does.
    kill = f"read -r _; kill -{number} $pid; echo killed; wait; read -r _"
    child = lab.popen(
        user.command("sh", "-c", f"{INSTALL}; ({CAPTURE}) & pid=$!; {kill}"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until(lambda: records(lab), "it does not record")
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline() == "killed\n"
    until(lambda: not traced(lab), "rules are left")
    until(lambda: not [pid for pid in processes(lab) - before if b"extcap" in words(pid)])
    child.communicate("\n", timeout=60)
    until(lambda: processes(lab) == before)


def words(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def test_who_is_not_allowed_is_told(lab, tmp_path):
    """At once, in a line, without being asked for anything."""
    WAYS["none"], NEEDED["none"] = ("", None), NEEDED["sudo"]
    child = started(lab, made(tmp_path, "none"), f"{INSTALL}; {CAPTURE}")
    _, said = child.communicate(timeout=60)
    (line,) = [one for one in said.splitlines() if "Error by extcap pipe" in one]
    assert "iptrec: capturing needs root: have sudo or polkit allow you" in line
    assert "password" not in said
    assert not traced(lab)


NOT_ALLOWED = [
    "iptrec trace --pcapng - -- id",
    "iptrec extcap install --system",
    "iptrec extcap --capture --fifo /mnt/home/f --extcap-interface iptrec",
    "iptrec extcap capture --netns -- --filter id",
    "iptrec extcap capture --filter id --iface --",
    "iptrec extcap capture -- id",
    "iptrec show -o /mnt/home/x /etc/shadow",
    "iptrec --version",
]


def test_nothing_else_is_allowed(lab, user):
    """Neither a command of the user's, nor a file."""
    sudo = user.place.joinpath("sudoers").read_text().endswith(SUDOERS)
    by = "sudo -n" if sudo else "pkexec --disable-internal-agent"
    lines = (
        f"{by} {line.replace('iptrec', PROGRAM, 1)} </dev/null | cat; echo -"
        for line in NOT_ALLOWED
    )
    child = started(lab, user, "; ".join(lines))
    printed, said = child.communicate(timeout=100)
    assert printed == "-\n" * len(NOT_ALLOWED), said
    assert "uid=" not in said
    assert not traced(lab)
    assert [one.name for one in (user.place / "home").iterdir()] == []


@pytest.mark.parametrize(
    "path", ["/mnt/kept.db", "/etc/cron.d/x", "/mnt/home/link/x", "/mnt/home/../x", "/nope/x"]
)
def test_a_file_of_root_s_is_not_written(lab, user, path):
    """--output is made with the rights of the user, whoever records: not beside root's files, by no way."""
    link = "ln -s /mnt link"
    child = started(lab, user, f"{INSTALL}; {link}; {CAPTURE} -o extcap.iptrec.output:{path}")
    _, said = child.communicate(timeout=60)
    (line,) = [one for one in said.splitlines() if "Error by extcap pipe" in one]
    assert "cannot create" in line or "cannot open" in line, line
    assert "Permission denied" in line or "No such file" in line
    assert not (user.place / "kept.db").exists()
    assert not (user.place / "x").exists()


@pytest.mark.parametrize("path", ["/etc/shadow", "/proc/1/environ", "/mnt/home/f"])
def test_a_path_is_not_tried_out(lab, user, path):
    """Whether it is there, nobody learns by --netns."""
    child = started(lab, user, f"{INSTALL}; {CAPTURE} -o extcap.iptrec.netns:{path}")
    _, said = child.communicate(timeout=60)
    (line,) = [one for one in said.splitlines() if "Error by extcap pipe" in one]
    assert f"--netns '{path}': give a name of ip netns, a pid, or /proc/PID/ns/net" in line
