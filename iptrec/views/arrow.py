"""The tables as Arrow: what polars, pandas and DuckDB take without a copy, and what Parquet files hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iptrec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from iptrec.views.tables import Row, Table


def require(what: str) -> None:
    """Raise `UsageError` where pyarrow is missing; ``what`` needs it."""
    try:
        import pyarrow as pa  # noqa: F401, PLC0415 - optional
    except ImportError:
        raise UsageError(f"{what} needs pyarrow: pip install 'iptrec[parquet]'") from None


def schema(table: Table) -> Any:  # noqa: ANN401 - pyarrow is optional
    """The columns of a table as a pyarrow.Schema, each with what it means."""
    import pyarrow as pa  # noqa: PLC0415

    types = {"INTEGER": pa.int64(), "TEXT": pa.string()}
    return pa.schema(
        [
            pa.field(one.name, types[one.type], not one.required, {"description": one.about})
            for one in table.columns
        ],
        {"description": table.about},
    )


def batch(columns: Any, rows: Sequence[Row]) -> Any:  # noqa: ANN401
    """Rows of a table as a pyarrow.RecordBatch; ``columns``: its `schema`."""
    import pyarrow as pa  # noqa: PLC0415

    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    arrays = [pa.array(one, field.type) for one, field in zip(values, columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def table(definition: Table, batches: Iterable[Sequence[Row]]) -> Any:  # noqa: ANN401
    """All rows of a table as a pyarrow.Table, in the batches in which they came."""
    import pyarrow as pa  # noqa: PLC0415

    columns = schema(definition)
    return pa.Table.from_batches([batch(columns, rows) for rows in batches], columns)
