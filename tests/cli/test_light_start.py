"""What a small recording does not need is not loaded: a question is answered in a part of a second."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.db"))
# np.unique without options loads all of numpy.ma, which takes longer than the answer.
HEAVY = ("numpy.ma", "pandas", "pyarrow", "rich.console", "multiprocessing", "asyncio")
# All that judges whether rules match: no packet of this recording has an end that asks for it.
MATCHES = ("iptrec.matching", "iptrec.answers.last_seen")
HAIRPIN = next(one for one in SAMPLES if one.stem == "docker_hairpin")
ASK = f"""
import contextlib, io, sys
from iptrec.__main__ import main
paths = sys.argv[1:]
for command in ("show", "paths", "rules"):
    for path in paths:
        sys.argv[:] = ["iptrec", command, path]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            main()
print(*{{*{HEAVY!r}}} & sys.modules.keys())
"""


def test_heavy_modules():
    """Neither `show` nor `paths` nor `rules` loads any of these, whatever the sample."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, *SAMPLES], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_no_matches_to_show_packets():
    """`show` loads what may match only where a packet's end asks for it."""
    words = ["-X", "importtime", "-m", "iptrec", "show", str(HAIRPIN)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "iptrec.answers.behind" in loaded
    assert not loaded & {*MATCHES}
