"""The life of programs in the kernel: made, or refused in words; gone with their descriptors."""

from __future__ import annotations

import contextlib
import mmap
import os
from typing import TYPE_CHECKING, Self

from iptrec.errors import HostError, strerror
from iptrec.kernel.bpf import bpf

if TYPE_CHECKING:
    from collections.abc import Mapping


class Programs:
    """Programs, with their maps; a context manager. ``advice``: by the number of an error, what to do then.

    Raises `HostError` with the reason where it does not work: the kernel is asked by trying.
    """

    def __init__(self, advice: Mapping[int, str]) -> None:
        self._open = contextlib.ExitStack()
        try:
            with contextlib.ExitStack() as self._making:
                self._make()
                self._open = self._making.pop_all()
        except (LookupError, ValueError) as error:  # kinds of types that are not known yet
            raise HostError(f"the kernel's types cannot be read: {error}") from None
        except OSError as error:
            told = advice.get(error.errno or 0)
            raise HostError(
                f"the kernel refuses the program: {strerror(error)}{f'; {told}' if told else ''}"
            ) from None

    def _make(self) -> None:
        """Make and attach them; each descriptor is to be `_kept`."""
        raise NotImplementedError

    def _kept(self, descriptor: int) -> int:
        self._making.callback(os.close, descriptor)
        return descriptor

    def _noted(self, size: int, prot: int = mmap.PROT_READ) -> tuple[int, memoryview]:
        """A map of so many bytes that programs write, and the numbers of 64 bits in it, as they are now.

        Those of its first page: what is mapped counts as memory of this process, used or not.
        """
        flags = bpf.MMAPABLE
        notes = self._kept(bpf.new_map(bpf.ARRAY, key=4, value=size, entries=1, flags=flags))
        return notes, memoryview(mmap.mmap(notes, mmap.PAGESIZE, prot=prot)).cast("q")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
