"""What became of a packet that took a path: the verdict, who decided, and why that is not whole or not sure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from iptrec.names import HOOKS
from iptrec.packets.branches import MOST_STEPS
from iptrec.rulesets.nft_places import is_our_table
from iptrec.rulesets.places import NO_HOOK
from iptrec.rulesets.table_names import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.packets.branches import Branch, Walk
    from iptrec.packets.ends import Death
    from iptrec.rulesets.places import Place
    from iptrec.rulesets.resolver import Book

PERHAPS: Final = ", perhaps this one"  # of what is told of some packets, and not of which
_PREROUTING: Final = HOOKS.index("PREROUTING")
_FILTERING: Final = tuple(map(HOOKS.index, ("INPUT", "FORWARD", "OUTPUT")))
NOT_KNOWN: Final = "the rules of table {} at that time are not known"
HOLES: Final = "events are missing in the middle"
TORN: Final = "the rules changed while it was under way: it met old and new ones"
NOT_SEEN, NOTHING_TELLS = "not seen after", "nothing tells what became of it after"
_PERHAPS_ROUTED: Final = (
    f"{NOTHING_TELLS} {{}}: routing may have dropped it, and no later chain sees all that"
    " it lets pass"
)
_NO_PORT: Final = (
    f"{NOTHING_TELLS} {{}}: the bridge may have dropped it, or passed it on where no chain sees it"
)
_NOT_SEEN: Final = (
    f"{NOT_SEEN} {{}}: {{}}the kernel dropped or consumed it outside of the rules (routing, rp_filter, TTL,"
    " socket)"
)

# As iptables and nft write what gives a packet another source
_FROM_PORTS: Final = re.compile(r"\b(?:snat|masquerade)\b", re.IGNORECASE)
_TRACKED_OTHERWISE: Final = re.compile(r"-j (?:CT|NOTRACK)\b|\bnotrack\b|\bct zone set\b")

Vanished = Literal["surely", "perhaps", "elsewhere"]
_ROUTED: Final = ("surely", "perhaps")


class Unordered(NamedTuple):
    """Chains of both backends that a packet passed at a hook, with one priority: nobody knows which first.

    ``chains``: as readers name them, that of legacy iptables first; those of nf_tables are in order.
    """

    hook: str
    chains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a packet.

    ``path``: its place numbers. ``decider`` is the position in the path of the event that decided, None
    if none did. ``finished``: nothing can follow. ``complete``: seen from its first traced rule to its
    end, else ``reason`` says what is missing. ``doubt``: why it might have been otherwise, None if it
    is certain. ``alike``: paths through other rulesets that read the same; ``cut``: not all of them.
    ``unsure``: the positions in the path whose rule it may not have been. ``copied``: it is a copy that was
    made in the midst of another's way.
    ``vanished``: it was let pass and not seen again. At PREROUTING, where it was to be routed: whether it would
    surely have been seen; or "elsewhere".
    ``endless``: incomplete only as nothing tells its end. ``death``: how the kernel discarded it where no rule
    did. ``unordered``: chains of both backends whose order is not known.
    """

    path: tuple[int, ...]
    verdict: str
    decider: int | None
    complete: bool
    finished: bool
    queued: bool
    reason: str | None
    doubt: str | None = None
    alike: tuple[tuple[int, ...], ...] = ()
    unsure: frozenset[int] = frozenset()
    copied: bool = False
    vanished: Vanished | None = None
    endless: bool = False
    death: Death | None = None
    cut: bool = False
    unordered: tuple[Unordered, ...] = ()

    @property
    def paths(self) -> tuple[tuple[int, ...], ...]:
        """All that it may have gone."""
        return self.path, *self.alike

    @property
    def unrouted(self) -> bool:
        """Whether it vanished at PREROUTING, where it was to be routed."""
        return self.vanished in _ROUTED


def outcome(book: Book, walk: Walk, branch: Branch) -> Outcome:
    """What became of a packet that went along a branch of a walk and was not seen again."""
    grammar = book.judging(branch.path[-1], branch.met)
    state, path = branch.state, branch.path
    ended = grammar.may_end(state) and not _may_be_lost(book, path)
    verdict = "UNKNOWN"
    decider = None
    if state.status in ("ended", "open") and ended:
        verdict, decider = state.verdict or "UNKNOWN", len(path) - 1
    elif state.status == "queued":
        verdict, decider = "QUEUE", len(path) - 1
    elif ended:
        verdict, decider = "ACCEPT", _accepted_by(book, path)
    broken = _why_broken(book, walk, branch, ended=ended)
    reason = broken or (None if ended else _why_endless(book, branch))
    vanished = _vanished(book, walk, branch) if verdict == "UNKNOWN" else None
    if vanished in _ROUTED and (counted := book.meanwhile.get(book.families[path[0]])):
        reason = f"{reason}; {counted}"
    return Outcome(
        path=path,
        verdict=verdict,
        decider=decider,
        complete=reason is None,
        finished=grammar.must_end(state),
        queued=state.status == "queued",
        reason=reason,
        doubt=_doubt(book, walk, branch, verdict),
        copied=walk.copied,
        cut=walk.cut,
        vanished=vanished,
        endless=not (ended or broken) and state.status in ("passed", "queued"),
    )


def _vanished(book: Book, walk: Walk, branch: Branch) -> Vanished | None:
    """Whether the kernel was to look for its way, and nothing but that can have ended it."""
    place, state = book.places[branch.path[-1]], branch.state
    if walk.headless or walk.holes or walk.torn or unseen_table(book, branch.path):
        return None
    off, sure = _switched_off(book, branch)
    if state.status != "passed" or (off and sure):
        return None
    grammar = book.judging(branch.path[-1], branch.met)
    routed = place.hook == _PREROUTING and grammar.leaves_hook(state)
    routed = routed and not (off or place.beside or place.bridged)
    if grammar.may_end(state):
        return "perhaps" if routed else None
    return "surely" if routed else "elsewhere"


def _doubt(book: Book, walk: Walk, branch: Branch, verdict: str) -> str | None:
    if walk.torn:
        return TORN
    if branch.state.status == "open" and verdict != "UNKNOWN":
        return _disbelief(book)
    return _otherwise(book, branch) if verdict == "ACCEPT" else None


def _otherwise(book: Book, branch: Branch) -> str | None:
    """What may have become of an accepted packet that nobody tells of."""
    off, _ = _switched_off(book, branch)
    return f"perhaps {off}" if off else None


def _switched_off(book: Book, branch: Branch) -> tuple[str, bool]:
    """That a rule switched tracing off, in words, and whether it is sure; empty if none can have."""
    seen = {book.places[one].pass_ for one in branch.path}
    found, sure = book.grammars[branch.path[-1]].off_switches(branch.state, seen)
    rules = (f"{one.table}/{one.chain} rule {one.number} (`meta nftrace set 0`)" for one in found)
    return (f"tracing was switched off by {' or '.join(rules)}" if found else ""), sure


def refusal(book: Book, path: tuple[int, ...], refused: int) -> str:
    """That connection tracking may have dropped the first packet of a connection after the last rule."""
    connections = "a new connection" if refused == 1 else f"{refused:,} new connections"
    rules = (book.places[one].rule for one in path)
    taken = any(one is not None and _FROM_PORTS.search(one.spec) for one in rules)
    why = ": no free port was left" if taken else ""
    return f"connection tracking refused {connections} meanwhile (insert_failed){PERHAPS}{why}"


def _accepted_by(book: Book, path: tuple[int, ...]) -> int | None:
    """The filter table's decision if it took one, else the last one; None where only our own tables saw it."""
    places = [book.places[place] for place in path]
    if all(place.apart for place in places):
        return None
    accepted = [
        i
        for i, place in enumerate(places)
        if place.effect == "accept" and not (place.beside or place.ours)
    ]
    filtered = [i for i in accepted if plain(places[i].table) == "filter"] or [
        i for i in accepted if places[i].base is not None and places[i].hook in _FILTERING
    ]
    return (filtered or accepted or [len(path) - 1])[-1]


def rules_not_known(outcome: Outcome) -> bool:
    """Whether it is not whole because nobody knows the rules of a table at that time."""
    before, behind = NOT_KNOWN.split("{}")
    reason = outcome.reason or ""
    return reason.startswith(before) and behind in reason


def _why_broken(book: Book, walk: Walk, branch: Branch, *, ended: bool) -> str | None:
    """Why it was not seen as a whole, but for its end."""
    if unseen := unseen_table(book, branch.path):
        return NOT_KNOWN.format(unseen)
    if len(branch.path) == MOST_STEPS and not ended:
        return f"cut after {MOST_STEPS:,} steps: no more are put together"
    if walk.headless:
        return "its beginning was not recorded"
    return HOLES if walk.holes else None


def _why_endless(book: Book, branch: Branch) -> str:
    last = book.places[branch.path[-1]]
    if branch.state.status == "queued":
        return "handed to userspace; the answer was not seen"
    off, sure = _switched_off(book, branch)
    if off and sure:
        return off
    if branch.state.status == "passed":
        return _why_not_seen_again(book, branch, last, off and f"{off}, or ")
    if branch.state.status == "open" and last.target is not None:
        return f"target {last.target} may have ended it"
    why = f": {off}, or the events were lost" if off else ""
    return f"the trace breaks off after {_where(last)}{why}"


def _why_not_seen_again(book: Book, branch: Branch, last: Place, otherwise: str) -> str:
    where = after(book, branch.path[-1])
    if book.judging(branch.path[-1], branch.met).may_end(branch.state):
        return (_NO_PORT if last.bridged else _PERHAPS_ROUTED).format(where)
    return _NOT_SEEN.format(where, otherwise)


def after(book: Book, number: int) -> str:
    """The table and hook of a place, as a reason names them; the chain where nobody knows its hook."""
    place = book.places[number]
    where = HOOKS[place.hook] if place.hook != NO_HOOK else place.chain
    return f"{_named(book, place.table)} {where}"


def _named(book: Book, table: str) -> str:
    """A table as a reason names it."""
    ours = is_our_table(table, book.our_comment)
    return "iptrec's own table at" if ours else table


def unseen_table(book: Book, path: tuple[int, ...]) -> str | None:
    """A table that was passed when nobody knew its rules."""
    places = (book.places[one] for one in path)
    return next((one.table for one in places if one.unseen), None)


def _disbelief(book: Book) -> str | None:
    """SYNPROXY takes a packet, but for an ACK that it does not believe: that it drops."""
    acks = book.disbelieved
    if acks is None:
        return "SYNPROXY may have dropped it"
    dropped = "an ACK" if acks == 1 else f"{acks:,} ACKs"
    one = "this one" if acks == 1 else "this too"
    return f"SYNPROXY dropped {dropped} meanwhile (cookie_invalid), perhaps {one}" if acks else None


def met_nat(book: Book, path: Sequence[int]) -> bool:
    """Whether any of these places is in NAT's rules."""
    return any(book.grammars[one].is_of_nat(book.places[one]) for one in path)


def is_tracked_otherwise(book: Book, path: Sequence[int]) -> bool:
    """Whether any of these rules decides how, or whether, connection tracking sees the packet."""
    rules = (book.places[one].rule for one in path)
    return any(one is not None and _TRACKED_OTHERWISE.search(one.spec) for one in rules)


def _may_be_lost(book: Book, path: tuple[int, ...]) -> bool:
    """Whether routing may have dropped an accepted packet after its last event."""
    last = book.places[path[-1]]
    if last.effect != "accept" or last.pass_ not in book.grammars[path[-1]].routed:
        return False
    # What a host sends has its way already, unless a rule changed it.
    return last.hook == _PREROUTING or any(
        place.pass_ == last.pass_ and place.rule is not None and not place.ours
        for place in (book.places[one] for one in path)
    )


def _where(place: Place) -> str:
    if place.apart:
        return "iptrec's own table"
    return f"{place.table}/{place.chain} {place.what}"
