"""`iptrec extcap` as Wireshark calls it, and as nobody should."""

from __future__ import annotations

import os
import subprocess

import pytest
from command import iptrec, program
from rights import ROOT

OURS = ("--extcap-interface", "iptrec")
ERRORS = {
    "other interface": (["--extcap-dlts", "--extcap-interface", "eth0"], "--extcap-interface 'eth0'"),
    "no interface": (["--extcap-config"], "--extcap-interface ''"),
    "no pipe": ([*OURS, "--capture"], "--capture needs --fifo PIPE"),
    "no such pipe": ([*OURS, "--capture", "--fifo", "/nope/f"], "cannot open /nope/f"),
    "a file": ([*OURS, "--capture", "--fifo", "/etc/passwd"], "--fifo /etc/passwd is not a fifo"),
    "no pipe as stdout": (["capture", "-o", "/dev/null"], "stdout is not a pipe"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    arguments, message = ERRORS[case]
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123
        done = program_into(nothing, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def program_into(stdout, *arguments):
    from warm import IPTREC

    return subprocess.run(
        [*IPTREC, "extcap", *arguments],
        stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip


def test_interfaces():
    done = iptrec("extcap", "--extcap-interfaces", "--extcap-version=4.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["extcap", "interface"]


def test_options():
    """A namespace is among them at least; one option alone as well."""
    done = iptrec("extcap", *OURS, "--extcap-config")
    assert (done.returncode, done.stderr) == (0, "")
    assert "value {arg=0}{value=}{display=this one}{default=true}" in done.stdout
    again = iptrec("extcap", *OURS, "--extcap-config", "--extcap-reload-option", "netns").stdout
    assert again
    assert set(again.splitlines()) <= {*done.stdout.splitlines(), *again.splitlines()}
    assert all(line.startswith("value {arg=0}") for line in again.splitlines())


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_sentences_are_utf8(locale):
    """Wireshark passes over what is not."""
    done = program(
        "extcap", *OURS, "--extcap-dlts", env={"LC_ALL": locale, "PATH": os.environ["PATH"]}
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("good", ["", " ", "tcp port 443", "icmp or icmp6", "host 10.0.0.1"])
def test_a_right_filter(good):
    """Nothing is said: Wireshark's field becomes green."""
    done = iptrec("extcap", *OURS, "--extcap-capture-filter", good)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "bad",
    [
        "tcp port",
        "foo",
        "tcp and udp",
        "ether host 1:2:3:4:5:6",
        "tcp\nport \x1b[31m",
        "x" * 70_000,
    ],
)
def test_a_wrong_filter(bad):
    """One line on stdout, in characters that can be shown; the status says that it was asked rightly."""
    done = iptrec("extcap", *OURS, "--extcap-capture-filter", bad)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    assert "filter" in done.stdout
    assert "\x1b" not in done.stdout
    assert len(done.stdout) < 1000


@pytest.mark.parametrize(
    "arguments",
    [["install", "--system"], ["--extcap-interfaces"], ["uninstall"], ["--capture", "--fifo", "f"]],
)
def test_pkexec_runs_one_command(arguments, monkeypatch):
    """Rules of polkit name the word "extcap" at most, not what comes after it."""
    monkeypatch.setenv("PKEXEC_UID", "1000")
    done = iptrec("extcap", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("iptrec: pkexec runs iptrec extcap capture alone")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--netns", "--", "--filter", "id"],
        ["--filter", "id", "--iface", "--"],
        ["--", "id"],
        ["--output", "--"],
    ],
)
def test_capture_runs_no_command(arguments):
    """What `trace` would take for one, a rule of sudo's gives to nobody."""
    done = program("extcap", "capture", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no --" in done.stderr or "unexpected extra argument" in done.stderr


@ROOT
def test_a_user_s_folders_are_not_root_s_business(monkeypatch):
    """Without --system it would leave files of root's in a home, or in root's."""
    monkeypatch.setenv("SUDO_UID", "1234")
    done = iptrec("extcap", "install")
    assert (done.returncode, done.stdout) == (2, "")
    assert "without sudo, or with --system" in done.stderr


def test_install_and_uninstall(tmp_path, monkeypatch):
    """--dest: the program, where somebody wants it; uninstall knows where."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.delenv("SUDO_UID", raising=False)
    path = tmp_path / "extcap" / "iptrec"
    done = iptrec("extcap", "install", "--dest", tmp_path / "extcap")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}\n", "")
    assert os.access(path, os.X_OK)
    done = iptrec("extcap", "install", "--dest", tmp_path / "extcap")
    assert done.stdout == f"{path}: there already\n"
    assert iptrec("extcap", "uninstall").stdout == f"removed {path}\n"
    assert not path.parent.exists()
    done = iptrec("extcap", "uninstall")
    assert (done.returncode, done.stderr) == (0, "iptrec extcap: nothing is installed\n")


def test_without_a_word():
    """Help, and that nothing was done."""
    done = iptrec("extcap")
    assert done.returncode == 2
    assert "iptrec extcap install" in done.stdout
