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
from views import look

from iptrec.errors import IptrecError

SAMPLES = [
    path.read_bytes() for path in sorted((Path(__file__).parents[1] / "samples").glob("*.db"))
]


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
