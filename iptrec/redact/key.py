"""The secret that all maps depend on, and the random numbers that it makes."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final, Self

from iptrec.redact.sums import ONES, total

LEAST: Final = 16  # bytes of a secret
_LEAST_SUMMED: Final = 4  # bytes of a payload whose sum stays: half of them are told by it


class Key:
    """The same secret makes the same numbers; without it nobody can tell them from others."""

    def __init__(self, secret: bytes) -> None:
        self._secret = hashlib.blake2b(secret).digest()

    @classmethod
    def random(cls) -> Self:
        """One that nobody knows."""
        return cls(secrets.token_bytes(32))

    def digest(self, purpose: str, data: bytes, size: int = 32) -> bytes:
        """``size`` bytes, at most 64; of another ``purpose`` they are others."""
        person = purpose.encode()[:16]
        return hashlib.blake2b(data, key=self._secret, person=person, digest_size=size).digest()

    def filler(self, data: bytes) -> bytes:
        """As many bytes in the place of ``data``: equal for equal ones.

        Their sum as of RFC 1071 is that of ``data``, where they are enough to hide it: so the checksum of a
        packet does not depend on how much of it was captured.
        """
        if not data:
            return b""
        digest = self.digest("filler", data, 32)
        found = bytearray((digest * (len(data) // len(digest) + 1))[: len(data)])
        if len(data) >= _LEAST_SUMMED:
            at = len(data) // 2 * 2 - 2
            found[at : at + 2] = b"\0\0"
            found[at : at + 2] = ((total(data) - total(bytes(found))) % ONES).to_bytes(2, "big")
        return bytes(found)
