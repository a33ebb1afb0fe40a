"""``record --stop-on``: a process of its own looks at the recording while it grows.

The recorder has no time for that. A line for each packet that fits can be read from a pipe.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Self

from iptrec.cli import selection as which
from iptrec.cli.follower import Follower
from iptrec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Lookout:
    """Looks for packets that fit; a context manager. ``descriptor``: None if there is nothing to do.

    ``expression``: which ones. ``any_packet``: if there is none, all that `show` has. Raises `UsageError` for
    an expression that cannot be meant.
    """

    def __init__(self, output: Path, expression: str | None, *, any_packet: bool = False) -> None:
        self._follower: Follower | None = None
        self.descriptor: int | None = None
        if expression is not None or any_packet:
            conditions, words = ([], []) if expression is None else options(expression)
            arguments = ["--json", "--quiet", *conditions, "--", str(output), *words]
            self._follower = Follower(arguments)
            self.descriptor, writing = os.pipe2(os.O_CLOEXEC)
            self._writing = os.fdopen(writing, "wb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.descriptor is not None:
            os.close(self.descriptor)
            self._writing.close()

    def start(self, recording: int) -> None:
        """Begin to look at the recording with this descriptor."""
        if self._follower is not None:
            self._follower.start(recording, self._writing, silent=True)
            self._writing.close()

    def stop(self) -> None:
        """Look no more."""
        if self._follower is not None:
            self._follower.stop()


def stopped_by(told: str, output: Path | None, *, renumbers: bool) -> str:
    """Which packet it was, of what a looker told, and how to see it; "" where it told nothing.

    ``renumbers``: packets have other numbers when they are read, as earlier ones are let go.
    """
    try:
        packet = json.loads(told.partition("\n")[0])
        time, number = packet["time"], f"#{packet['packet']}"
        words = [packet["verdict"], *_flow(packet["header"]), *_place(packet["decided_by"])]
    except (ValueError, LookupError, TypeError):
        return ""
    see = f"--since {time}" if renumbers else f"--packet {number[1:]}"
    said = " ".join(map(str, words if renumbers else [number, *words]))
    return f"stopped by {said}" + (f": iptrec show {output} {see}" if output else "")


def _flow(header: dict[str, Any]) -> Iterator[str]:
    """Protocol and ends of a packet."""
    from iptrec.views.packet_json import endpoint

    yield header.get("proto") or "?"
    for address, port, after in (("src", "sport", " >"), ("dst", "dport", "")):
        yield endpoint(header.get(address) or "?", header.get(port) or 0) + after


def _place(by: dict[str, Any] | None) -> Iterator[str]:
    """Who decided."""
    if by:
        what = f"rule {by['rule']}" if by["rule"] else "policy"
        yield f"by {by['table']}/{by['chain']} {what}"


def options(expression: str) -> tuple[list[str], list[str]]:
    """The options of `iptrec show`, and the filter, that an expression stands for."""
    from iptrec.answers.select import VERDICTS

    try:
        return _options(expression)
    except UsageError as error:
        raise UsageError(
            f"--stop-on {expression!r}: {error}; expected verdicts ({', '.join(VERDICTS)})"
            " and rules (TABLE/CHAIN/N), then a filter"
        ) from None


def _options(expression: str) -> tuple[list[str], list[str]]:
    from iptrec.pcap.filter import PacketFilter

    verdicts: list[str] = []
    rules: list[str] = []
    words: list[str] = []
    for word in expression.split():
        if word.isupper() and word.isalpha() and not words:
            verdicts.append(_known(which.verdict, word, "a verdict"))
        elif word.count("/") > 1 and not words:
            rules.append(_known(which.rule, word, "a rule"))
        else:
            words.append(word)
    if not (verdicts or rules or words):
        raise UsageError("it is empty")
    if words:
        PacketFilter(" ".join(words))
    found = ["--verdict", ",".join(verdicts)] if verdicts else []
    found += ["--rule", ",".join(rules)] if rules else []
    return found, words


def _known(read: Callable[[str], object], word: str, what: str) -> str:
    """A word that the option of `show` takes."""
    try:
        read(word)
    except UsageError:
        raise UsageError(f"{word} is not {what}") from None
    return word
