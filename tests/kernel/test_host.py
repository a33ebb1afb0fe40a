"""What a long-lived process asks of the C library."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Megabytes in pieces as large as the batches of a recorder, each with a small one behind it that stays.
SCRIPT = """
import ctypes, re
from iptrec.kernel import host

malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def own():
    return int(re.search(r"RssAnon:\\s*(\\d+)", open("/proc/self/status").read())[1])

host.keep_freed_memory()
pieces = []
for _ in range(300):
    pieces.append(malloc(100_000))
    ctypes.memset(pieces[-1], 1, 100_000)
    malloc(1000)
full = own()
for piece in pieces:
    free(piece)
kept = own()
host.give_back_memory()
print(full - kept, full - own())
"""


@pytest.mark.skipif(not hasattr(__import__("ctypes").CDLL(None), "malloc_trim"), reason="not glibc")
def test_memory_that_is_free_is_given_back():
    """It is kept while it is soon used again, and not for ever."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    at_once, then = map(int, done.stdout.split())
    assert at_once < 3000
    assert then > 25_000
