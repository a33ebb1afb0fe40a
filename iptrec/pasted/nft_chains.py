"""The ends of chains that no line tells.

The kernel tells of each chain that a packet left at its end; nft and xtables-monitor print nothing of it. Where
a jump led into a chain, no rule of it sent the packet elsewhere, and the next line is about the chain that had
called it, the packet came to its end. Where the jump was not seen nothing is concluded. A line that is missing
in between cannot be told from that: what is told of a chain then differs from its rules, and readers see it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from iptrec.decode.nftrace import BREAK, CONTINUE, GOTO, JUMP, RETURN
from iptrec.pasted.nft_events import Event

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_TRACES: Final = 1 << 14  # ids whose chains are remembered
_DEEPEST: Final = 64  # chains that call one another; the kernel allows 16 (NFT_JUMP_STACK_SIZE)
_GOES_ON: Final = frozenset({CONTINUE, BREAK})


class _Calls:
    """The chains that a packet is in, the base chain first; ``open``: whether the last one may still end."""

    def __init__(self, table: tuple[str, str], chain: str) -> None:
        self.table = table
        self.chains = [chain]
        self.open = True

    def ended(self, event: Event) -> list[str] | None:
        """The chains that ended before an event; None where it cannot have come so."""
        if (event.family, event.table) != self.table or event.chain not in self.chains:
            return None
        last = len(self.chains) - 1 - self.chains[::-1].index(event.chain)
        left = self.chains[:last:-1]
        return left if self.open else left[1:]

    def then(self, event: Event) -> None:
        """Go where an event leads."""
        del self.chains[self.chains.index(event.chain) + 1 :]
        self.open = event.verdict in _GOES_ON and not event.end
        if (
            event.verdict in (JUMP, GOTO)
            and event.target is not None
            and len(self.chains) < _DEEPEST
        ):
            if event.verdict == GOTO:
                self.chains[-1:] = self.chains[-1:] if len(self.chains) == 1 else []
            self.chains.append(event.target)
            self.open = True
        elif event.verdict == RETURN or event.end:
            self.open = False


class Ends:
    """Puts the ends of chains where the events of each packet imply them."""

    def __init__(self) -> None:
        self._calls: OrderedDict[int, _Calls] = OrderedDict()

    def feed(self, event: Event) -> Iterator[Event]:
        """The ends before an event, and the event."""
        calls = None if event.packet is not None else self._calls.get(event.trace)
        left = None if calls is None else calls.ended(event)
        if calls is None or left is None:
            calls = _Calls((event.family, event.table), event.chain)
        for chain in left or ():
            yield Event(
                trace=event.trace, family=event.family, table=event.table, chain=chain,
                time_ns=event.time_ns, version=event.version,
            )  # fmt: skip
        calls.then(event)
        self._calls[event.trace] = calls
        self._calls.move_to_end(event.trace)
        if len(self._calls) > _MOST_TRACES:
            self._calls.popitem(last=False)
        yield event
