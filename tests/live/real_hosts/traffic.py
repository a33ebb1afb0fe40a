"""Packets on their way: one sender and one receiver a host, processes of their own."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

_PROGRAMS = Path(__file__).parent


class Receivers:
    """Who notes the numbers that arrive: behind the rules at every neighbour, behind INPUT at the host."""

    def __init__(self, lab, hosts, directory):
        self._children = []
        for host in (None, *hosts):
            path = directory / f"arrived-{host or 'host'}"
            where = "local" if host is None else "elsewhere"
            child = _start(lab, host, "receiver.py", path, where)
            assert child.stdout.readline() == "ready\n"
            self._children.append((child, path))

    def stop(self):
        """End them, and return the numbers that arrived."""
        numbers = bytearray()
        for child, path in self._children:
            child.terminate()
            child.communicate(timeout=60)
            numbers += path.read_bytes()
        return set(memoryview(numbers).cast("I"))


def send(lab, packets, directory, rate):
    """Send each host's packets, ``rate`` a second of all together; what the kernel refused, by host."""
    total = sum(map(len, packets.values()))
    senders = {}
    for host, some in packets.items():
        path = directory / f"send-{host or 'host'}"
        path.write_bytes(b"".join(struct.pack("!H", len(one)) + one for one in some))
        senders[host] = _start(lab, host, "sender.py", path, max(1, rate * len(some) / total))
    said = {host: child.communicate(timeout=600)[0].strip() for host, child in senders.items()}
    return {host or "host": text for host, text in said.items() if text != "{}"}


def _start(lab, host, program, *arguments):
    command = [sys.executable, str(_PROGRAMS / program), *map(str, arguments)]
    return lab.popen(command, host, stdout=-1, text=True)
