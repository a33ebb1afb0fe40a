"""iptables, through its own commands: rulesets out, our TRACE rules in and out again.

Each change is one transaction of ``iptables-legacy-restore --noflush`` under the xtables lock, or of
``iptables-nft-restore``. Loading the raw table of legacy iptables cannot be undone while the namespace lives
(the kernel has no call for it but removing the module): where it was not loaded before, an empty raw table
stays behind. In nf_tables what we brought into being goes away again (`nftables`).
"""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from iptrec.errors import HostError
from iptrec.kernel import process

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Family = Literal["ipv4", "ipv6"]
Backend = Literal["legacy", "nft"]

_COMMANDS: Final[dict[Family, str]] = {"ipv4": "iptables", "ipv6": "ip6tables"}
_TABLES: Final = ("raw", "mangle", "nat", "filter", "security")
_LOCK_WAIT_S: Final = 10
_EXIT_LOCKED: Final = 4  # man 8 iptables: resource problem, here the lock
_CHAINS: Final = ("PREROUTING", "OUTPUT")


@dataclass(frozen=True, slots=True)
class TraceRule:
    """One of our rules; its comment says whose it is."""

    family: Family
    chain: str  # PREROUTING or OUTPUT
    comment: str
    interface: str | None = None
    bytecode: str | None = None
    backend: Backend = "legacy"

    @property
    def spec(self) -> str:
        """The rule as iptables-restore reads it."""
        interface = ""
        if self.interface is not None:
            interface = f"-{'i' if self.chain == 'PREROUTING' else 'o'} {self.interface} "
        bpf = f'-m bpf --bytecode "{self.bytecode}" ' if self.bytecode else ""
        return f"{interface}{bpf}-m comment --comment {self.comment} -j TRACE"


def require(family: Family, backend: Backend = "legacy") -> None:
    """Raise `HostError` where the commands of iptables are missing."""
    for suffix in ("save", "restore"):
        _command(family, suffix, backend)


def save(
    family: Family,
    *,
    table: str | None = None,
    counters: bool = True,
    backend: Backend = "legacy",
    until: float | None = None,
) -> tuple[str, bytes]:
    """The command line and what it prints: all loaded tables (or one); ``until``: see `run`.

    In a namespace that was made together with its user namespace the list of loaded tables cannot be
    read (/proc/net/ip_tables_names belongs to the host's root): then every table is asked for, which
    loads it.
    """
    command = [_command(family, "save", backend), *(["-c"] if counters else [])]
    if table is not None:
        command += ["-t", table]
    done = run(command, until=until)
    if done.returncode and table is None and b"Failed to list table names" in done.stderr:
        return " ".join(command), b"".join(save(family, table=name)[1] for name in _TABLES)
    check(command, done)
    return " ".join(command), done.stdout


def insert(rules: Sequence[TraceRule], *, flush: bool = False) -> None:
    """Put the rules of one family at the top of their raw chains, after emptying these if asked."""
    lines = [f"-F {chain}" for chain in _CHAINS] if flush else []
    lines += [f"-I {rule.chain} 1 {rule.spec}" for rule in reversed(rules)]
    _restore(rules[0].family, lines, rules[0].backend)


def taken_out(family: Family, backend: Backend = "legacy") -> list[str]:
    """The rules that ``insert(flush=True)`` will take out, with counters, as `put_back` wants them."""
    _, text = save(family, table="raw", backend=backend)
    heads = tuple(f"-A {chain} " for chain in _CHAINS)
    lines = text.decode("utf-8", "surrogateescape").splitlines()
    return [line for line in lines if line.partition("] ")[2].startswith(heads)]


def remove(
    family: Family, comment: str, put_back: Iterable[str] = (), backend: Backend = "legacy"
) -> None:
    """Take out the rules with our comment, wherever they are by now, and put others back on top.

    ``put_back``: lines of `taken_out`. They went when ours came, in one transaction: where ours are not
    there nothing happens.
    """
    _, text = save(family, table="raw", backend=backend)
    mark = f'--comment "{comment}"', f"--comment {comment} "
    lines = [
        "-D " + line.partition("-A ")[2]
        for line in text.decode("utf-8", "surrogateescape").splitlines()
        if any(one in line for one in mark) and line.endswith("-j TRACE")
    ]
    if not lines:
        return
    positions: dict[str, int] = {}
    for line in put_back:
        counters, _, rule = line.partition(" -A ")
        chain, _, spec = rule.partition(" ")
        positions[chain] = positions.get(chain, 0) + 1
        lines.append(f"{counters} -I {chain} {positions[chain]} {spec}")
    _restore(family, lines, backend)


def _restore(family: Family, lines: Iterable[str], backend: Backend) -> None:
    command = [
        _command(family, "restore", backend),
        "--noflush",
        "--counters",
        "-w",
        str(_LOCK_WAIT_S),
    ]
    text = "\n".join(["*raw", *lines, "COMMIT", ""]).encode("utf-8", "surrogateescape")
    check(command, run(command, text))


def run(
    command: list[str], text: bytes = b"", *, until: float | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a session of its own: the user's Ctrl-C must not stop it half way.

    What is inheritable is inherited: the pipe by which the `guardian` knows that somebody is at work.
    ``until``: when one that changes nothing is killed (time.monotonic). Raises `HostError` then.
    """
    left = None if until is None else max(0.0, until - time.monotonic())
    try:
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            check=False,
            start_new_session=True,
            close_fds=False,
            env=process.environment(),
            timeout=left,
        )
    except subprocess.TimeoutExpired:
        raise HostError(
            f"{Path(command[0]).name} does not come to an end: the rules are too many, or change all the time"
        ) from None


def check(command: list[str], done: subprocess.CompletedProcess[bytes]) -> None:
    """Raise `HostError` with what a program complained, and what to do."""
    if done.returncode == 0:
        return
    said = " ".join(done.stderr.decode("utf-8", "backslashreplace").split())
    name = Path(command[0]).name
    if done.returncode == _EXIT_LOCKED and "lock" in said:
        raise HostError(
            f"{name}: another program holds the xtables lock for more than {_LOCK_WAIT_S} s; "
            "find it with: fuser /run/xtables.lock"
        )
    raise HostError(f"{name} failed: {said or done.returncode}{_advice(said)}")


def _advice(said: str) -> str:
    if "Permission denied" in said and "lock" in said:
        return "; set XTABLES_LOCKFILE to a file that you can write"
    if "table" in said and ("not exist" in said or "initialize" in said):
        return "; the kernel needs the raw table (modules iptable_raw, ip6table_raw)"
    if "No chain/target/match" in said or "load match" in said or "load target" in said:
        return "; the kernel needs TRACE and bpf (modules xt_TRACE, xt_bpf, xt_comment)"
    return ""


def _command(family: Family, suffix: str, backend: Backend) -> str:
    name = f"{_COMMANDS[family]}-{backend}-{suffix}"
    found = shutil.which(name, path=process.search_path())
    if found is None:
        raise HostError(f"{name} is not installed; on Debian: apt-get install iptables")
    return found
