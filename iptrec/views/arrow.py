"""The tables as Arrow: what polars, pandas and DuckDB take without a copy, and what Parquet files hold."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from iptrec.decode.headers import Texts
from iptrec.errors import missing
from iptrec.views.templates import Template

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from iptrec.names import I32, I64, Mask
    from iptrec.views.filed import Filed
    from iptrec.views.tables import Column, Table
    from iptrec.views.templates import Lines, Values

    _Value = Values | str | int | None

T = TypeVar("T", bound=np.generic)

# Columns of texts that are each packet's own, as a rule; templates are for these alone.
OWN: Final = frozenset(
    {
        "time",
        "header",
        "connection",
        "changed",
        "event.id",
        "iptrec.ct_id",
        "metadata.uid",
        "connection_info.uid",
    }
)
AT_ONCE: Final = 1 << 16  # rows for a writer of Parquet: by its own 1024 it takes a quarter longer


def require(what: str) -> None:
    """Raise `UsageError` where pyarrow is missing; ``what`` needs it."""
    try:
        import pyarrow as pa  # noqa: F401, PLC0415 - optional
    except ImportError:
        raise missing(what, "pyarrow", "parquet") from None


def schema(table: Table, *, coded: bool = False) -> Any:  # noqa: ANN401 - pyarrow is optional
    """The columns of a table as a pyarrow.Schema, each with what it means.

    ``coded``: with a dictionary for texts that many rows have in common.
    """
    import pyarrow as pa  # noqa: PLC0415

    def kind(one: Column) -> Any:  # noqa: ANN401
        if one.type == "INTEGER":
            return pa.int64()
        if coded and one.name not in OWN:
            return pa.dictionary(pa.int32(), pa.string())
        return pa.string()

    return pa.schema(
        [
            pa.field(one.name, kind(one), not one.required, {"description": one.about})
            for one in table.columns
        ],
        {"description": table.about},
    )


def coded(columns: Any) -> list[str]:  # noqa: ANN401
    """The names of the columns of such a schema that have a dictionary."""
    import pyarrow as pa  # noqa: PLC0415

    return [one.name for one in columns if pa.types.is_dictionary(one.type)]


def batch(columns: Any, filed: Filed) -> Any:  # noqa: ANN401
    """Rows of a table as a pyarrow.RecordBatch; ``columns``: its `schema`."""
    import pyarrow as pa  # noqa: PLC0415

    count, placed = _placed(filed)
    which = np.zeros(count, np.int32)  # of the places each row is in
    for number, (at, _) in enumerate(placed):
        which[at] = number
    arrays = []
    for number, field in enumerate(columns):
        column = _Column(which, [(at, one[number]) for at, one in placed])
        if field.type == pa.int64():
            arrays.append(column.numbers())
        elif pa.types.is_dictionary(field.type):
            arrays.append(column.coded())
        elif field.name in OWN:
            arrays.append(column.texts())
        else:
            arrays.append(column.coded().dictionary_decode())
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


class _Column:
    """One column of a batch: values of some rows each, of all of them or one a row.

    ``which``: of each row the number of its values.
    """

    def __init__(self, which: I32, placed: list[tuple[I64, _Value]]) -> None:
        self._which = which
        self._placed = placed

    def numbers(self) -> Any:  # noqa: ANN401 - pyarrow is optional
        """As a pyarrow.Int64Array."""
        import pyarrow as pa  # noqa: PLC0415

        values = [value for _, value in self._placed]
        common = [one if isinstance(one, int) else 0 for one in values]
        found = self._spread(np.array(common, np.int64))
        missing = self._missing()
        for at, value in self._placed:
            if isinstance(value, list):
                found[at] = [one or 0 for one in value]
            elif isinstance(value, np.ndarray):
                found[at] = value
        return pa.array(found, mask=missing)

    def coded(self) -> Any:  # noqa: ANN401
        """As a pyarrow.DictionaryArray."""
        import pyarrow as pa  # noqa: PLC0415

        known: dict[str, int] = {}
        common = np.zeros(len(self._placed), np.int32)
        each = []
        for number, (at, value) in enumerate(self._placed):
            if isinstance(value, Texts):
                codes = [known.setdefault(one, len(known)) for one in value.distinct]
                each.append((at, np.array(codes, np.int32)[value.which]))
            elif isinstance(value, list):
                codes = [0 if one is None else known.setdefault(one, len(known)) for one in value]
                each.append((at, np.array(codes, np.int32)))
            elif isinstance(value, str):
                common[number] = known.setdefault(value, len(known))
        code = self._spread(common)
        for at, numbers in each:
            code[at] = numbers
        distinct = pa.array(known, pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(code, mask=self._missing()), distinct)

    def texts(self) -> Any:  # noqa: ANN401
        """As a pyarrow.StringArray; of texts that differ this is faster."""
        import pyarrow as pa  # noqa: PLC0415

        sizes = np.zeros(len(self._which), np.int64)
        written: list[tuple[I64, Lines]] = []
        single: list[tuple[int, bytes]] = []
        for at, value in self._placed:
            if isinstance(value, list):
                some = [(one or "").encode() for one in value]
                sizes[at] = list(map(len, some))
                single += zip(at.tolist(), some, strict=True)
            elif value is not None:
                lines = _lines(value).lines(len(at))
                sizes[at] = lines.sizes
                written.append((at, lines))
        ends = np.cumsum(sizes)
        starts = ends - sizes
        buffer = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
        for at, lines in written:
            lines.write(buffer, starts[at])
        memory = buffer.data
        for row, text in single:
            memory[int(starts[row]) : int(ends[row])] = text
        missing = self._missing()
        valid = None if missing is None else pa.array(~missing).buffers()[1]
        offsets = np.append(0, ends).astype(np.int32)
        buffers = pa.py_buffer(offsets), pa.py_buffer(buffer), valid
        return pa.StringArray.from_buffers(len(ends), *buffers)

    def _spread(self, common: npt.NDArray[T]) -> npt.NDArray[T]:
        """Values that all rows of a place have, for each row."""
        if len(common) and (common == common[0]).all():
            return np.full(len(self._which), common[0])
        return common[self._which]

    def _missing(self) -> Mask | None:
        """Which rows have no value; None: all have one."""
        common = np.array([value is None for _, value in self._placed], np.bool_)
        single = [(at, value) for at, value in self._placed if isinstance(value, list)]
        if not (common.any() or single):
            return None
        missing = self._spread(common)
        for at, value in single:
            missing[at] = [one is None for one in value]
        return missing


def _lines(value: Values | str | int) -> Template:
    if isinstance(value, Template):
        return value
    if isinstance(value, (str, int)):
        return Template([str(value)], [])
    return Template(["", ""], [value])


def tell(writer: Any, plain: Any) -> None:  # noqa: ANN401
    """Tell who reads a file the plain columns: that some were written by number is no fact of theirs."""
    told = base64.b64encode(plain.serialize())
    writer.add_key_value_metadata({**plain.metadata, "ARROW:schema": told})
