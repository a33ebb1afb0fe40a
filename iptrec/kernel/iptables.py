"""iptables, through its own commands: rulesets out, our TRACE rules in and out again.

Each change is one transaction of ``iptables-legacy-restore --noflush`` or ``iptables-nft-restore``. Where it
depends on what is there, a look at legacy iptables and the change are one step under the xtables lock (`lock`).
Loading the raw table of legacy iptables cannot be undone while the namespace lives (the kernel has no call for
it but removing the module): where it was not loaded before, an empty raw table stays behind. In nf_tables what
we brought into being goes away again (`objects`).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError
from iptrec.kernel import process
from iptrec.kernel.legacy import lock
from iptrec.kernel.legacy.digest import Tables
from iptrec.kernel.undo import flushed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from iptrec.names import Backend, Family


_COMMANDS: Final[dict[Family, str]] = {"ipv4": "iptables", "ipv6": "ip6tables"}
_TABLES: Final = ("raw", "mangle", "nat", "filter", "security")
_TRIES: Final = 3
_EXIT_LOCKED: Final = 4  # man 8 iptables: resource problem, here the lock
_OF_A_RECORDER: Final = re.compile(r'--comment "?iptrec:[0-9a-f-]{36}"? .*-j TRACE$')
_REFUSED: Final = re.compile(r"(?:Error occurred at line:|restore: line) (\d+)")
_CHAINS: Final = ("PREROUTING", "OUTPUT")


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


def insert(rules: Sequence[TraceRule]) -> None:
    """Put the rules of one family at the top of their raw chains."""
    _restore(rules[0].family, _insertions(rules), rules[0].backend)


def insert_again(rules: Sequence[TraceRule]) -> None:
    """The same of legacy iptables where some of them may be left: in one step, which is seen as one change."""
    family = rules[0].family
    _restore(family, [*_deletions(raw(family), rules[0].comment), *_insertions(rules)])


def replace(rules: Sequence[TraceRule], expect: Callable[[list[str]], None]) -> None:
    """Put the rules of one family in place of those that are in its legacy raw chains.

    ``expect`` is told before which these are, with counters, as `remove` puts them back. They are deleted one
    by one: what somebody adds meanwhile who does not take the lock stays, and a rule that iptables does not
    find again by what it printed is not taken out. Raises `HostError`.
    """
    family = rules[0].family
    with lock.held() as environment:
        out = _taken_out(family)
        expect(out)
        lines = [f"-D {_bare(line)}" for line in out]
        try:
            _restore(family, [*lines, *_insertions(rules)], environment=environment)
        except RefusedError as error:
            raise HostError(
                f"--flush cannot take a rule out of the {family} raw table: {error}; record without --flush"
            ) from None


def _insertions(rules: Sequence[TraceRule]) -> list[str]:
    return [f"-I {rule.chain} 1 {rule.spec}" for rule in reversed(rules)]


def _deletions(chains: Mapping[str, Sequence[str]], comment: str) -> list[str]:
    """Commands that take out the rules with a comment."""
    return [
        f"-D {_bare(line)}"
        for rules in chains.values()
        for line in rules
        if _is_ours(line, comment)
    ]


def require_way_back(family: Family) -> None:
    """Raise `HostError` where `replace` could not put back what it would take out."""
    with lock.held():
        _taken_out(family)


def _taken_out(family: Family) -> list[str]:
    """The rules of the user in the chains that --flush is about, with counters.

    Raises `HostError` where iptables-save does not print what the kernel holds, and for those that could not
    be put back.
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
    found: list[str] = []
    for chain in _CHAINS:
        rules = [line for line in chains[chain] if not _OF_A_RECORDER.search(line)]
        for place, line in enumerate(rules, 1):
            if reason := flushed.obstacle(flushed.extensions(line)):
                raise HostError(flushed.refusal(f"rule {place} of {chain}", family, reason))
        found += rules
    return found


def remove(family: Family, comment: str, put_back: Sequence[str] = ()) -> list[str]:
    """Take out the rules with our comment, wherever they are by now, and put others back.

    ``put_back``: lines that `replace` told; those that stay out are returned: where somebody replaced their
    chain (`flushed.places`), and those that iptables does not understand any more, as a chain that
    they jump to is gone. Where the kernel refuses what iptables understands all of them stay out.

    Raises `HostError` where rules of ours are still there afterwards.
    """
    alone: contextlib.AbstractContextManager[Mapping[str, str]] = contextlib.nullcontext({})
    if put_back:
        alone = lock.held()
    with alone as environment:
        kept = _exchange(family, comment, put_back, environment)
    with Tables(family) as tables:
        left = comment in tables.ours("raw")
    if left:
        raise HostError(
            f"our TRACE rules are in the {family} raw table, and {_command(family, 'save')} does not"
            " print them: mend that, then run iptrec cleanup"
        )
    return kept


def _exchange(
    family: Family, comment: str, put_back: Sequence[str], environment: Mapping[str, str]
) -> list[str]:
    """Our rules for those that were there before, in one transaction; see `remove`."""
    understood = list(put_back)
    for _ in range(_TRIES):  # who does not take the lock may change the table after the look
        chains = raw(family)
        ours = _deletions(chains, comment)
        back, kept = _sorted(chains, comment, understood)
        try:
            if ours or back:
                _restore(family, [*ours, *back], environment=environment)
        except lock.LockHeldError:
            raise
        except HostError as error:
            failure = error
            refused = _not_understood(family, put_back, environment)
            understood = [line for line in put_back if line not in refused]
        else:
            return [line for line in put_back if line in kept or line not in understood]
    if not put_back:
        raise failure
    _restore(family, ours, environment=environment)
    return list(put_back)


def _not_understood(
    family: Family, lines: Sequence[str], environment: Mapping[str, str] | None = None
) -> set[str]:
    """Which of these lines iptables does not take any more. Nothing is changed for that."""
    found: set[str] = set()
    left = list(lines)
    while left:
        try:
            _restore(family, left, environment=environment, dry=True)
        except RefusedError as error:
            found.add(left[error.at])
            left = left[error.at + 1 :]
        else:
            break
    return found


def made_anew(chains: Mapping[str, Sequence[str]], *, flush: bool) -> set[str]:
    """The matches of the raw table that lose what they counted when ours come and go."""
    names = {
        chain: {name for line in rules for name in flushed.extensions(line)}
        for chain, rules in chains.items()
    }
    out = set().union(*(names[chain] for chain in _CHAINS if flush))
    return set().union(*names.values()) - flushed.NAMED | out


def staying_out(family: Family, comment: str, lines: Iterable[str]) -> list[str]:
    """Lines of `replace` that `remove` would leave out now."""
    return _sorted(raw(family), comment, lines)[1]


def append(family: Family, lines: Sequence[str]) -> list[str]:
    """Put lines of `replace` behind the rules that are there; those that are refused are returned."""
    refused = _not_understood(family, lines)
    understood = [line for line in lines if line not in refused]
    if not _taken(family, understood):  # by the kernel, which does not say which one it refuses
        refused.update(line for line in understood if not _taken(family, [line]))
    return [line for line in lines if line in refused]


def _taken(family: Family, lines: Sequence[str]) -> bool:
    """Whether the table was changed. Raises `LockHeldError`."""
    try:
        _restore(family, lines)
    except lock.LockHeldError:
        raise
    except HostError:
        return False
    return True


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
        chain: [
            (position, None if _is_ours(line, comment) else _bare(line))
            for position, line in enumerate(chains[chain], 1)
            if _is_ours(line, comment) or not _OF_A_RECORDER.search(line)
        ]
        for chain in _CHAINS
    }
    places = flushed.places(
        {chain: [line for _, line in rules] for chain, rules in there.items()},
        {chain: [_bare(line) for line in lines] for chain, lines in out.items()},
    )
    back: list[str] = []
    kept: list[str] = []
    for chain, place in places.items():
        if place is None:
            kept += out[chain]
            continue
        position = there[chain][place][0] if there[chain] else 1
        for line in reversed(out[chain]):  # each before the one that was put there just now
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


def _restore(
    family: Family,
    lines: Sequence[str],
    backend: Backend = "legacy",
    environment: Mapping[str, str] | None = None,
    *,
    dry: bool = False,
) -> None:
    """Change the raw table; ``environment``: of `lock.held`, where that is held. Raises `HostError`."""
    options = ["--noflush", "--counters", "-w", str(lock.WAIT_S), *(["--test"] if dry else [])]
    command = [_command(family, "restore", backend), *options]
    text = "\n".join(["*raw", *lines, "COMMIT", ""]).encode("utf-8", "surrogateescape")
    done = run(command, text, environment=environment)
    said = _said(done)
    if found := _REFUSED.search(said) if done.returncode else None:
        at = int(found[1]) - 2  # lines count from 1, and the first one names the table
        if at < len(lines) and not _OF_A_RECORDER.search(lines[at]):
            raise RefusedError(Path(command[0]).name, lines[at], said, at)
    try:
        check(command, done)
    except lock.LockHeldError:
        if not environment:
            raise
        raise HostError(
            f"this {Path(command[0]).name} does not know {lock.VARIABLE}: --flush needs iptables 1.8.6"
        ) from None


def run(
    command: list[str],
    text: bytes = b"",
    *,
    until: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a session of its own: the user's Ctrl-C must not stop it half way.

    What is inheritable is inherited: the pipe by which the `guardian` knows that somebody is at work.
    ``until``: when one that changes nothing is killed (time.monotonic). Raises `HostError` then.
    ``environment``: beside `process.environment`.
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
            env=process.environment() | dict(environment or {}),
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


def _command(family: Family, suffix: str, backend: Backend = "legacy") -> str:
    name = f"{_COMMANDS[family]}-{backend}-{suffix}"
    found = shutil.which(name, path=process.search_path())
    if found is None:
        raise HostError(f"{name} is not installed; on Debian: apt-get install iptables")
    return found
