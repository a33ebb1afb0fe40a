"""What the kernel's log tells of a packet, field by field (net/netfilter/nf_log_syslog.c).

A line is words: NAME=VALUE, the names of flags, and brackets around options and around the packet that an ICMP
error quotes. What a name means depends on what was before it: LEN is the packet's and then the datagram's, ID
is the packet's and then the echo's.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from iptrec.pasted.packet import (
    AH,
    DF,
    ESP,
    EVIL,
    FRAGMENT,
    ICMP,
    ICMPV6,
    MF,
    TCP,
    TCP_FLAGS,
    UDP,
    UDPLITE,
    Told,
    built,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMES: Final = {
    "TCP": TCP, "UDP": UDP, "UDPLITE": UDPLITE, "ICMP": ICMP, "ICMPv6": ICMPV6, "AH": AH, "ESP": ESP,
}  # fmt: skip
_IP_FLAGS: Final = {"CE": EVIL, "DF": DF, "MF": MF}
_NUMBER: Final = re.compile(r"(?:0x[0-9A-Fa-f]{1,16}|\d{1,20})", re.ASCII)
_HEX: Final = re.compile(r"\(?(?:[0-9A-F]{2})*\)?", re.ASCII)
_RESERVED_SHIFT: Final = 2  # RES has TCP's four reserved bits two bits further up
_AH_WORDS: Final = 1  # an AH of 12 bytes: the least one; its length is not told
# What has to be there behind the protocol, unless the line says INCOMPLETE or is of a later fragment
_ENDS: Final = {
    TCP: "urgent",
    UDP: "datagram_length",
    UDPLITE: "datagram_length",
    ICMP: "code",
    ICMPV6: "code",
}
_ECHOES: Final = {ICMP: (0, 8), ICMPV6: (128, 129)}


class CutError(ValueError):
    """A line that ends before it tells which packet it is about, or that is no line of the kernel's."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line's words behind the interfaces' names: the packet, whose it is, and its mark."""

    packet: Told
    uid: int | None = None
    gid: int | None = None
    mark: int = 0
    whole: bool = True  # not cut off behind what tells the packet


def parsed(text: str) -> Line:
    """What the words from SRC= on tell. Raises `CutError`, also for what is beyond its range."""
    words = _Words(text.split())
    try:
        reader = _Reader(words)
        reader.read()
        return reader.line()
    except CutError:
        raise
    except (ValueError, struct.error) as error:
        raise CutError(str(error)) from None


class _Words:
    """The words of a line; the last one may be cut."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._at = 0

    def __iter__(self) -> Iterator[str]:
        while self._at < len(self._words):
            self._at += 1
            yield self._words[self._at - 1]

    @property
    def over(self) -> bool:
        return self._at >= len(self._words)

    @property
    def next(self) -> str:
        return "" if self.over else self._words[self._at]

    def push(self, word: str) -> None:
        self._at -= 1
        self._words[self._at] = word


@dataclass(slots=True)
class _Reader:
    words: _Words
    quoted: bool = False
    found: dict[str, Any] = field(default_factory=dict)
    extensions: list[tuple[int, bytes]] = field(default_factory=list)
    incomplete: bool = False
    ended: bool = False  # the quote, by its bracket
    suspect: str = ""  # the field that the last word of the line told
    beside: dict[str, int] = field(default_factory=dict)

    def read(self) -> None:
        for given in self.words:
            word = given
            if self.quoted and word.endswith("]") and not word.startswith("["):
                word, self.ended = word[:-1], True
            if word:
                self._word(word)
            if self.ended:
                return

    def line(self) -> Line:
        cut = self._cut()
        if cut and self.suspect:
            self.found.pop(self.suspect, None)
            self.beside.pop(self.suspect, None)
        if cut and "urgent" not in self.found:  # it stands behind the flags
            self.found.pop("tcp_flags", None)
            self.found.pop("window", None)
        return Line(
            self.told(),
            self.beside.get("uid"),
            self.beside.get("gid"),
            self.beside.get("mark", 0),
            whole=not cut,
        )

    def told(self) -> Told:
        if not {"source", "destination", "protocol"} <= self.found.keys():
            raise CutError("it is cut off before it tells the protocol")
        return Told(**self.found, extensions=tuple(self.extensions))

    def _cut(self) -> bool:
        """Whether something is missing that the kernel would have written."""
        protocol = self.found.get("protocol")
        if self.incomplete or protocol is None or self.fragment:
            return False
        needed = {_ENDS.get(protocol, "protocol")}
        if self.found.get("kind") in _ECHOES.get(protocol, ()):
            needed.add("rest")
        return not needed <= self.found.keys() or not self._lengths_fit(protocol)

    def _lengths_fit(self, protocol: int) -> bool:
        """A datagram's length has no digits less than the packet's says: else it is cut."""
        told, length = self.found.get("datagram_length"), self.found.get("length")
        if protocol != UDP or told is None or length is None or self.found.get("flags", 0) & MF:
            return True
        return self.suspect != "datagram_length" or self._headers() + told == length

    def _headers(self) -> int:
        if len(self.found["source"]) == 4:  # noqa: PLR2004
            return 20 + len(self.found.get("options", b""))
        return 40 + sum(len(one) for _, one in self.extensions)

    @property
    def fragment(self) -> int:
        """The offset: a later fragment has no transport header."""
        return int(self.found.get("fragment", 0))

    @property
    def protocol(self) -> int | None:
        """What PROTO= told."""
        return self.found.get("protocol")

    def _word(self, word: str) -> None:
        name, equals, value = word.partition("=")
        if equals:
            self._named(name, value)
        elif word.startswith("FRAG:"):
            self._put("fragment", 8 * _number(word[5:]))
        elif word in _IP_FLAGS and self.protocol is None:
            self.found["flags"] = self.found.get("flags", 0) | _IP_FLAGS[word]
        elif word in TCP_FLAGS and self.protocol == TCP:
            self.found["tcp_flags"] = self.found.get("tcp_flags", 0) | TCP_FLAGS[word]
        elif word == "OPT":
            self._options()
        elif word in ("INCOMPLETE", "TRUNCATED"):
            self.incomplete = True
            if word == "INCOMPLETE" and self.words.next.startswith("["):  # [20 bytes], no quote
                for _, _ in zip(range(2), self.words, strict=False):
                    pass

    def _named(self, name: str, value: str) -> None:  # noqa: C901, PLR0912 - a case for each name
        packet = self.protocol is None
        if name.startswith("["):
            self._quote(f"{name[1:]}={value}")
        elif name in ("SRC", "DST"):
            key = {"SRC": "source", "DST": "destination"}[name]
            self._put(key, ipaddress.ip_address(value).packed)
        elif name == "PROTO":
            self._put("protocol", _NAMES[value] if value in _NAMES else _number(value, 8))
        elif name in ("TOS", "PREC"):
            self.found["tos"] = self.found.get("tos", 0) | _number(value, 8)
        elif name in _PLAIN:
            key, bits = _PLAIN[name]
            self._put(key, _number(value, bits))
        elif name == "LEN":
            self._put(
                "length" if packet else "datagram_length", _number(value, 17 if packet else 16)
            )
        elif name == "RES":
            self._put("reserved", _number(value, 8) >> _RESERVED_SHIFT)
            self.found.setdefault("tcp_flags", 0)
        elif name == "ID":
            if packet:
                self._put("id", _number(value, 16))
            else:
                self.beside["echo"] = _number(value, 16)
        elif name == "SEQ" and self.protocol in _ECHOES:
            self._put("rest", struct.pack("!HH", self.beside.pop("echo", 0), _number(value, 16)))
        elif name == "SEQ":
            self._put("seq", _number(value, 32))
        elif name in _RESTS and self.protocol in _ECHOES:
            self._put("rest", _RESTS[name](value))
        elif name in ("UID", "GID", "MARK") and not self.quoted:
            self.beside[name.lower()] = _number(value, 32)
            self._last(name.lower())

    def _options(self) -> None:
        """The bytes of options of IPv4 or TCP; of IPv6 what is told of an extension header."""
        if len(self.found.get("source", b"")) == 4 or self.protocol == TCP:  # noqa: PLR2004
            for word in self.words:
                if not _HEX.fullmatch(word):
                    self.incomplete |= "TRUNCATED" in word
                    self.words.push(word)
                    return
                if not word.endswith(")"):
                    continue
                options = bytes.fromhex(word.strip("()"))
                self._put("options" if self.protocol is None else "tcp_options", options)
                return
            self.incomplete = True
            return
        self._extension()

    def _extension(self) -> None:
        """IPv6: only of fragments, AH and ESP it is told what they are."""
        said = {one.partition(sign)[0]: one.partition(sign)[2] for one, sign in self._bracketed()}
        spi = _number(said.get("SPI") or "0", 32)
        if "FRAG" in said:
            at, number = _number(said["FRAG"], 16), int(said.get("ID") or "0", 16)
            more = "INCOMPLETE" in said
            self.extensions.append((FRAGMENT, struct.pack("!xxHI", at | more, number)))
            self.found["fragment"] = at
        elif "AH" in said:
            self.extensions.append((AH, struct.pack("!xBxxII", _AH_WORDS, spi, 0)))
        elif "ESP" in said:
            self.found |= {"protocol": ESP, "spi": spi}

    def _bracketed(self) -> Iterator[tuple[str, str]]:
        """The words up to the closing bracket, and what is between name and value of each."""
        for word in self.words:
            if word in (")", ")]"):  # behind ESP there is no blank
                if word == ")]":
                    self.words.push("]")
                return
            if word.startswith("PROTO="):  # the bracket was cut out
                self.words.push(word)
                return
            yield word, ":" if ":" in word else "="

    def _quote(self, first: str) -> None:
        self.words.push(first)
        inner = _Reader(self.words, quoted=True)
        inner.read()
        if inner.ended:
            try:
                self.found["body"] = built(inner.told())
            except ValueError:
                return  # a quote that is cut tells nothing more

    def _put(self, key: str, value: Any) -> None:  # noqa: ANN401 - the fields of `Told`
        self.found[key] = value
        self._last(key)

    def _last(self, key: str) -> None:
        if self.words.over:
            self.suspect = key


def _number(value: str, bits: int = 64) -> int:
    if not _NUMBER.fullmatch(value):
        raise CutError(f"{value!r} is not a number")
    number = int(value, 0) if value[:2] == "0x" else int(value)
    if number >> bits:
        raise CutError(f"{number} does not fit into {bits} bits")
    return number


_PLAIN: Final = {
    "TTL": ("ttl", 8), "HOPLIMIT": ("ttl", 8), "TC": ("tos", 8), "FLOWLBL": ("flow_label", 20),
    "SPT": ("sport", 16), "DPT": ("dport", 16), "ACK": ("ack", 32), "WINDOW": ("window", 16),
    "URGP": ("urgent", 16), "TYPE": ("kind", 8), "CODE": ("code", 8), "SPI": ("spi", 32),
}  # fmt: skip
_RESTS: Final = {
    "MTU": lambda value: struct.pack("!I", _number(value, 32)),
    "GATEWAY": lambda value: ipaddress.IPv4Address(value).packed,
    "PARAMETER": lambda value: bytes([_number(value, 8), 0, 0, 0]),
    "POINTER": lambda value: bytes.fromhex(value.zfill(8)),
}
