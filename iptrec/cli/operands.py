"""What `iptrec diff` compares: a recording at a moment, or what iptables-save or nft printed."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from iptrec.errors import RecordingError, UsageError, strerror

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    from iptrec.answers.diff_objects import Objects
    from iptrec.api import Recording
    from iptrec.decode.rulesets.types import Ruleset
    from iptrec.names import Family

    Rulesets = Mapping[Family, Ruleset]

Printed = Literal["iptables-save", "nft", "nft -j"]
FIRST_NS: Final = -(
    2**62
)  # what was there in the beginning is known from before the first event on
_STDIN: Final = "-"
_SQLITE: Final = b"SQLite format 3\0"
_LARGEST: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Operand:
    """Rules by family, and the objects of nf_tables; None where these are not known.

    ``any_family``: a file of iptables-save that does not say whose it is has its rules under both.
    ``empty``: a file of nothing, which each of the commands prints where no table is.
    """

    rulesets: Rulesets
    objects: Objects | None = None
    any_family: bool = False
    empty: bool = False


def both(first: str, second: str, *, utc: bool = False) -> tuple[Operand, Operand]:
    """The two operands, in words that can be compared. Raises `UsageError` where there are none.

    ``utc``: times without a zone are UTC.
    """
    files = [_text(one) for one in (first, second) if not is_recording(path_of(one))]
    printed = {_printed(one) for one in files if one.strip()}
    if len(printed) > 1:
        commands = " and ".join(sorted(printed))
        raise UsageError(
            f"cannot compare what {commands} print: use the same command for both"
            " (a recording is compared with either)"
        )
    words = next(iter(printed), None)
    old, new = (
        _recorded(one, words, utc=utc)
        if is_recording(path_of(one))
        else _of_file(path_of(one), files.pop(0))
        for one in (first, second)
    )
    old, new = _like_each_other(old, new)
    if old.rulesets and new.rulesets and not old.rulesets.keys() & new.rulesets.keys():
        # Equal is what was compared.
        raise UsageError(
            f"nothing to compare: there is {', '.join(old.rulesets)} in {first},"
            f" {', '.join(new.rulesets)} in {second}"
        )
    return old, new


@contextlib.contextmanager
def in_files(operands: list[str]) -> Iterator[list[str]]:
    """The operands, with what comes by pipes or stdin in files of our own: each is read more than once.

    Raises `UsageError` where stdin is both.
    """
    from iptrec.recording.spooled import STDIN, is_pipe, spooled

    if [path_of(one) for one in operands].count(_STDIN) > 1:
        raise UsageError("stdin (-) can be read only once; give a file for one of the two")
    with contextlib.ExitStack() as stack:
        found = []
        for one in operands:
            path = path_of(one)
            given = STDIN if path == _STDIN else Path(path)
            if is_pipe(given):
                file = stack.enter_context(spooled(given, recording=False))
                one = f"{file}{one[len(path) :]}"  # noqa: PLW2901
            found.append(one)
        yield found


def path_of(operand: str) -> str:
    """The file of FILE@WHEN; a file whose name holds an @ is itself."""
    path, at, _ = operand.rpartition("@")
    return path if at and not Path(operand).exists() else operand


def is_recording(path: str) -> bool:
    """Whether a file is one, by its first bytes."""
    from iptrec.recording.compressed import is_compressed

    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE or is_compressed(path)
    return False


def _text(operand: str) -> bytes:
    path = path_of(operand)
    if path != operand and (path == _STDIN or Path(path).exists()):
        raise UsageError(f"{path} is not a recording: it has no {operand[len(path) :]}")
    if path == _STDIN:
        return _read(path, sys.stdin.buffer)
    try:
        with Path(path).open("rb") as file:
            return _read(path, file)
    except OSError as error:
        raise RecordingError(f"cannot open {path}: {strerror(error)}") from None


def _read(path: str, file: BinaryIO) -> bytes:
    text = file.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise UsageError(f"{path} is larger than {_LARGEST >> 20} MB; compare a part of it")
    return text


def _printed(text: bytes) -> Printed:
    """The command that printed it, by how it begins."""
    begin = text.lstrip()
    if begin.startswith(b"{"):
        return "nft -j"
    return "nft" if begin.startswith(b"table ") else "iptables-save"


def _of_file(path: str, text: bytes) -> Operand:
    from iptrec.decode.rulesets import iptables_save

    if not text.strip():
        _tell_empty(path)
        return Operand({}, {}, empty=True)
    words = _printed(text)
    try:
        if words != "iptables-save":
            return _of_nft(text, words)
        parsed = iptables_save.parse(text)
    except (RecordingError, ValueError) as error:
        raise UsageError(f"{path}: {error}; is it a file of {words}?") from None
    except RecursionError:
        raise UsageError(f"{path}: it is nested too deeply; is it a file of {words}?") from None
    if text.startswith(b"# Generated by ip6tables-save"):
        return Operand({"ipv6": parsed})
    if text.startswith(b"# Generated by iptables-save"):
        return Operand({"ipv4": parsed})
    return Operand({"ipv4": parsed, "ipv6": parsed}, any_family=True)


def _tell_empty(path: str) -> None:
    """On stderr, for it may be that the command failed."""
    from iptrec.views.escape import printable

    print(
        f"iptrec diff: {printable(path)} is empty, as a host without tables prints it; was iptables-save run"
        " as root?",
        file=sys.stderr,
    )


def _of_nft(text: bytes, words: Printed) -> Operand:
    """A listing of nft. Raises `RecordingError` or ValueError for what nft does not print."""
    from iptrec.decode.rulesets import nft_json, nft_listing, nft_objects
    from iptrec.rulesets.nft import of_listing

    if len(text) > nft_json.LARGEST:
        raise nft_json.too_large()
    if words == "nft":
        listing = nft_json.parse(b"", nft_objects.numbered(text))
        return Operand(_of_both(of_listing(listing)), nft_objects.of_text(text))
    nft_listing.check(nft_listing.objects(text))
    text = nft_objects.stateless(text)
    return Operand(_of_both(of_listing(nft_json.parse(text))), nft_objects.of_json(text))


def _of_both(rulesets: Rulesets) -> Rulesets:
    """Those of nf_tables, which tells of both families: one that it tells no table of has none."""
    from iptrec.decode.rulesets.types import Ruleset
    from iptrec.names import FAMILIES

    return {family: rulesets.get(family, Ruleset()) for family in FAMILIES}


def _recorded(operand: str, words: Printed | None, *, utc: bool) -> Operand:
    """A recording's rules at a moment; those of nf_tables in these words, None: in any."""
    from iptrec.cli import recordings
    from iptrec.cli.moments import moment

    path = path_of(operand)
    when = operand[len(path) + 1 :]
    with recordings.opened(path) as recording:
        time_ns = None
        if when == "start":
            time_ns = FIRST_NS
        elif when not in ("", "end"):
            time_ns = moment(recording, f"{path}@", when, utc=utc)
        if time_ns is not None and words in ("nft", "nft -j"):
            _tell_changing(recording, operand, time_ns)
        try:
            return at(recording, time_ns, words)
        except RecordingError as error:
            if words != "nft -j":
                raise
            raise UsageError(f"{path}: {error}") from None


def _tell_changing(recording: Recording, operand: str, time_ns: int) -> None:
    """On stderr, where the rules may have changed since nft printed those that are compared."""
    from iptrec.rulesets import nft
    from iptrec.views.escape import printable

    namespaces = [one.id for one in recording.namespaces][:1]
    for one in recording.rows.snapshots(nft.TEXT, nft.UNKNOWN):
        own = one.namespace in namespaces
        if own and one.after_ns is not None and one.after_ns <= time_ns < one.time_ns:
            print(
                f"iptrec diff: {printable(operand)}: the rules of nf_tables changed about then, and nft printed"
                f" them {(one.time_ns - time_ns) / 1e9:.1f} s later; compared are those that it printed before",
                file=sys.stderr,
            )
            return


def at(recording: Recording, time_ns: int | None, words: Printed | None = None) -> Operand:
    """A recording's rules at a moment, ns since 1970, None: in the end; see `_recorded`."""
    from iptrec.decode.rulesets import nft_json, nft_objects
    from iptrec.rulesets import nft
    from iptrec.rulesets.backends import is_single

    namespace = next(iter(recording.namespaces), None)
    of_nft = namespace and any(one.kind == nft.NFT.stream for one in recording.rows.streams)
    if not (namespace and of_nft):
        return Operand(recording.rulesets(time_ns))
    listing, text = (
        nft.printed(recording.rows, kind, time_ns, namespace.id) for kind in (nft.LISTING, nft.TEXT)
    )
    if listing is None or text is None:
        return Operand(recording.rulesets(time_ns))
    if words == "nft -j":
        listing = nft_objects.stateless(listing)
        rules = _of_both(nft.of_listing(nft_json.parse(listing)))
        return Operand(rules, nft_objects.of_json(listing))
    objects = nft_objects.of_text(text)
    if words == "nft":
        return Operand(_of_both(nft.of_listing(nft_json.parse(listing, text))), objects)
    rulesets = recording.rulesets(time_ns)
    every = words is None and is_single(recording.rows)
    return Operand(_of_both(rulesets) if every else rulesets, objects)


def _like_each_other(old: Operand, new: Operand) -> tuple[Operand, Operand]:
    """A file that does not say its family is that of what it is compared with, IPv4 if neither says.

    One of nothing is nothing of all that the other has.
    """
    from iptrec.decode.rulesets.types import Ruleset

    if old.empty:
        old = replace(old, rulesets={family: Ruleset() for family in new.rulesets})
    if new.empty:
        new = replace(new, rulesets={family: Ruleset() for family in old.rulesets})
    if old.any_family and new.any_family:
        return _only(old, "ipv4"), _only(new, "ipv4")
    if old.any_family and new.rulesets:
        return _only(old, next(iter(new.rulesets))), new
    if new.any_family and old.rulesets:
        return old, _only(new, next(iter(old.rulesets)))
    return old, new


def _only(operand: Operand, family: Family) -> Operand:
    return Operand({family: operand.rulesets[family]})
