"""Whether a recording that has come in is there whole: files go astray when a lake is copied, or cleaned up.

A recording's files are numbered from 1 on, and the one of the table recordings is the last that is written:
its number says how many there are.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from iptrec.lake.layouts import LAST
from iptrec.names import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from iptrec.lake.answer import Ask
    from iptrec.lake.layouts import Layout

_FILE: Final = re.compile(r"(.+)-([0-9]{1,18})\.parquet")
_COUNTED: Final = (
    "steps",
    "losses",
)  # tables, and the columns of recordings that say how many rows
_MOST_NAMED: Final = 3
_RULES_ASTRAY: Final = (
    "SELECT count(DISTINCT p.rule_id) FROM places p LEFT JOIN rules r ON r.rule_id = p.rule_id"
    " WHERE r.rule_id IS NULL"
)


def recording_of(file: str) -> str | None:
    """The recording that a file of this name is of."""
    match = _FILE.fullmatch(file)
    return match and match[1]


def all_there(paths: Iterable[str]) -> bool:
    """Whether no file is missing among these, one recording's, relative to the lake."""
    numbers: list[int] = []
    last = 0
    for path in paths:
        if match := _FILE.fullmatch(path.rpartition("/")[2]):
            numbers.append(int(match[2]))
            if path.startswith(f"{LAST}/"):
                last = numbers[-1]
    return sorted(numbers) == [*range(1, last + 1)]


def fits(
    root: Path,
    paths: Iterable[str],
    row: Mapping[str, Any],
    layouts: Mapping[str, Layout],
    rules: set[str],
) -> bool:
    """Whether the files are readable, and have as many rows as the recording's own says.

    ``rules``: the digests of those that are there; its places refer to no other. Raises OSError.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - optional

    found: Counter[str] = Counter()
    for path in paths:
        table = path.partition("/")[0]
        try:
            file = pq.ParquetFile(root / path)
            found[table] += file.metadata.num_rows
            if table == "places" and not rules.issuperset(
                file.read(["rule_id"]).column(0).unique().to_pylist()
            ):
                return False
        except (OSError, ValueError, KeyError) as error:
            if not is_broken(error):
                raise
            return False
    wanted = {name: row["packets"] for name, layout in layouts.items() if layout.leads}
    wanted |= {name: row[name] for name in _COUNTED if name in layouts}
    return all(found[name] == count for name, count in wanted.items())


def is_broken(error: Exception) -> bool:
    """Whether that says what is in a file, not that it cannot be read; some of pyarrow's are OSErrors, too."""
    return not (isinstance(error, OSError) and error.errno is not None)


def astray(path: Path, ask: Ask) -> list[str]:
    """What an answer lacks, in words; found by the names of files, and by the rules that are referred to."""
    files: dict[str, list[str]] = {}
    for one in path.glob("*/dt=*/host=*/*.parquet"):
        if own := recording_of(one.name):
            files.setdefault(own, []).append(str(one.relative_to(path)))
    come = {own for own, some in files.items() if any(one.startswith(f"{LAST}/") for one in some)}
    said = []
    if missing := sorted(own for own in come if not all_there(files[own])):
        named = ", ".join(missing[:_MOST_NAMED]) + (", ..." if missing[_MOST_NAMED:] else "")
        said.append(f"{path} lacks files of {counted(len(missing), 'recording')} ({named})")
    ((rules,),) = ask(_RULES_ASTRAY).rows
    if rules:
        said.append(f"{path} lacks {counted(rules, 'rule')} that recordings refer to")
    return said and [*said, "this answer may be wrong; export the recordings into it again"]
