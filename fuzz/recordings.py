"""Mutated recordings through every view: an answer or one line, never a traceback or an escape sequence.

usage: python fuzz/recordings.py COUNT [SEED]

Every third one is a sample with bytes changed; the others have a chunk or a snapshot that was unpacked,
changed and packed again, so that what lies behind the checks is reached, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import sqlite3
import sys
import tempfile
from pathlib import Path

import zstandard

from iptrec.analyze.replay import Replay
from iptrec.analyze.rules import count_rules
from iptrec.analyze.selection import Selection
from iptrec.analyze.statistics import count_paths
from iptrec.analyze.summary import summarize
from iptrec.analyze.why import explain
from iptrec.errors import IptrecError
from iptrec.recording.reader import Reader
from iptrec.views import info, pcapng, tables, text
from iptrec.views import json as as_json
from iptrec.views import paths as paths_view
from iptrec.views import rules as rules_view
from iptrec.views import why as why_view

SAMPLES = [
    path.read_bytes() for path in sorted((Path(__file__).parents[1] / "samples").glob("*.db"))
]
LAYOUT = text.Layout(phys=True)
EVERYTHING = Selection()


def mutated(chance: random.Random, data: bytes) -> bytes:
    """Some bytes changed."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 30])):
        at = chance.randrange(len(changed))
        kind = chance.random()
        if kind < 0.6:  # noqa: PLR2004
            changed[at] = chance.choice([0, 255, 1, chance.randrange(256)])
        elif kind < 0.8:  # noqa: PLR2004
            changed[at] ^= 1 << chance.randrange(8)
        else:
            changed[at : at + 4] = chance.randbytes(4)
    return bytes(changed)


def make(chance: random.Random, number: int, path: Path) -> None:
    """Write a mutated recording."""
    sample = chance.choice(SAMPLES)
    if number % 3 == 0:
        path.write_bytes(mutated(chance, sample))
        return
    path.write_bytes(sample)
    pack, unpack = zstandard.ZstdCompressor().compress, zstandard.ZstdDecompressor().decompress
    with contextlib.closing(sqlite3.connect(path)) as file, contextlib.suppress(sqlite3.Error):
        if chance.random() < 0.5:  # noqa: PLR2004
            number, data = chance.choice(file.execute("SELECT id, data FROM chunk").fetchall())
            raw = mutated(chance, unpack(data))
            file.execute(
                "UPDATE chunk SET data = ?, size = ? WHERE id = ?", (pack(raw), len(raw), number)
            )
        else:
            name, data = chance.choice(file.execute("SELECT sha256, data FROM blob").fetchall())
            raw = mutated(chance, unpack(data))
            digest = hashlib.sha256(raw).hexdigest()
            file.execute(
                "UPDATE blob SET data = ?, size = ?, sha256 = ? WHERE sha256 = ?",
                (pack(raw), len(raw), digest, name),
            )
            file.execute("UPDATE snapshot SET blob = ? WHERE blob = ?", (digest, name))
        file.commit()


def look(path: Path) -> None:
    """Through every view; nothing that a terminal obeys comes out."""
    with Reader(path) as reader:
        said = []
        for traversal in Replay(reader):
            said += [text.render(traversal, LAYOUT), as_json.line(traversal)]
        said.append(info.as_text(reader, summarize(reader)))
        said += [paths_view.as_text(*one) for one in count_paths(reader, EVERYTHING)]
        said += ["\n".join(rules_view.as_text(one)) for one in count_rules(reader, EVERYTHING)]
        for one in explain(reader, EVERYTHING):
            said += why_view.as_text(one, colour=False)
        for what in ("packets", "stages", "events"):
            capture = pcapng.Capture(reader.facts, "auto")
            b"".join(pcapng.section(capture, reader, Replay(reader), what))
        list(tables.rows(reader, Replay(reader), {table.name for table in tables.TABLES}))
        for line in said:
            line.encode()
            assert not set(line) & set("\x1b\x9b\u202e\u2066"), ascii(line)  # noqa: S101


def main() -> None:
    """Count what came of it."""
    count, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1  # noqa: PLR2004
    chance = random.Random(seed)  # noqa: S311 - no secret
    answered = refused = 0
    with tempfile.TemporaryDirectory(prefix="iptrec-fuzz-") as directory:
        path = Path(directory) / "recording.db"
        for number in range(count):
            make(chance, number, path)
            try:
                look(path)
                answered += 1
            except IptrecError as error:
                assert "\n" not in str(error)  # noqa: S101, PT017
                refused += 1
            except Exception:
                kept = Path(f"crash-recording-{seed}-{number}.db")
                kept.write_bytes(path.read_bytes())
                print(f"kept as {kept}", file=sys.stderr)
                raise
    print(f"{count:,} mutated recordings: {answered:,} answered, {refused:,} refused in one line")


if __name__ == "__main__":
    main()
