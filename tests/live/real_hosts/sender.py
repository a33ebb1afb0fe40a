"""Send what a file holds, packets from the IP header on, each behind its length: sender.py FILE RATE.

Prints how many the kernel refused, by the error's name.
"""

import errno
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path

SO_SNDBUFFORCE = 32
BATCH = 32


def raw(family):
    out = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    out.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 1 << 24)
    return out


def packets(data):
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("!H", data, at)
        yield data[at + 2 : at + 2 + length]
        at += 2 + length


def main(path, rate):
    outs = {4: (raw(socket.AF_INET), slice(16, 20)), 6: (raw(socket.AF_INET6), slice(24, 40))}
    refused = Counter()
    begun = time.monotonic()
    for sent, packet in enumerate(packets(Path(path).read_bytes())):
        out, to = outs[packet[0] >> 4]
        try:
            out.sendto(packet, (socket.inet_ntop(out.family, packet[to]), 0))
        except OSError as error:
            refused[errno.errorcode[error.errno]] += 1
        if sent % BATCH == 0:
            time.sleep(max(0, sent / rate - (time.monotonic() - begun)))
    print(dict(refused))  # noqa: T201


main(sys.argv[1], float(sys.argv[2]))
