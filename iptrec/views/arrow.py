"""The tables as Arrow: what polars, pandas and DuckDB take without a copy, and what Parquet files hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.decode.headers import Texts
from iptrec.errors import UsageError
from iptrec.views.cells import Times
from iptrec.views.templates import Template

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.names import I64
    from iptrec.views.filed import Filed
    from iptrec.views.tables import Column, Table
    from iptrec.views.templates import Lines, Values

    _Value = Values | str | int | None

# Columns of texts that are each packet's own, as a rule; templates are for these alone.
_OWN: Final = frozenset({"header", "connection", "changed"})


def require(what: str) -> None:
    """Raise `UsageError` where pyarrow is missing; ``what`` needs it."""
    try:
        import pyarrow as pa  # noqa: F401, PLC0415 - optional
    except ImportError:
        raise UsageError(f"{what} needs pyarrow: pip install 'iptrec[parquet]'") from None


def schema(table: Table, *, coded: bool = False) -> Any:  # noqa: ANN401 - pyarrow is optional
    """The columns of a table as a pyarrow.Schema, each with what it means.

    ``coded``: with a dictionary for texts that many rows have in common.
    """
    import pyarrow as pa  # noqa: PLC0415

    def kind(one: Column) -> Any:  # noqa: ANN401
        if one.type == "INTEGER":
            return pa.int64()
        if coded and one.name not in _OWN:
            return pa.dictionary(pa.int32(), pa.string())
        return pa.string()

    return pa.schema(
        [
            pa.field(one.name, kind(one), not one.required, {"description": one.about})
            for one in table.columns
        ],
        {"description": table.about},
    )


def batch(columns: Any, filed: Filed) -> Any:  # noqa: ANN401
    """Rows of a table as a pyarrow.RecordBatch; ``columns``: its `schema`."""
    import pyarrow as pa  # noqa: PLC0415

    count, placed = _placed(filed)
    arrays = [
        (_numbers if field.type == pa.int64() else _texts)(
            field, count, [(at, one[number]) for at, one in placed]
        )
        for number, field in enumerate(columns)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def table(definition: Table, batches: Iterable[Filed]) -> Any:  # noqa: ANN401
    """All rows of a table as a pyarrow.Table, in the batches in which they came."""
    import pyarrow as pa  # noqa: PLC0415

    columns = schema(definition)
    return pa.Table.from_batches([batch(columns, filed) for filed in batches], columns)


def _placed(filed: Filed) -> tuple[int, list[tuple[I64, list[_Value]]]]:
    """How many rows there are; and where some of them are, with what each of their columns has.

    A list or an array has a value a row, all else is that of all of them.
    """
    counts = np.zeros(filed.places, np.int64)
    for one in filed.alike:
        counts[one.at] = len(one.rows)
    for at, rows in filed.odd.items():
        counts[at] = len(rows)
    starts = np.cumsum(counts) - counts
    placed: list[tuple[I64, list[_Value]]] = []
    for one in filed.alike:
        for number, (row, varying) in enumerate(zip(one.rows, one.varying, strict=True)):
            values = zip(filed.table.columns, row, strict=True)
            found = [varying.get(column.name, value) for column, value in values]
            placed.append((starts[one.at] + number, found))
    if filed.odd:
        every = ((starts[at] + number, *row) for at, rows in filed.odd.items()
                 for number, row in enumerate(rows))  # fmt: skip
        place, *columns = zip(*every, strict=True)
        placed.append((np.array(place), [list(one) for one in columns]))
    return int(counts.sum()), placed


def _numbers(_: Any, count: int, placed: Iterable[tuple[I64, _Value]]) -> Any:  # noqa: ANN401
    import pyarrow as pa  # noqa: PLC0415

    found, missing = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    for at, value in placed:
        if value is None:
            missing[at] = True
        elif isinstance(value, list):
            missing[at] = [one is None for one in value]
            found[at] = [one or 0 for one in value]
        elif isinstance(value, (int, np.ndarray)):
            found[at] = value
    return pa.array(found, mask=missing if missing.any() else None)


def _texts(field: Any, count: int, placed: Iterable[tuple[I64, _Value]]) -> Any:  # noqa: ANN401
    import pyarrow as pa  # noqa: PLC0415

    code = np.full(count, -1, np.int32)
    texts: list[str | None] = []
    known: dict[str | None, int] = {None: -1}
    written = []  # of templates

    def coded(values: Iterable[Any]) -> I64:
        for one in values:
            if one not in known:
                known[one] = len(texts)
                texts.append(one)
        return np.array([known[one] for one in values], np.int64)

    for at, value in placed:
        if isinstance(value, (Template, Times)):
            each = Template(["", ""], [value]) if isinstance(value, Times) else value
            written.append((at, _strings(each.cut(slice(0, len(at))))))
        elif isinstance(value, Texts):
            code[at] = coded(value.distinct)[value.which]
        else:
            code[at] = coded(value if isinstance(value, list) else [value])
    values = pa.array(texts, pa.string())
    for at, strings in written:
        code[at] = np.arange(len(values), len(values) + len(at))
        values = pa.concat_arrays([values, strings])
    numbers = pa.array(code, mask=code < 0)
    if pa.types.is_dictionary(field.type):
        return pa.DictionaryArray.from_arrays(numbers, values)
    return values.take(numbers)


def _strings(lines: Lines) -> Any:  # noqa: ANN401
    """Lines as a pyarrow.StringArray."""
    import pyarrow as pa  # noqa: PLC0415

    ends = np.append(0, np.cumsum(lines.sizes)).astype(np.int32)
    buffer = np.empty(int(ends[-1]), np.uint8)
    lines.write(buffer, ends[:-1].astype(np.int64))
    return pa.StringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(buffer))
