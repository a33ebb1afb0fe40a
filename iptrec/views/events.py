"""Packets as events of a schema that others published: a row each, with names that are fields in it.

A dotted name is an object in an object, as NDJSON has it. Parquet files have structs, or the dotted names,
as is the custom of each schema: `Schema.nested`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from iptrec.views import event_facts
from iptrec.views.cells import Times
from iptrec.views.filed import Alike, Filed
from iptrec.views.packet_json import iso_time
from iptrec.views.tables import Column, Table
from iptrec.views.templates import Template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from iptrec.answers.packets import Batch
    from iptrec.recording.rows import Facts
    from iptrec.views.event_facts import Known, Value
    from iptrec.views.tables import Row

Kind = Literal["text", "texts", "number", "truth", "time"]
BETWEEN: Final = ","  # of texts: words of our own, which have none


@dataclass(frozen=True, slots=True)
class Field:
    """``of``: which of `event_facts.known` it is, or what makes it of those that do not vary.

    Values: text; texts, with commas between; number, an int64; truth, 0 or 1; time, ns since 1970.
    """

    name: str
    kind: Kind
    about: str
    of: str | Callable[[Known], Value]

    def value(self, known: Known) -> Value:
        """Of one packet."""
        return known.get(self.of) if isinstance(self.of, str) else self.of(known)


@dataclass(frozen=True, slots=True)
class Schema:
    """``table``: where a lake has the events. ``time``, ``number``: fields of ns since 1970, and the packet's.

    ``nested``: Parquet has structs, not dotted names.
    """

    name: str
    title: str
    version: str
    url: str
    table: str
    fields: tuple[Field, ...]
    nested: bool
    time: str
    number: str
    note: str

    @property
    def columns(self) -> Table:
        """The events as a table of plain columns."""
        columns = [
            Column(one.name, "TEXT" if one.kind in ("text", "texts") else "INTEGER", one.about, False)
            for one in self.fields
        ]  # fmt: skip
        return Table(self.table, f"{self.title} {self.version}", tuple(columns), (self.number,))

    def filed(self, batch: Batch, facts: Facts, recording: str) -> Filed:
        """The events of a batch, one a packet; packets that read alike are made together."""
        found = Filed(self.columns)
        odd = np.ones(len(batch.positions), np.bool_)

        def row(position: int) -> Row:
            packet = batch.traversal(position)
            known = event_facts.known(packet, position, batch, facts, recording)
            return tuple(one.value(known) for one in self.fields)

        for shape in batch.shapes():
            at = np.searchsorted(batch.positions, shape.positions)
            odd[at] = False
            model = row(int(shape.positions[0]))
            different = event_facts.varying(shape, recording)
            columns = {
                one.name: different[one.of]
                for one, value in zip(self.fields, model, strict=True)
                if isinstance(one.of, str) and one.of in different and value is not None
            }
            found.alike.append(Alike(at, [model], [columns]))
        for place in np.flatnonzero(odd).tolist():
            found.odd[place] = [row(int(batch.positions[place]))]
        return found

    def described(self) -> str:
        """The fields as Markdown: schemas/NAME-v1.md."""
        kinds = {"text": "text", "texts": "list of texts", "number": "64-bit integer", "truth": "boolean",
                 "time": "time in UTC, ns"}  # fmt: skip
        lines = [f"# {self.title} {self.version}", "", self.note, "", f"Source: {self.url}", ""]
        lines += ["| field | type | what |", "|---|---|---|"]
        lines += [f"| {one.name} | {kinds[one.kind]} | {one.about} |" for one in self.fields]
        return "\n".join([*lines, ""])

    def made(self, row: Row) -> dict[str, Any]:
        """An event as values of JSON; what is not known is not there."""
        found: dict[str, Any] = {}
        for field, value in zip(self.fields, row, strict=True):
            if value is not None:
                *outer, last = field.name.split(".")
                inner = found
                for name in outer:
                    inner = inner.setdefault(name, {})
                inner[last] = _SHOWN.get(field.kind, _same)(value)
        return found


def constant(value: Value) -> Callable[[Known], Value]:
    """What all events have."""
    return lambda _: value


def mapped(
    name: str, values: Mapping[Value, Value], other: Value = None
) -> Callable[[Known], Value]:
    """By one of `event_facts.known`; ``other``: where it is none of these."""
    return lambda known: values.get(known.get(name), other)


def _same(value: Any) -> Any:  # noqa: ANN401
    return value


_SHOWN: Final[dict[str, Callable[[Any], Any]]] = {
    "texts": lambda value: value.split(BETWEEN),
    "truth": bool,
    "time": iso_time,
}


def places(schema: Schema, one: Alike) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Where an event has what differs between such packets, and what that is."""
    kinds = {field.name: field.kind for field in schema.fields}
    for name, values in one.varying[0].items():
        if kinds[name] == "time" and isinstance(values, np.ndarray):
            values = Times(values)  # noqa: PLW2901
        yield tuple(name.split(".")), values


def template(
    schema: Schema, one: Alike, dumped: Callable[[dict[str, Any]], str]
) -> Template | None:
    """That of such packets' events; None where there is none."""
    return Template.of(schema.made(one.rows[0]), places(schema, one), dumped)
