"""Events of a published schema as Arrow: plain columns as they are made, and what Parquet files have.

OCSF's objects are structs, as in the tables of Amazon Security Lake; ECS's names keep their dots, by which
Elasticsearch, Kibana and its own lists of fields call them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from iptrec.views import arrow
from iptrec.views.events import BETWEEN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.views.events import Field, Schema
    from iptrec.views.filed import Filed


def batch(filed: Filed) -> Any:  # noqa: ANN401 - pyarrow is optional
    """Events as a pyarrow.RecordBatch of plain columns, named as the fields are."""
    return arrow.batch(arrow.schema(filed.table, coded=True), filed)


def written_schema(schema: Schema, *, coded: bool = False) -> Any:  # noqa: ANN401
    """What `written` has, each field with what it means. ``coded``: texts with dictionaries."""
    import pyarrow as pa  # noqa: PLC0415 - optional

    leaves = [(one.name.split(".") if schema.nested else [one.name], _leaf(one, coded=coded))
              for one in schema.fields]  # fmt: skip
    about = {"description": f"{schema.title} {schema.version}"}
    return pa.schema(_fields(leaves), about)


def paths(schema: Schema) -> list[str]:
    """The columns of Parquet that have a dictionary, as its writer names them."""
    plain = {one.name for one in schema.fields if one.kind == "text" and one.name not in arrow.OWN}
    lists = [f"{one.name}.list.element" for one in schema.fields if one.kind == "texts"]
    return [*sorted(plain), *lists]


def written(schema: Schema, rows: Any) -> Any:  # noqa: ANN401
    """Plain columns as a pyarrow.Table of `written_schema`."""
    import pyarrow as pa  # noqa: PLC0415

    wanted = written_schema(schema, coded=True)
    batches = []
    for one in rows.combine_chunks().to_batches():
        columns = [_column(field, one.column(field.name)) for field in schema.fields]
        names = [one.name.split(".") if schema.nested else [one.name] for one in schema.fields]
        batches.append(
            pa.RecordBatch.from_arrays(
                [_joined(field, list(zip(names, columns, strict=True)), 0) for field in wanted],
                schema=wanted,
            )
        )
    return pa.Table.from_batches(batches, wanted)


def _leaf(one: Field, *, coded: bool) -> Any:  # noqa: ANN401
    """A field of pyarrow under the last part of a name."""
    import pyarrow as pa  # noqa: PLC0415

    text = pa.dictionary(pa.int32(), pa.string()) if coded else pa.string()
    kinds = {
        "number": pa.int64(),
        "truth": pa.bool_(),
        "time": pa.timestamp("ns", "UTC"),
        "texts": pa.list_(pa.string()),
        "text": pa.string() if one.name in arrow.OWN else text,
    }
    return pa.field("", kinds[one.kind], True, {"description": one.about})


def _fields(leaves: Iterable[tuple[list[str], Any]]) -> list[Any]:
    """Fields, and structs of those that begin with the same name."""
    import pyarrow as pa  # noqa: PLC0415

    groups: dict[str, list[tuple[list[str], Any]]] = {}
    for names, leaf in leaves:
        groups.setdefault(names[0], []).append((names[1:], leaf))
    return [
        inside[0][1].with_name(name)
        if not inside[0][0]
        else pa.field(name, pa.struct(_fields(inside)))
        for name, inside in groups.items()
    ]


def _column(field: Field, values: Any) -> Any:  # noqa: ANN401
    """Values of a field as they are written."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    if field.kind == "truth":
        return pc.cast(values, pa.bool_())
    if field.kind == "time":
        return values.view(pa.timestamp("ns", "UTC"))
    if field.kind == "texts":
        distinct = [one.split(BETWEEN) for one in values.dictionary.to_pylist()]
        return pa.array(distinct, pa.list_(pa.string())).take(values.indices)
    return values


def _joined(field: Any, leaves: list[tuple[list[str], Any]], depth: int) -> Any:  # noqa: ANN401
    """The array of a field: a leaf, or a struct of what is under it, null where all of that is."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    mine = [(names, values) for names, values in leaves if names[depth] == field.name]
    if not pa.types.is_struct(field.type):
        return mine[0][1]
    arrays = [_joined(one, mine, depth + 1) for one in field.type]
    missing = arrays[0].is_null()
    for one in arrays[1:]:
        missing = pc.and_(missing, one.is_null())
    return pa.StructArray.from_arrays(arrays, fields=list(field.type), mask=missing)
