"""Where a command line that is being typed has got to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Place:
    """``command``: the command that was named, `iptrec` itself in the beginning; click's object.

    ``name``: its name, "" of iptrec. ``operands``: its arguments so far. ``option``: the one whose value comes
    next, click's object. ``used``: options that were given. ``only_operands``: there was a "--".
    """

    command: Any
    name: str = ""
    operands: list[str] = field(default_factory=list)
    option: Any = None
    used: list[Any] = field(default_factory=list)
    only_operands: bool = False

    @property
    def command_starts(self) -> bool:
        """Whether a command of the user's comes now, or its arguments."""
        return self.only_operands and self.name in ("record", "trace")

    @property
    def argument(self) -> Any:  # noqa: ANN401 - typer's own click
        """The argument that comes next; None if there is none."""
        left = len(self.operands)
        for one in self.command.params:
            if one.param_type_name == "argument":
                if one.nargs < 0 or left < one.nargs:
                    return one
                left -= one.nargs
        return None


def read(words: list[str], root: Any) -> Place:  # noqa: ANN401 - typer's own click
    """What words behind "iptrec" mean. Those that are wrong are passed over: the user may go back to them."""
    place, missing = Place(root), 0
    for word in words:
        if missing:
            missing -= 1
            place.option = place.option if missing else None
        elif not place.only_operands and word == "--":
            place.only_operands = True
        elif not place.only_operands and word.startswith("-") and word != "-":
            missing = _begin(place, word)
        elif word in getattr(place.command, "commands", {}):
            place = Place(place.command.commands[word], word)
        else:
            place.operands.append(word)
    return place


def option(command: Any, name: str) -> Any:  # noqa: ANN401 - typer's own click
    """A command's option of this name; None if it has none."""
    return next((one for one in command.params if name in (*one.opts, *one.secondary_opts)), None)


def _begin(place: Place, word: str) -> int:
    """An option, or several in one word: how many values have to follow."""
    name, equals, _ = word.partition("=")
    names = [name] if word.startswith("--") else [f"-{one}" for one in word[1:]]
    for at, one in enumerate(names, 1):
        found = option(place.command, one)
        if found is None:
            return 0
        place.used.append(found)
        if not getattr(found, "is_flag", False):
            if equals or at < len(names):
                return 0  # it has its value
            place.option = found
            return int(found.nargs)
    return 0
