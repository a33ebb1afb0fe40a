"""The schemas of others that events can be written in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.errors import UsageError
from iptrec.views.ecs import ECS
from iptrec.views.ocsf import OCSF

if TYPE_CHECKING:
    from iptrec.views.events import Schema

OURS: Final = "iptrec"
PUBLISHED: Final = {one.name: one for one in (OCSF, ECS)}


def schema(name: str) -> Schema | None:
    """That of this name; None for our own. Raises `UsageError` for another."""
    if name == OURS:
        return None
    if name not in PUBLISHED:
        raise UsageError(f"--schema {name!r}: must be one of {', '.join((OURS, *PUBLISHED))}")
    return PUBLISHED[name]
