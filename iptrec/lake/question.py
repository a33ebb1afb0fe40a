"""The questions that a lake is asked: SQL in files of this package, in words that each engine understands.

A file begins with what it answers, a line, and has a line for each parameter: its name, the kind of its value
(number; text; time: ns since 1970), the value where none is given, and what it means.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final, Literal

from iptrec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Kind = Literal["number", "text", "time"]
Value = int | str

_PARAMETER: Final = re.compile(r"-- :(\w+) (number|text|time)(?: (\d+))?: (.+)")
_USED: Final = re.compile(r":(\w+)")


@dataclass(frozen=True, slots=True)
class Parameter:
    """``default``: where no value is given; None: one must be."""

    name: str
    kind: Kind
    default: int | None
    about: str


@dataclass(frozen=True, slots=True)
class Question:
    """``text``: its file. ``about``: what it answers, a line."""

    name: str
    about: str
    parameters: tuple[Parameter, ...]
    text: str

    def sql(self, values: Mapping[str, Value], literal: Callable[[Value], str]) -> str:
        """The statement, with values as an engine writes them. Raises `UsageError` where one is missing."""
        known = {one.name: one.default for one in self.parameters}
        given: dict[str, Value] = {}
        for name, default in known.items():
            value = values.get(name, default)
            if value is None:
                raise UsageError(
                    f"the question {self.name} needs {name}=VALUE; see iptrec lake {self.name}"
                )
            given[name] = value
        body = "\n".join(line for line in self.text.splitlines() if not line.startswith("--"))
        return _USED.sub(lambda found: literal(given[found[1]]), body)

    def parameter(self, name: str) -> Parameter:
        """One of its parameters. Raises `UsageError` where it has no such."""
        for one in self.parameters:
            if one.name == name:
                return one
        names = ", ".join(one.name for one in self.parameters)
        raise UsageError(f"the question {self.name} has no parameter {name!r}; it has {names}")


@cache
def questions() -> dict[str, Question]:
    """All of them, by name."""
    folder = resources.files("iptrec.lake") / "questions"
    files = sorted(
        (one for one in folder.iterdir() if one.name.endswith(".sql")), key=lambda one: one.name
    )
    found = (_read(one.name.removesuffix(".sql"), one.read_text("utf-8")) for one in files)
    return {one.name: one for one in found}


def question(name: str) -> Question:
    """One of them. Raises `UsageError` where there is no such."""
    known = questions()
    if name not in known:
        raise UsageError(f"no question {name!r}; there are {', '.join(known)}")
    return known[name]


def _read(name: str, text: str) -> Question:
    first, *lines = text.splitlines()
    parameters = []
    for line in lines:
        if found := _PARAMETER.fullmatch(line):
            kind: Kind = (
                "number" if found[2] == "number" else "text" if found[2] == "text" else "time"
            )
            default = None if found[3] is None else int(found[3])
            parameters.append(Parameter(found[1], kind, default, found[4]))
    return Question(name, first.removeprefix("-- "), tuple(parameters), text)
