"""Real hosts under fire: are the hits those of the kernel's counters, and is what is told of each packet true?

usage: python bench/hosts.py [--count PACKETS] [--keep DIRECTORY] [HOST...]

firewalld, ufw, dockerd and podman make their own rules in a lab, where they are installed; kube-proxy's, fw4's
and kubeadm's are loaded. Packets come from outside, from the local network, from containers and from the host
itself. HOST: those whose name begins so. Of each difference, what it is.
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

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = (
    "host", "rules", "hit", "hits equal", "different", "not countable", "sent", "packets", "wrong and sure",
    "accepted, not seen", "unsure", "incomplete", "mixed", "lost",
)  # fmt: skip
SHOWN = 20


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("hosts", nargs="*", metavar="HOST")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=4000)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    print("|", " | ".join(HEAD), "|\n|" + "---|" * len(HEAD))
    for name, host in hosts.HOSTS.items():
        if options.hosts and not any(name.startswith(one) for one in options.hosts):
            continue
        if missing := host.missing():
            print(f"| {name} | skipped: {', '.join(missing)} not installed |", flush=True)
            continue
        begun = time.monotonic()
        with _directory(options.keep, name) as directory, Lab() as lab:
            lab.ip(None, "link set lo up")
            found = truth.run(lab, host, directory, options.count, options.rate)
        print("|", " | ".join(_row(name, found)), "|", flush=True)
        _tell(found, time.monotonic() - begun)


@contextlib.contextmanager
def _directory(keep: Path | None, name: str) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="iptrec-bench-") as directory:
            yield Path(directory)
    else:
        directory = keep / name.replace(", ", "-")
        directory.mkdir(parents=True, exist_ok=True)
        yield directory


def _row(name: str, found: Any) -> Iterator[str]:  # noqa: ANN401 - the tests have no types
    yield name
    for count in (found.rules, found.hit, found.equal, len(found.differing), found.uncountable):
        yield f"{count:,}"
    for count in (found.sent, found.packets, len(found.wrong), len(found.died)):
        yield f"{count:,}"
    for count in (found.unsure, found.incomplete):
        yield f"{count / max(1, found.packets):.3%}"
    yield f"{found.mixed:,}"
    yield f"{found.lost:,}"


def _tell(found: Any, seconds: float) -> None:  # noqa: ANN401
    """Everything that is not as it should be, on stderr."""
    say = [f"  {seconds:.0f} s; refused {found.refused}; {len(found.unseen)} sent and not traced; {dict(found.verdicts)}"]
    say += [f"  {place}: kernel {k}, recording {r}" for place, (k, r) in sorted(found.differing.items(), key=str)[:SHOWN]]
    say += [f"  {place}: {count} after the end" for place, count in found.noise.items()]
    for some in (found.wrong, found.died, found.unknown, found.unseen):
        say += [f"  {one}" for one in some[:SHOWN]]
    say += [f"  {times} x {why}" for why, times in found.reasons.most_common(SHOWN)]
    print("\n".join(say), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
