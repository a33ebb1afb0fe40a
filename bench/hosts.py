"""Real hosts under fire: are the hits those of the kernel's counters, and is what is told of each packet true?

usage: python bench/hosts.py [--count PACKETS] [--keep DIRECTORY] [HOST...]

firewalld, ufw, dockerd and podman make their own rules in a lab, where they are installed; kube-proxy's, fw4's
and kubeadm's are loaded. Packets come from outside, from a local network, from containers and from the host
itself. HOST: those whose names begin so. The table is on stdout; on stderr, what each difference is.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path += [str(Path(__file__).parents[1] / one) for one in ("tests", "tests/live")]

from real_hosts import hosts, truth

from iptrec.demo.lab import Lab
from iptrec.packets.ends import DISCARDED

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = (
    "host", "sent", "traversals", "rules", "hit", "hits equal", "different", "not countable",
    "dropped, but arrived", "accepted, not seen", "mixed", "lost", "not traced",
    "discarded", "unsure", "incomplete",
    "without drops: unsure", "incomplete", "of these end surely told", "perhaps", "falsely", "not judged",
)  # fmt: skip
SHOWN = 20


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("hosts", nargs="*", metavar="HOST")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for name, host in hosts.HOSTS.items():
        if options.hosts and not name.startswith(tuple(options.hosts)):
            continue
        if missing := host.missing():
            print(f"| {name} | skipped: {', '.join(missing)} not installed |", flush=True)
            continue
        begun = time.monotonic()
        with _directory(options.keep, name) as directory, Lab() as lab:
            lab.ip(None, "link set lo up")
            found = truth.run(lab, host, directory, options.count)
        print(f"| {name} | {' | '.join(_row(found))} |", flush=True)
        print(
            f"{name}: {time.monotonic() - begun:.0f} s", *_flaws(found), sep="\n  ", file=sys.stderr
        )


@contextlib.contextmanager
def _directory(keep: Path | None, name: str) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory:
            yield Path(directory)
    else:
        directory = keep / name.replace(", ", "-")
        directory.mkdir(parents=True, exist_ok=True)
        yield directory


def _row(found: Any) -> Iterator[str]:  # noqa: ANN401 - the tests have no types
    seen, blind = found.seen, found.blind
    yield from _counts(found.sent, seen.packets, found.rules, found.hit, found.equal)
    yield from _counts(len(found.differing), found.uncountable)
    yield from _counts(len(found.wrong), len(found.vanished), seen.mixed, found.lost)
    yield from _counts(len(found.untraced), seen.verdicts[DISCARDED])
    for told in (seen, blind):
        yield from _shares(told.packets, told.unsure, told.incomplete)
    yield from _counts(found.ends, found.perhaps, len(found.false_ends), found.unjudged)


def _counts(*some: int) -> Iterator[str]:
    yield from (f"{one:,}" for one in some)


def _shares(whole: int, *some: int) -> Iterator[str]:
    yield from (f"{one / max(1, whole):.3%}" for one in some)


def _flaws(found: Any) -> Iterator[str]:  # noqa: ANN401
    """Everything that is not as it should be, or needs a reason."""
    yield f"{dict(found.seen.verdicts)}; refused: {found.refused}; not traced: {len(found.untraced):,}"
    for kind in ("differing", "noise"):
        for place, counts in list(getattr(found, kind).items())[:SHOWN]:
            yield f"{kind}: {place} {counts}"
    for kind in ("wrong", "vanished", "untraced"):
        for line in list(getattr(found, kind).values())[:SHOWN]:
            yield f"{kind}: {line}"
    yield from (f"false end: {line}" for line in found.false_ends[:SHOWN])
    for name, told in (("", found.seen), ("without drops: ", found.blind)):
        yield from (f"{name}unknown: {line}" for line in told.unknown[:SHOWN])
        for why, times in told.reasons.most_common(SHOWN):
            yield f"{name}{times:,} x {why}"


if __name__ == "__main__":
    main()
