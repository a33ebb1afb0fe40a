"""What all sample scripts do: record some traffic in a lab into samples/NAME.db."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iptrec.demo.lab import Lab

HERE = Path(__file__).parent
# python -c PROGRAM HOST PORT [TEXT]: one UDP datagram, and its answer if there is one
UDP_CLIENT = """\
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
client = socket.socket(family, socket.SOCK_DGRAM)
client.settimeout(0.5)
client.connect((sys.argv[1], int(sys.argv[2])))
client.send(b"which rule ate my packet?")
try:
    client.recv(100)
except OSError:
    pass
"""


def record(lab: Lab, name: str, expression: str, traffic: str) -> Path:
    """Run a shell script in the lab's own namespace while recording; the file it went to.

    In ``traffic``, "@HOST " stands for what runs a command on a host, "udp " for the client above.
    """
    output = HERE / f"{name}.db"
    script = traffic.replace("@", "nsenter --net=/run/netns/")
    script = script.replace("udp ", f"python3 -c '{UDP_CLIENT}' ")
    lab.run(
        [
            *(
                sys.executable,
                "-m",
                "iptrec",
                "record",
                "--force",
                "--output",
                os.path.relpath(output),
            ),
            *(expression, "--", "sh", "-c", script),
        ]
    )
    return output
