"""What is to be said of a recording that was made of text: what it does not tell, and how exact times are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from iptrec.names import counted
from iptrec.recording.rows import REMARKS
from iptrec.views.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.recording.rows import Recording, Stream

# By the source that a stream names: what made its lines, how events get lost, and what is not told.
_SOURCES: Final = {
    "kernel-log": (
        "lines of the kernel's log",
        "the kernel's buffer and the log daemon drop lines without a word",
        "payload, checksums, the last bit of TOS and extension headers of IPv6 but for fragments are not known",
    ),
    "nft-monitor": (
        "lines of nft monitor trace",
        "nft says so where the kernel had no room, but lines may have been left out",
        "payload, checksums, sequence numbers, fragments, and marks but at policies are not known",
    ),
    "xtables-monitor": (
        "lines of xtables-monitor --trace",
        "lines may have been left out",
        "payload, checksums, sequence numbers, marks, types of ICMP, and some protocols are not known",
    ),
}
_UNITS: Final = (
    (60_000_000_000, "minute"),
    (1_000_000_000, "second"),
    (1_000_000, "ms"),
    (1_000, "us"),
)


def sources(recording: Recording) -> Iterator[str]:
    """Where its events come from, for `info`."""
    for stream in _rebuilt(recording):
        what, _, untold = _known(stream)
        yield f"{what}; packets are rebuilt from what it tells: {untold}"


def remark(recording: Recording) -> str:
    """The same in short, for answers about packets; "" for a recording of the kernel's own messages."""
    for stream in _rebuilt(recording):
        what, alike = _known(stream)[0], _alike(stream)
        return f"packets are rebuilt from {what}; lost lines and payload are not known{alike}, see iptrec info"
    return ""


def uncounted(recording: Recording) -> str:
    """That it is not known whether events are missing, and why; "" where losses are counted."""
    if all(one.detail.get("sequence") is not False for one in recording.streams):
        return ""
    why = "the capture has no sequence numbers"
    for stream in _rebuilt(recording):
        why = f"{_known(stream)[1]}{_alike(stream)}"
    return f"whether events are missing is not known ({why})"


def remarks(recording: Recording) -> Iterator[str]:
    """What `import` had to say of its source."""
    for stream in recording.streams:
        said = stream.detail.get(REMARKS)
        if isinstance(said, list):
            yield from (printable(one) for one in said if isinstance(one, str))


def times(recording: Recording) -> Iterator[str]:
    """How exact the times are."""
    for stream in _rebuilt(recording):
        told = stream.detail.get("times")
        if isinstance(told, dict):
            yield _times(told)


def _times(told: dict[str, Any]) -> str:
    if told.get("kind") == "none":
        return "not known, only the order: the text tells none"
    if told.get("kind") == "since-boot":
        return f"seconds since the boot, which is taken to have been at 1970-01-01 00:00 UTC{_exact(told)}"
    words = f"as the text tells them{_exact(told)}"
    if told.get("zone") is False:
        words += "; their zone is not told: that of the machine where they were imported was taken"
    if told.get("year") is False:
        words += "; their year is not told: the last one before the file was changed was taken"
    return words


def _exact(told: dict[str, Any]) -> str:
    exact = told.get("exact_ns")
    if not isinstance(exact, int):
        return ""
    size, unit = next((one for one in _UNITS if exact >= one[0]), (1, "ns"))
    return f", to {exact // size} {unit}"


def _alike(stream: Stream) -> str:
    """That some lines may be the same event: a packet may be there twice."""
    alike = stream.detail.get("alike")
    if not isinstance(alike, int) or alike <= 0:
        return ""
    return f", {counted(alike, 'line')} may be there twice"


def _rebuilt(recording: Recording) -> list[Stream]:
    return [one for one in recording.streams if one.detail.get("rebuilt") is True]


def _known(stream: Stream) -> tuple[str, str, str]:
    source = stream.detail.get("source")
    if isinstance(source, str) and source in _SOURCES:
        return _SOURCES[source]
    name = printable(source) if isinstance(source, str) else "text"
    return name, "its source has no sequence numbers", "what it does not tell is not known"
