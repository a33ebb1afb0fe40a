"""``export ndjson --schema``: one line an event, from the same rows as the Parquet files of a lake."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.views import events, json_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.answers.packets import Batch
    from iptrec.names import I64
    from iptrec.recording.rows import Facts
    from iptrec.views.events import Schema
    from iptrec.views.tables import Row
    from iptrec.views.templates import Template


def lines(
    schema: Schema, batch: Batch, facts: Facts, recording: str
) -> Iterator[bytes | memoryview]:
    """The lines of a batch's events, in order, each with its newline; some thousand at a time."""
    filed = schema.filed(batch, facts, recording)
    single: dict[int, Row] = {place: rows[0] for place, rows in filed.odd.items()}

    def templates() -> Iterator[tuple[I64, Template]]:
        for one in filed.alike:
            template = events.template(schema, one, json_lines.dumped)
            if template is not None:
                yield one.at, template
                continue
            single.update(
                zip(one.at.tolist(), (row for (row,) in one.each(filed.table)), strict=True)
            )

    def alone(place: int) -> str:
        return json_lines.dumped(schema.made(single[place]))

    return json_lines.merged(len(batch.positions), templates(), alone)
