"""The live tests on Debian's kernels, each in QEMU: make kernels. Writes KERNELS.md one directory up.

    python bench/kernels/run.py [--only bookworm,trixie] [--test NAME]... [--cache DIRECTORY] [--minutes 60]

Kernels and what was said in them stay in the cache. `tests.txt` lists what runs; with --test these alone, and
what the others did before stays on the page.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path

import debian
import guest
import page

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iptrec-kernels"
# A test waits for the kernel and for processes: an emulated processor takes ten times as long.
PYTEST = (
    "env", "OUTCOMES=/media/results/outcomes", f"PYTHONPATH={HERE}", "IPTREC_OWN_HOST=1", "IPTREC_SLOW=1",
    sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "outcomes", "--timeout", "900",
    "--tb", "short",
)  # fmt: skip


def main() -> None:
    """Ask for kernels, run the tests in each, write the page."""
    options = _options()
    listed = [one for one in (HERE / "tests.txt").read_text().splitlines() if one and one[0] != "#"]
    tests = options.test or listed
    for name in options.only.split(","):
        kernel = debian.kernel(name, options.cache)
        results = options.cache / "results" / name
        if not (options.test and _is_of(results, kernel.release)):
            shutil.rmtree(results, ignore_errors=True)
        results.mkdir(parents=True, exist_ok=True)
        (results / "kernel").write_text(kernel.release)
        (results / "tests").write_text("\n".join(tests))
        (results / "run").write_text(shlex.join([*PYTEST, "@/media/results/tests"]) + "\n")
        print(f"{name}: Linux {kernel.release}, {guest.accelerator()[1]} ...", flush=True)
        guest.run(kernel, HERE / "inside", results, options.minutes)
        print(page.summary(results), flush=True)
    (HERE.parent / "KERNELS.md").write_text(page.page(options.cache / "results"))


def _is_of(results: Path, release: str) -> bool:
    """Whether the results are this kernel's."""
    said = results / "kernel"
    return said.exists() and said.read_text() == release


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Live tests on Debian's kernels, in QEMU.")
    parser.add_argument("--only", default=",".join(debian.RELEASES), help="releases of Debian")
    parser.add_argument(
        "--test", action="append", metavar="NAME", help="pytest's name; again for more than one"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="for kernels and results")
    parser.add_argument("--minutes", type=int, default=120, help="for each kernel at most")
    return parser.parse_args()


if __name__ == "__main__":
    main()
