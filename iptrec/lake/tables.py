"""The tables of a lake: those of one recording, with what tells recordings, hosts and rules apart.

schemas/lake-v1.md is made of it. Times stand there twice: as ns since 1970, which every engine compares
exactly, and as UTC timestamps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from iptrec.views.tables import BY_NAME, Column, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FORMAT: Final = 1  # of what this page says; a lake of another one is not written into
PARTITIONS: Final = ("dt", "host")  # the directories of each table but rules
OF_PACKETS: Final = ("packets", "steps", "related")  # filed under the packet's day

_RECORDING: Final = Column(
    "recording", "TEXT", "of which recording", references="recordings(recording)"
)
_RULE: Final = "digest of the rule's content"
_LEFT_OUT: Final = {"time", "rule_id"}


def _number(name: str, about: str, *, required: bool = True) -> Column:
    return Column(name, "INTEGER", about, required)


def _text(name: str, about: str, *, required: bool = True) -> Column:
    return Column(name, "TEXT", about, required)


def _of(name: str, columns: Iterable[Column] = (), *, key: tuple[str, ...]) -> Table:
    """A table of one recording, as one of many."""
    known = BY_NAME[name]
    own = [replace(one, references=None) for one in known.columns if one.name not in _LEFT_OUT]
    return Table(name, known.about, (_RECORDING, *own, *columns), ("recording", *key))


_RULES: Final = BY_NAME["rules"].places
_CONTENT: Final = ("family", "table_name", "chain", "spec", "target", "target_args", "comment")
_TABLE: Final = _text("table_name", "table, such as filter, of whichever backend, or inet fw")
TABLES: Final = (
    Table(
        "recordings",
        "The recordings, a row each. What is not here is not whole: join with it.",
        (
            _text(
                "recording", "its id here: the uuid, the begin, of a copy of a ring the end as well"
            ),
            *(
                replace(one, name="hostname" if one.name == "host" else one.name)
                for one in BY_NAME["recording"].columns
                if one.name != "started"
            ),
            _number("packets", "how many packets it has"),
            _number("steps", "how many steps they have"),
            _number("first_ns", "time of the first packet", required=False),
            _number("last_ns", "time of the last packet", required=False),
            _number(
                "incomplete", "packets of which the begin, the end or what is between is missing"
            ),
            _number("ambiguous", "packets that may have taken another path"),
            _number("unknown", "packets whose verdict is UNKNOWN"),
            _number("lost", "events that are missing, as far as they were counted"),
            _number("losses", "rows of the table losses"),
            _number("uncounted", "those of them that are about events and say no number"),
            _text("fingerprint", "digest of the file, and of the iptrec that wrote this"),
            _number("format", "of the lake's tables"),
        ),
        ("recording",),
    ),
    _of("namespaces", key=("id",)),
    _of("losses", key=("id",)),
    Table(
        "rules",
        "Each rule that was in force anywhere, once, whoever had it.",
        (
            _text(
                "rule_id",
                "digest of family, table_name, chain and spec, so that it is the same in each recording",
            ),
            *(
                _TABLE if name == "table_name" else BY_NAME["rules"].columns[_RULES[name]]
                for name in _CONTENT
            ),
        ),
        ("rule_id",),
    ),
    Table(
        "places",
        "Where each recording had which rule, at some time.",
        (
            _RECORDING,
            *(
                replace(BY_NAME["rules"].columns[_RULES[name]], references=None)
                for name in ("id", "namespace", "family", "table_name", "chain", "rule")
            ),
            Column("rule_id", "TEXT", _RULE, references="rules(rule_id)"),
            BY_NAME["rules"].columns[_RULES["untraced"]],
        ),
        ("recording", "id"),
    ),
    _of(
        "packets",
        (
            Column("decided_rule_id", "TEXT", f"{_RULE} that decided", False, "rules(rule_id)"),
            _number(
                "packet_key",
                "equal wherever the same packet was seen, whatever was translated: made of IP id, protocol,"
                " length, TCP's numbers and the first bytes of the payload",
                required=False,
            ),
            _number(
                "key_sure",
                "1: it has an IPv4 id or TCP's numbers, so that another packet hardly has the same key;"
                " 0: packets that look alike have",
            ),
        ),
        key=("packet",),
    ),
    _of(
        "steps",
        (Column("rule_id", "TEXT", _RULE, False, "rules(rule_id)"),),
        key=("packet", "step"),
    ),
    _of("related", key=("packet", "kind", "other")),
)
NAMED: Final = {table.name: table for table in TABLES}
_KINDS: Final = {"INTEGER": "BIGINT", "TEXT": "VARCHAR"}


def typed(table: Table, kinds: Mapping[str, str]) -> list[tuple[str, str]]:
    """The columns and their types as an engine calls them (``kinds``), directories too; timestamps left out."""
    columns = [(one.name, kinds[one.type]) for one in table.columns]
    return columns + [(one, kinds["TEXT"]) for one in PARTITIONS if table.name != "rules"]


def empty(table: Table, kinds: Mapping[str, str] = _KINDS) -> str:
    """SQL with these columns, and no row."""
    listed = ", ".join(f"CAST(NULL AS {kind}) AS {one}" for one, kind in typed(table, kinds))
    return f"SELECT {listed} WHERE 1 = 0"


def times(table: Table) -> dict[str, str]:
    """The columns that are ns since 1970, and the timestamps that stand beside them."""
    names = [one.name for one in table.columns if one.name.endswith("_ns")]
    return {one: "time" if one == "time_ns" else f"{one.removesuffix('_ns')}_time" for one in names}


def schema(table: Table, *, coded: bool = False) -> Any:  # noqa: ANN401 - pyarrow is optional
    """The columns as a pyarrow.Schema, each with what it means.

    ``coded``: with a dictionary for texts that many rows have in common.
    """
    import pyarrow as pa  # noqa: PLC0415

    from iptrec.views import arrow  # noqa: PLC0415

    found = arrow.schema(table, coded=coded)
    for name, twin in times(table).items():
        column = table.columns[table.places[name]]
        about = {"description": f"{name} as a timestamp"}
        field = pa.field(twin, pa.timestamp("ns", "UTC"), not column.required, about)
        found = found.append(field)
    return found


def described() -> str:
    """The tables and their columns as Markdown: schemas/lake-v1.md."""
    lines = [f"# A lake, format {FORMAT}", ""]
    for table in TABLES:
        parted = "" if table.name == "rules" else " In directories dt=DAY/host=HOST."
        lines += [f"## {table.name}", "", f"{table.about}{parted}", ""]
        lines += ["| column | type | what |", "|---|---|---|"]
        for column in table.columns:
            kind = _KINDS[column.type]
            reference = f" → {column.references}" if column.references else ""
            kind += "" if column.required else ", may be NULL"
            lines.append(f"| {column.name} | {kind} | {column.about}{reference} |")
        lines += [f"| {twin} | TIMESTAMP | {name}, in UTC |" for name, twin in times(table).items()]
        lines.append("")
    return "\n".join(lines)
