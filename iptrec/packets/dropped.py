"""Which packets the kernel dropped: records of drops, joined to the packets of the traces.

A record has the packet as it was when it was dropped, and the time of that. Its bytes find the packets that may
be it: what no rule rewrites (`identity`), and whether it was sent here or came in. Its time decides: the packet
had been at its last rule by then, and most reasons come at once. A packet that waits for a neighbour, or in a
queue, may be dropped seconds later. Where several packets stay, nobody is blamed, unless there are as many
records: all of them may be it. Nor is one of which a copy may have gone on (`drop_copies`).

Records of the host's drop monitor are of any packet, traced or not: a traced one came in by the same interface.
Where the host has other namespaces it may be of one of these, whose interfaces may have the same number.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from iptrec.names import counted
from iptrec.packets import lossy
from iptrec.packets.drop_ahead import Ahead
from iptrec.packets.drop_candidates import BY_RULES, LATE_NS, SLACK_NS, Candidates
from iptrec.packets.drop_copies import Copies
from iptrec.packets.drop_groups import NONE
from iptrec.packets.drop_records import Cause, DropRecords, Records, one_of
from iptrec.packets.ends import DISCARDED
from iptrec.packets.in_flight import EQUAL
from iptrec.packets.outcome import PERHAPS, rules_not_known
from iptrec.packets.remade import Remade

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, Mask
    from iptrec.packets.assemble import Assembly
    from iptrec.packets.drop_groups import Found
    from iptrec.packets.ends import Death
    from iptrec.packets.outcome import Outcome
    from iptrec.recording.rows import Recording


_MOST: Final = 1 << 18  # records that are kept in mind: more are read later


class Ended(NamedTuple):
    """Traversals, with the ends of those that the kernel dropped; ``time_ns``: when (epoch), 0 for the others.

    ``disagree``: of how many the rules tell one end and the kernel another one. ``untold_ns``: when packets
    were dropped of which it is not known which they are (epoch); None where not all of these were recorded.
    """

    assembly: Assembly
    time_ns: I64
    disagree: int = 0
    untold_ns: I64 | None = None


class Dropped:
    """The packets of one namespace that the kernel dropped; it is asked for one window after the other."""

    def __init__(self, recording: Recording, namespace: int) -> None:
        self._records = DropRecords(recording, namespace)
        self._ahead = Ahead()
        self._copies = Copies(recording, namespace)
        self._recording = recording
        self._namespace = namespace

    def end(self, events: TraceEvents, earliest_ns: I64, assembly: Assembly, decided: int) -> Ended:
        """Tell the ends of the traversals of a window, of which the first ones are ``decided``."""
        known = self._records.whole
        nothing = Ended(
            assembly, np.zeros(len(assembly), np.int64), untold_ns=NONE if known else None
        )
        if not decided or not self._records.there:
            return nothing
        last = assembly.lasts()
        since_ns, until_ns = earliest_ns[last].min(), events.received_ns[last].max()
        for some in self._records.read(int(until_ns) + LATE_NS, _MOST - len(self._ahead)):
            self._ahead.add(some, self._records.late(some))
        self._ahead.leave_behind(int(since_ns) - SLACK_NS)
        if not len(self._ahead):
            return nothing
        causes = self._records.causes
        candidates = Candidates(events, earliest_ns, assembly, self._copies)
        records = candidates.looked_at(self._ahead, causes)
        found = candidates.found(records)
        read_ns = int(earliest_ns.max())
        self._ahead.forget(found.used(decided, records.time_ns, read_ns))
        unsure = self._lossy(records.time_ns)
        ended = _ended(assembly, records, causes, found, candidates, decided, unsure)
        return ended._replace(untold_ns=_untold(records, found) if known else None)

    def _lossy(self, time_ns: I64) -> Mask:
        """At which of these times events of the rules may have been lost."""
        found = np.zeros(len(time_ns), np.bool_)
        for first, last in lossy.spans(self._recording, self._namespace):
            found |= (time_ns >= first) & (time_ns <= last)
        return found


def _untold(records: Records, found: Found) -> I64:
    """When packets were dropped that are not found."""
    there = np.ones(len(records.time_ns), np.bool_)
    there[found.record] = False
    untold_ns: I64 = records.time_ns[there]
    return untold_ns


def _ended(
    assembly: Assembly,
    records: Records,
    causes: Sequence[Cause],
    found: Found,
    candidates: Candidates,
    decided: int,
    unsure: Mask,
) -> Ended:
    """The traversals with what the records tell of them; ``unsure``: at whose time events may be lost."""
    copied = candidates.copied(records, found)
    by_rules = np.array([one.verdict in BY_RULES for one in assembly.outcomes])[assembly.outcome]
    certain = np.array([one.complete and one.doubt is None for one in assembly.outcomes])
    netfilter = np.array([one.netfilter for one in causes])[records.cause[found.record]]
    ruled = by_rules[found.traversal]
    differ = (ruled | netfilter) & (ruled != netfilter) & (found.traversal < decided)
    elsewhere = records.elsewhere[found.record]
    differ &= ~elsewhere
    disagree = int((differ & certain[assembly.outcome[found.traversal]]).sum())
    order = np.argsort(records.time_ns[found.record], kind="stable")  # the last one counts
    order = order[~ruled[order]]
    made, time_ns = Remade(assembly), np.zeros(len(assembly), np.int64)
    mixed = np.array([EQUAL in (one.doubt or "") for one in assembly.outcomes])
    mixed = mixed[assembly.outcome]
    unseen = netfilter & unsure[found.record]
    unread = np.array([rules_not_known(one) for one in assembly.outcomes])[assembly.outcome]
    unread = netfilter & unread[found.traversal]
    choices = [elsewhere, copied, mixed[found.traversal], unread, unseen, np.ones_like(copied)]
    which = np.select(choices, range(len(choices)))
    makes = (
        _or_elsewhere,
        _one_of_its_copies,
        _or_its_equal,
        _by_an_unread_rule,
        _by_a_lost_rule,
        _lost,
    )
    for number, make in enumerate(makes):
        one = order[which[order] == number]
        record, traversal = found.record[one], found.traversal[one]
        made.replace(traversal, records.cause[record], partial(_by_cause, causes, make))
        time_ns[traversal] = records.time_ns[record]
    for some, of in found.groups:
        if not causes[records.cause[some[0]]].netfilter:
            each = Counter(causes[one] for one in records.cause[some].tolist())
            ended = partial(_doubtful, each=each, of=len(of))
            time_ns[of] = records.time_ns[some].min()
            alone = found.one_each(some, of) and not mixed[of].any()
            if alone and candidates.single(records, some, of):
                ended = partial(_lost_all, each=each, of=len(of))
                time_ns[of] = np.sort(records.time_ns[some])
            made.replace(of, some[:1], ended)
    return Ended(made.assembly, time_ns, disagree)


def _by_cause(
    causes: Sequence[Cause], make: Callable[[Outcome, Cause], Outcome], before: Outcome, cause: int
) -> Outcome:
    """An outcome that is made of the one before and of a cause by its number."""
    return make(before, causes[cause])


def _lost(before: Outcome, cause: Cause) -> Outcome:
    """An outcome, with the packet dropped behind the rules."""
    return _dead(before, cause.death(sure=True))


def _lost_all(before: Outcome, _: int, each: Counter[Cause], of: int) -> Outcome:
    """An outcome of one of some equal packets that were all dropped, of which none is known for which cause."""
    reasons = Counter(one.reason for one in each.elements())
    (reason, _), *others = reasons.most_common()
    death = one_of(each, reason)
    if not others:
        return _dead(before, death)
    told = ", ".join(f"{count:,} for {one}" for one, count in reasons.most_common())
    doubt = f"the kernel dropped all {of:,} of these equal packets, {told}"
    doubtful = replace(before, doubt="; ".join(filter(None, (before.doubt, doubt))))
    return _dead(doubtful, death._replace(sure=False))


def _dead(before: Outcome, death: Death) -> Outcome:
    whole = before.complete or before.endless
    return replace(
        before,
        verdict=DISCARDED,
        decider=None,
        complete=whole,
        finished=True,
        reason=None if whole else before.reason,
        endless=False,
        vanished=None,
        death=death,
    )


def _one_of_its_copies(before: Outcome, cause: Cause) -> Outcome:
    """An outcome, with the packet dropped perhaps, or one of its copies."""
    return _in_doubt(before, cause, "the kernel dropped it, or one of its copies and not all")


def _or_elsewhere(before: Outcome, cause: Cause) -> Outcome:
    """An outcome, with the packet dropped perhaps, or an equal one that nobody traces."""
    told = "the kernel dropped it, or an equal packet in another namespace or before tracing"
    return _in_doubt(before, cause, told)


def _or_its_equal(before: Outcome, cause: Cause) -> Outcome:
    """An outcome of a packet whose steps may be those of an equal one: then so may be its end."""
    return replace(before, death=cause.death(sure=False))


def _by_an_unread_rule(before: Outcome, cause: Cause) -> Outcome:
    """An outcome of a packet that netfilter dropped, and that met rules of which nobody knows what they do."""
    return _in_doubt(before, cause, "netfilter dropped it, perhaps by a rule of these")


def _by_a_lost_rule(before: Outcome, cause: Cause) -> Outcome:
    """An outcome of a packet that netfilter dropped where events were lost: its rule may have told."""
    return _in_doubt(before, cause, "netfilter dropped it, perhaps by a rule whose event was lost")


def _doubtful(before: Outcome, _: int, each: Counter[Cause], of: int) -> Outcome:
    """An outcome, with the packet dropped perhaps: of as many nobody knows whether none was another one."""
    dropped, cause = each.total(), next(iter(each))
    some = f"{dropped:,} of {counted(of, 'equal packet')}{PERHAPS}"
    every = "it" if of == 1 else f"all {of:,} of these equal packets"
    told = some if dropped < of else f"{every}, or others that read the same"
    return _in_doubt(before, cause, f"the kernel dropped {told}")


def _in_doubt(before: Outcome, cause: Cause, doubt: str) -> Outcome:
    told = "; ".join(filter(None, (before.doubt, doubt)))
    return replace(before, doubt=told, death=cause.death(sure=False))
