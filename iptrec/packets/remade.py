"""Outcomes of traversals, made anew by what is known beside the rules: drops, and refused connections."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.names import I64
    from iptrec.packets.assemble import Assembly
    from iptrec.packets.outcome import Outcome


class Remade:
    """An assembly whose traversals get other outcomes.

    What these may be of which the rules changed (`Assembly.possible`) joins both backends' traversals, which is
    done by then: it is left as it was.
    """

    def __init__(self, assembly: Assembly) -> None:
        self._before = assembly
        self._outcome = assembly.outcome.copy()
        self._outcomes = [*assembly.outcomes]

    def replace(self, traversal: I64, number: I64, make: Callable[[Outcome, int], Outcome]) -> None:
        """Give traversals an outcome that is made of the one before and of a number; all may have the same."""
        numbers, which = np.unique(number, return_inverse=True)
        pair = self._before.outcome[traversal] * len(numbers) + which
        distinct, inverse = np.unique(pair, return_inverse=True)
        first = len(self._outcomes)
        self._outcomes += [
            make(self._before.outcomes[before], int(numbers[one]))
            for before, one in (divmod(each, len(numbers)) for each in distinct.tolist())
        ]
        self._outcome[traversal] = first + inverse

    @property
    def assembly(self) -> Assembly:
        """The same traversals, with what they were given."""
        return replace(self._before, outcome=self._outcome, outcomes=self._outcomes)
