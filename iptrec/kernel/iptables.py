"""iptables, through its own commands: rulesets out, our TRACE rules in and out again.

Each change is one transaction of ``iptables-legacy-restore --noflush`` under the xtables lock, or of
``iptables-nft-restore``. Loading the raw table of legacy iptables cannot be undone while the namespace lives
(the kernel has no call for it but removing the module): where it was not loaded before, an empty raw table
stays behind. In nf_tables what we brought into being goes away again (`nftables`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError
from iptrec.kernel import process
from iptrec.kernel.legacy.digest import Tables
from iptrec.kernel.undo import flushed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from iptrec.names import Backend, Family


_COMMANDS: Final[dict[Family, str]] = {"ipv4": "iptables", "ipv6": "ip6tables"}
_TABLES: Final = ("raw", "mangle", "nat", "filter", "security")
_LOCK_WAIT_S: Final = 10
_TRIES: Final = 3
_EXIT_LOCKED: Final = 4  # man 8 iptables: resource problem, here the lock
_OF_A_RECORDER: Final = re.compile(r'--comment "?iptrec:[0-9a-f-]{36}"? .*-j TRACE$')
_CHAINS: Final = ("PREROUTING", "OUTPUT")


class LockHeldError(HostError):
    """Another program has the xtables lock for too long."""


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


def trace_rules(
    backend: Backend,
    comment: str,
    bytecodes: Mapping[Family, str | None],
    interfaces: Sequence[str] = (),
) -> dict[Family, list[TraceRule]]:
    """Our rules of each family: one a chain, or one a chain and interface."""
    return {
        family: [
            TraceRule(family, chain, comment, interface, bytecode, backend)
            for chain in _CHAINS
            for interface in (interfaces or (None,))
        ]
        for family, bytecode in bytecodes.items()
    }


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


def taken_out(family: Family) -> list[str]:
    """The rules that ``insert(flush=True)`` will take out, with counters, as `remove` puts them back.

    Raises `HostError` where iptables-save does not print what the kernel holds.
    """
    chains = raw(family)
    told = sum(map(len, chains.values()))
    with Tables(family) as tables:
        # A chain of the user's own has a head and an end, the built-in two have an end; the table has one.
        count = tables.entries("raw") - 2 * len(chains) + 1
    if told != count:
        raise HostError(
            f"the {family} raw table has {count} rules, {_command(family, 'save')} prints {told}:"
            " --flush could not put them back; try again, or record without it"
        )
    return [line for chain in _CHAINS for line in chains[chain] if not _OF_A_RECORDER.search(line)]


def remove(family: Family, comment: str, put_back: Sequence[str] = ()) -> list[str]:
    """Take out the rules with our comment, wherever they are by now, and put others back.

    ``put_back``: lines of `taken_out`; those that stay out are returned (`flushed.places`). Where they cannot
    go back, as a chain that they jump to is gone, all of them stay out.

    Raises `HostError` where rules of ours are still there afterwards.
    """
    kept = _exchange(family, comment, put_back)
    with Tables(family) as tables:
        left = comment in tables.ours("raw")
    if left:
        raise HostError(
            f"our TRACE rules are in the {family} raw table, and {_command(family, 'save')} does not"
            " print them: mend that, then run iptrec cleanup"
        )
    return kept


def _exchange(family: Family, comment: str, put_back: Sequence[str]) -> list[str]:
    """Our rules for those that were there before, in one transaction; see `remove`."""
    for _ in range(_TRIES):  # somebody may change the table between the look and the deed
        chains = raw(family)
        ours = [
            f"-D {line.partition('-A ')[2]}"
            for rules in chains.values()
            for line in rules
            if _is_ours(line, comment)
        ]
        back, kept = _sorted(chains, comment, put_back)
        try:
            if ours or back:
                _restore(family, [*ours, *back])
        except LockHeldError:
            raise
        except HostError as error:
            failure = error
        else:
            return kept
    if not back:
        raise failure
    _restore(family, ours)
    return list(put_back)


def staying_out(family: Family, comment: str, lines: Iterable[str]) -> list[str]:
    """Those of `taken_out` that `remove` would leave out now."""
    return _sorted(raw(family), comment, lines)[1]


def append(family: Family, lines: Iterable[str]) -> None:
    """Put lines of `taken_out` behind the rules that are there."""
    _restore(family, lines)


def raw(family: Family) -> dict[str, list[str]]:
    """The raw table: chain -> its rules with counters, as iptables-save prints them.

    Raises `HostError` where it prints none.
    """
    command, text = save(family, table="raw")
    lines = text.decode("utf-8", "surrogateescape").splitlines()
    if "*raw" not in lines or "COMMIT" not in lines:
        said = lines[0] if lines else "nothing"
        raise HostError(f"`{command}` prints no raw table but: {said.lstrip('# ')}")
    heads = [line[1:].partition(" ")[0] for line in lines if line.startswith(":")]
    chains: dict[str, list[str]] = {chain: [] for chain in (*_CHAINS, *heads)}
    for chain, rules in _by_chain(line for line in lines if line.startswith("[")).items():
        chains.setdefault(chain, []).extend(rules)
    return chains


def _sorted(
    chains: Mapping[str, Sequence[str]], comment: str, put_back: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Commands that put lines back, and the lines that stay out; see `flushed.places`."""
    out = _by_chain(put_back)
    there = {
        chain: [None if _is_ours(line, comment) else _bare(line) for line in chains[chain]]
        for chain in _CHAINS
    }
    places = flushed.places(
        there, {chain: [_bare(line) for line in lines] for chain, lines in out.items()}
    )
    back: list[str] = []
    kept: list[str] = []
    for chain, place in places.items():
        if place is None:
            kept += out[chain]
            continue
        for position, line in enumerate(out[chain], place + 1):
            counters, _, rule = line.partition(" -A ")
            back.append(f"{counters} -I {chain} {position} {rule.partition(' ')[2]}")
    return back, kept


def _bare(line: str) -> str:
    """A rule without its counters."""
    return line.partition(" -A ")[2]


def _by_chain(lines: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        chain = line.partition(" -A ")[2].partition(" ")[0]
        found.setdefault(chain, []).append(line)
    return found


def _is_ours(line: str, comment: str) -> bool:
    marks = f'--comment "{comment}"', f"--comment {comment} "
    return line.endswith("-j TRACE") and any(mark in line for mark in marks)


def _restore(family: Family, lines: Iterable[str], backend: Backend = "legacy") -> None:
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
        raise LockHeldError(
            f"{name}: another program holds the xtables lock for more than {_LOCK_WAIT_S} s; "
            "find it with: fuser /run/xtables.lock"
        )
    raise HostError(f"{name} failed: {said or done.returncode}{_advice(said)}")


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


def _command(family: Family, suffix: str, backend: Backend = "legacy") -> str:
    name = f"{_COMMANDS[family]}-{backend}-{suffix}"
    found = shutil.which(name, path=process.search_path())
    if found is None:
        raise HostError(f"{name} is not installed; on Debian: apt-get install iptables")
    return found
