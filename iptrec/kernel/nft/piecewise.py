"""The ruleset table by table, where nft cannot print all of it.

nft 1.0.6 aborts at a rule that looks up ``ip ttl . ip dscp { 64 . 0 }`` (mergesort.c), whatever else it has to
print. Of the table that has it the kernel tells chains, rules and their handles: so is known which rule a
packet met, by its number, and not what the rule says.
"""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any, Final

from iptrec.errors import HostError
from iptrec.kernel import iptables, process
from iptrec.kernel.nft import bases, transactions
from iptrec.kernel.nft import rule as nft_rule
from iptrec.names import HOOKS, NFT_FAMILIES

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from iptrec.kernel.deadline import Deadline

_CHAIN_TABLE, _CHAIN_HANDLE, _CHAIN_NAME, _POLICY = 1, 2, 3, 5  # NFTA_CHAIN_
_DROPS: Final = 0  # NF_DROP
_DEVICE_HOOKS: Final = ("ingress", "egress")
_LOST: Final = "its rules are recorded by their numbers, without their texts"


class _UnlistableError(Exception):
    """What nft said of itself."""


def listed(
    commands: Sequence[Sequence[str]], until: Deadline, failed: Callable[[HostError], None]
) -> Iterator[bytes]:
    """What each command would print of ``list ruleset``: nft's text, or with ``-j`` its JSON.

    ``commands``: up to "list". ``failed`` is told of each table that nft cannot list. Raises `HostError`.
    """
    printed: list[list[bytes]] = [[] for _ in commands]
    for table in bases.tables():
        wanted = ["list", "table", table.family, table.name]
        try:
            found = [_printed([*one, *wanted], until) for one in commands]
        except _UnlistableError as error:
            failed(HostError(f"nft cannot {' '.join(wanted)} ({error}): {_LOST}"))
            found = [_told(table) if "-j" in one else text(table) for one in commands]
        for pieces, one in zip(printed, found, strict=True):
            pieces.append(one)
    for command, pieces in zip(commands, printed, strict=True):
        yield _joined(pieces) if "-j" in command else b"".join(pieces)


def aborted(done: subprocess.CompletedProcess[bytes]) -> bool:
    """Whether nft has ended at a bug of its own."""
    return done.returncode == -signal.SIGABRT


def run(command: list[str], until: Deadline) -> subprocess.CompletedProcess[bytes]:
    """Run nft: its text has times (meta hour, meta time) as this host's users have them, its JSON in UTC."""
    return process.run(command, until=until, beside={"TZ": "UTC0"} if "-j" in command else None)


def _printed(command: list[str], until: Deadline) -> bytes:
    done = run(command, until)
    if aborted(done):
        raise _UnlistableError(" ".join(done.stderr.decode("utf-8", "backslashreplace").split()))
    iptables.check(command, done)
    return done.stdout


def _joined(listings: list[bytes]) -> bytes:
    """One listing of several."""
    objects = [one for listing in listings for one in _objects(listing)]
    return json.dumps({"nftables": objects}).encode()


def _objects(listing: bytes) -> list[Any]:
    try:
        return list(json.loads(listing)["nftables"])
    except (ValueError, LookupError, TypeError):
        raise HostError(
            "nft -j breaks off in the ruleset, which nft cannot list as a whole"
        ) from None


def text(table: bases.Table) -> bytes:
    """Of the flags nft's text alone is believed (`decode.rulesets.nft_json`)."""
    flags = "\tflags dormant\n" if table.dormant else ""
    return f"table {table.family} {table.name} {{\n{flags}}}\n".encode()


def _told(table: bases.Table) -> bytes:
    """A table as the kernel tells it."""
    number = NFT_FAMILIES[table.family]
    chains = transactions.dumped(transactions.GET_CHAIN, number, [])
    rules = transactions.dumped(transactions.GET_RULE, number, [(nft_rule.TABLE, table.name)])
    return json.dumps({"nftables": list(objects(table, chains or (), rules or ()))}).encode()


def objects(
    table: bases.Table, chains: Iterable[dict[int, bytes]], rules: Iterable[dict[int, bytes]]
) -> Iterator[dict[str, Any]]:
    """A table, its chains and rules as nft's JSON has them; the rules without what they say.

    ``chains``, ``rules``: those of its family.
    """
    here = {"family": table.family, "table": table.name}
    yield {"table": {"family": table.family, "name": table.name, "handle": table.handle}}
    for one in chains:
        name = bases.text(one[_CHAIN_NAME])
        if bases.text(one[_CHAIN_TABLE]) == table.name and not name.startswith(
            nft_rule.ANONYMOUS_CHAIN
        ):
            handle = nft_rule.number(one[_CHAIN_HANDLE])
            yield {"chain": here | {"name": name, "handle": handle} | _attached(table, one)}
    for one in rules:
        name = bases.text(one[nft_rule.CHAIN])
        if bases.text(one[nft_rule.TABLE]) == table.name and not name.startswith(
            nft_rule.ANONYMOUS_CHAIN
        ):
            handle = nft_rule.number(one[nft_rule.HANDLE])
            yield {"rule": here | {"chain": name, "handle": handle}}


def _attached(table: bases.Table, chain: dict[int, bytes]) -> dict[str, Any]:
    """Where a base chain is; nothing of a user's chain, and of one that no packet meets."""
    base = None if table.dormant else bases.read(table.family, chain)
    if base is None:
        return {}
    of_device = base.ingress or base.family == "netdev"
    hook = _DEVICE_HOOKS[not base.ingress] if of_device else HOOKS[base.hook].lower()
    policy = "drop" if nft_rule.number(chain.get(_POLICY, b"\1")) == _DROPS else "accept"
    found = {"type": base.type, "hook": hook, "prio": base.priority, "policy": policy}
    return found | ({"dev": list(base.devices)} if base.devices else {})
