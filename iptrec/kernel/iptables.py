"""iptables, through its own commands: rulesets out, our TRACE rules in.

Each change is one transaction of ``iptables-legacy-restore --noflush`` or ``iptables-nft-restore``. Loading
the raw table of legacy iptables cannot be undone while the namespace lives (the kernel has no call for it but
removing the module): where it was not loaded before, an empty raw table stays behind. In nf_tables what we
brought into being goes away again (`nft.raw`).
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError
from iptrec.kernel import process
from iptrec.kernel.legacy import lock

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

    from iptrec.kernel.deadline import Deadline
    from iptrec.names import Backend, Family


_COMMANDS: Final[dict[Family, str]] = {"ipv4": "iptables", "ipv6": "ip6tables"}
_TABLES: Final = ("raw", "mangle", "nat", "filter", "security")
_EXIT_LOCKED: Final = 4  # man 8 iptables: resource problem, here the lock
_REFUSED: Final = re.compile(r"(?:Error occurred at line:|restore: line) (\d+)")
OF_A_RECORDER: Final = re.compile(r'--comment "?iptrec:[0-9a-f-]{36}"? .*-j TRACE$')
CHAINS: Final = ("PREROUTING", "OUTPUT")


class RefusedError(HostError):
    """iptables-restore does not take a line, as what it names is gone; ``at``: which of those it was given."""

    def __init__(self, name: str, line: str, said: str, at: int) -> None:
        super().__init__(f"{name} does not take `{line}`: {said}")
        self.at = at


@dataclass(frozen=True, slots=True)
class TraceRule:
    """One of our rules; its comment says whose it is."""

    family: Family
    chain: str  # PREROUTING or OUTPUT
    comment: str
    device: str = ""  # how the rule says by which interface packets come or go; "" for all
    bytecode: str | None = None
    backend: Backend = "legacy"

    @property
    def spec(self) -> str:
        """The rule as iptables-restore reads it."""
        bpf = f'-m bpf --bytecode "{self.bytecode}" ' if self.bytecode else ""
        return f"{self.device}{bpf}-m comment --comment {self.comment} -j TRACE"


def trace_rules(
    backend: Backend,
    comment: str,
    bytecodes: Mapping[Family, str | None],
    interfaces: Sequence[str] = (),
    *,
    all_incoming: bool = False,
) -> dict[Family, list[TraceRule]]:
    """Our rules of each family: one a chain, or one a chain and interface.

    ``all_incoming``: by which interface a packet will be forwarded is not known in the raw table, so all that
    come in are traced, but for those that this host sends to itself.
    """
    incoming = [f"-i {one} " for one in interfaces]
    if all_incoming:
        incoming = ["! -i lo " if "lo" not in interfaces else ""]
    devices = {"PREROUTING": incoming, "OUTPUT": [f"-o {one} " for one in interfaces]}
    return {
        family: [
            TraceRule(family, chain, comment, device, bytecode, backend)
            for chain in CHAINS
            for device in devices[chain] or [""]
        ]
        for family, bytecode in bytecodes.items()
    }


def require(family: Family, backend: Backend = "legacy") -> None:
    """Raise `HostError` where the commands of iptables are missing."""
    for suffix in ("save", "restore"):
        command_of(family, suffix, backend)


def save(
    family: Family,
    *,
    table: str | None = None,
    counters: bool = True,
    backend: Backend = "legacy",
    until: Deadline | None = None,
) -> tuple[str, bytes]:
    """The command line and what it prints: all loaded tables (or one); ``until``: see `run`.

    In a namespace that was made together with its user namespace the list of loaded tables cannot be
    read (/proc/net/ip_tables_names belongs to the host's root): then every table is asked for, which
    loads it.
    """
    command = [command_of(family, "save", backend), *(["-c"] if counters else [])]
    if table is not None:
        command += ["-t", table]
    done = process.run(command, until=until)
    if done.returncode and table is None and b"Failed to list table names" in done.stderr:
        return " ".join(command), b"".join(save(family, table=name)[1] for name in _TABLES)
    check(command, done)
    return " ".join(command), done.stdout


def insert(rules: Sequence[TraceRule]) -> None:
    """Put the rules of one family at the top of their raw chains."""
    restore(rules[0].family, insertions(rules), rules[0].backend)


def insertions(rules: Sequence[TraceRule]) -> list[str]:
    """What `restore` takes to insert them."""
    return [f"-I {rule.chain} 1 {rule.spec}" for rule in reversed(rules)]


def restore(
    family: Family,
    lines: Sequence[str],
    backend: Backend = "legacy",
    environment: Mapping[str, str] | None = None,
    *,
    dry: bool = False,
) -> None:
    """Do what lines of iptables-restore say to the raw table, all at once; ``dry``: only read them.

    ``environment``: of `lock.held`, where that is held. Raises `RefusedError` for the first line that is not
    understood (but for one of ours), `HostError` for anything else.
    """
    options = ["--noflush", "--counters", "-w", str(lock.WAIT_S), *(["--test"] if dry else [])]
    command = [command_of(family, "restore", backend), *options]
    text = "\n".join(["*raw", *lines, "COMMIT", ""]).encode("utf-8", "surrogateescape")
    done = process.run(command, text, beside=environment)
    said = _said(done)
    if found := _REFUSED.search(said) if done.returncode else None:
        at = int(found[1]) - 2  # lines count from 1, and the first one names the table
        if 0 <= at < len(lines) and not OF_A_RECORDER.search(lines[at]):
            raise RefusedError(Path(command[0]).name, lines[at], said, at)
    try:
        check(command, done)
    except lock.LockHeldError:
        if not environment:
            raise
        raise HostError(
            f"this {Path(command[0]).name} does not know {lock.VARIABLE}: --flush needs iptables 1.8.6"
        ) from None


def check(command: list[str], done: subprocess.CompletedProcess[bytes]) -> None:
    """Raise `HostError` with what a program complained, and what to do."""
    if done.returncode == 0:
        return
    said = _said(done)
    name = Path(command[0]).name
    if done.returncode == _EXIT_LOCKED and "lock" in said:
        raise lock.LockHeldError(name)
    raise HostError(f"{name} failed: {said or done.returncode}{_advice(said)}")


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    """What a program complained, on one line."""
    return " ".join(done.stderr.decode("utf-8", "backslashreplace").split())


def _advice(said: str) -> str:
    if "Permission denied" in said and "lock" in said:
        return "; set XTABLES_LOCKFILE to a file that you can write"
    if "incompatible" in said or "CHAIN_ADD" in said:
        return (
            "; iptables-nft cannot use the raw table that nft made: give that table another name, or its chains"
            " PREROUTING and OUTPUT the type filter and the priority raw"
        )
    if "table" in said and ("not exist" in said or "initialize" in said):
        return "; the kernel needs the raw table (modules iptable_raw, ip6table_raw)"
    if "No chain/target/match" in said or "load match" in said or "load target" in said:
        return "; the kernel needs TRACE and bpf (modules xt_TRACE, xt_bpf, xt_comment)"
    return ""


def command_of(family: Family, suffix: str, backend: Backend = "legacy") -> str:
    """The path of iptables-BACKEND-SUFFIX. Raises `HostError` where it is missing."""
    name = f"{_COMMANDS[family]}-{backend}-{suffix}"
    found = shutil.which(name, path=process.search_path())
    if found is None:
        raise HostError(f"{name} is not installed; on Debian: apt-get install iptables")
    return found
