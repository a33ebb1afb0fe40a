"""What is in a recording, and how complete it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from iptrec.analyze.window import windows

if TYPE_CHECKING:
    from iptrec.recording.rows import Recording


@dataclass(slots=True)
class Summary:
    """Counts over the whole recording.

    ``events + lost`` is what the kernel sent while we recorded. ``packets`` are traversals, of which
    ``incomplete`` were not seen from their first rule to their end and ``ambiguous`` could be put
    together in more than one way; ``orphans`` are events that name no rule.
    """

    events: int = 0
    lost: int = 0
    packets: int = 0
    incomplete: int = 0
    ambiguous: int = 0
    orphans: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether no event is missing and every trace is whole and certain."""
        return not (self.lost or self.incomplete or self.ambiguous or self.orphans)


def summarize(reader: Recording) -> Summary:
    """Go through the whole recording once."""
    summary = Summary(lost=sum(loss.events or 0 for loss in reader.losses))
    verdicts: Counter[str] = Counter()
    for window in windows(reader):
        assembly, decided = window.assembly, window.decided
        outcome = assembly.outcome[:decided]
        for number, count in zip(*np.unique(outcome, return_counts=True), strict=True):
            verdicts[assembly.outcomes[number].verdict] += int(count)
            summary.incomplete += 0 if assembly.outcomes[number].complete else int(count)
            summary.ambiguous += 0 if assembly.outcomes[number].doubt is None else int(count)
        summary.packets += decided
        summary.orphans += len(window.strays) + len(window.unread)
        summary.events += len(window.rows()) + len(window.strays) + len(window.unread)
    summary.verdicts = dict(verdicts.most_common())
    return summary
