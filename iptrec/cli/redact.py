"""``iptrec redact``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from iptrec.cli.output import Mode
from iptrec.cli.record_options import Force
from iptrec.errors import EXIT_DONE, EXIT_NO, RecordingError, UsageError, strerror
from iptrec.names import counted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from iptrec.api import Recording
    from iptrec.recording.rewrite import Rewrite
    from iptrec.redact.key import Key
    from iptrec.redact.recorded import Redacted

_MOST_KEY: Final = 1 << 16  # bytes
_RANGES: Final = 3  # that are told
_SHOWN: Final = 5  # differences

KeyFile = Annotated[
    str,
    typer.Option(
        "--key",
        metavar="FILE",
        help="Map with this secret, which is made if it is not there: recordings that are mapped with the"
        " same one, and whose rules have the same ranges, agree. Do not share it.",
    ),
]
Keep = Annotated[
    str,
    typer.Option(
        "--keep",
        metavar="WHAT,...",
        help="What stays: names (of interfaces, chains, sets, and comments), macs, oui (the vendor's"
        " half of MAC addresses), payload. Ports always stay, so the word ports changes nothing.",
    ),
]


def redact(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help="The recording.")],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="The redacted one; - is stdout."),
    ],
    key: KeyFile = "",
    keep: Keep = "",
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Compare all answers of both recordings; where one differs, say which, leave no file, and"
            " exit with 1.",
        ),
    ] = False,
    force: Force = False,
    mode: Mode = "",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No word on stderr.")] = False,
) -> int:
    """Take addresses, names and payloads out, to share it.

    Each address becomes another one, with a random key that is thrown away. Prefixes stay: packets of a network
    of the rules are so afterwards, and iptrec show and why answer the same. Private networks stay private ones;
    loopback, multicast, documentation and the like are not mapped. Names keep their parts that everybody has
    (DOCKER, KUBE-SEP-, eth0); the host's name and the command line go. Payloads become random bytes of their
    length. Ports, times, lengths, TTLs, sequence numbers, numbers of users stay. What iptrec does not
    understand it takes out, and says so. See docs/redact.md.

    Rules whose addresses cannot be mapped so that they stay true are refused, with their text.

    Examples:

      iptrec redact trace.db -o shared.db --check

      iptrec redact trace.db -o shared.db --keep names
    """
    from iptrec.cli import gzipped, recordings
    from iptrec.cli.output import built
    from iptrec.recording.hosts import hosts
    from iptrec.recording.rewrite import Rewrite
    from iptrec.redact.recorded import redacted

    gzipped.require_plain(Path(output), "redact")
    keeps, checked = kept_words(keep), ""
    remarks: list[str] = []
    with recordings.opened(recording, merged=True) as source:
        secret = key_of(key)
        made = redacted(source.rows, secret, keeps)
        with built(output, recording, force=force, mode=mode) as draft:
            with Rewrite(draft, merged=bool(hosts(source.rows))) as rewrite:
                write(made, rewrite)
            remarks += taken_out(made)
            if check:
                found = _check(source, draft.path, made)
                if found is None:
                    raise typer.Exit(EXIT_NO)
                checked = found
    if not quiet:
        _tell(output, checked, remarks)
    return EXIT_DONE


def kept_words(text: str) -> Collection[str]:
    """The words of --keep. Raises `UsageError` for others."""
    from iptrec.redact.maps import KEEPS

    words = [one.strip() for one in text.split(",") if one.strip()]
    for one in words:
        if one not in KEEPS:
            raise UsageError(f"--keep {one!r}: must be one of {', '.join(KEEPS)}")
    return words


def key_of(path: str) -> Key:
    """Of a file, which is made where there is none; or a random one."""
    from iptrec.redact.key import LEAST, Key

    if not path:
        return Key.random()
    try:
        with Path(path).open("rb") as file:
            secret = file.read(_MOST_KEY)
    except FileNotFoundError:
        return Key(_made(Path(path)))
    except OSError as error:
        raise UsageError(f"--key {path}: {strerror(error)}") from None
    if len(secret) < LEAST:
        raise UsageError(
            f"--key {path}: has {len(secret)} bytes; a secret has {LEAST} at least (head -c 32 /dev/urandom)"
        )
    return Key(secret)


def _made(path: Path) -> bytes:
    """A new secret in a file that nobody else can read."""
    import secrets

    from iptrec.files import Draft

    secret = secrets.token_hex(32).encode() + b"\n"
    try:
        with Draft(path) as draft:
            with draft.stream() as file:
                file.write(secret)
            draft.publish(replace=False)
    except OSError as error:
        raise RecordingError(f"cannot write {path}: {strerror(error)}") from None
    return secret


def write(made: Redacted, rewrite: Rewrite) -> None:
    """All rows of a redacted recording."""
    for number, (file, facts) in enumerate(made.facts(), 1):
        rewrite.facts(facts, number, file)
    for namespace, number in made.namespaces():
        rewrite.namespace(namespace, number)
    for stream in made.streams():
        rewrite.stream(stream)
    for snapshot in made.snapshots():
        rewrite.snapshot(snapshot)
    for chunk in made.chunks():
        rewrite.chunk(chunk)
    for loss in made.losses():
        rewrite.loss(loss)
    rewrite.close()


def _check(source: Recording, path: Path, made: Redacted) -> str | None:
    """What was compared, and found equal; None where something differs, which is told on stderr."""
    from iptrec.api import Recording
    from iptrec.cli.redact_check import check
    from iptrec.recording.reader import Reader
    from iptrec.recording.several import together
    from iptrec.redact.compare import Comparison
    from iptrec.views.escape import printable

    with Reader(path) as reader:
        found = check(source, Recording(together([reader])), Comparison(made.maps), _SHOWN)
    if not found.differs:
        return found.in_words
    for one in found.first:
        more = len(one.where) - _SHOWN
        where = ", ".join([*one.where[:_SHOWN], *([f"and {more:,} more"] if more > 0 else [])])
        print(f"iptrec redact: {printable(one.what)} differs: {printable(where)}", file=sys.stderr)
    rest = len(found.different) + found.others - len(found.first)
    if rest:
        print(f"iptrec redact: and {rest:,} more", file=sys.stderr)
    told = (
        [f"{counted(len(found.different), 'packet')} of {found.packets:,}"]
        if found.different
        else []
    )
    told += [counted(found.others, "rule") + " or addresses"] if found.others else []
    print(
        f"iptrec redact: {' and '.join(told)} would tell something else; no file is left; without --check it is"
        " written",
        file=sys.stderr,
    )
    return None


def _tell(output: str, checked: str, remarks: list[str]) -> None:
    """On stderr: what was done, and what was taken out."""
    told = [f"redacted: {output}", checked, *remarks]
    print(f"iptrec redact: {'; '.join(filter(None, told))}", file=sys.stderr)


def taken_out(made: Redacted) -> Iterator[str]:
    """What else is to be known of a redacted recording."""
    if removals := made.maps.removals:
        listed = "; ".join(f"{what} ({many:,})" for what, many in sorted(removals.items()))
        yield f"taken out, for it is not understood or may tell: {listed}"
    if some := made.maps.ends_stay:
        more = f" and {len(some) - _RANGES:,} more" if len(some) > _RANGES else ""
        yield (
            "both ends, and the networks that these are in, stay as they are of ranges over several /8 (IPv6:"
            f" /16): {', '.join(some[:_RANGES])}{more}"
        )
