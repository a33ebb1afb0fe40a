"""A Wireshark user's home with iptrec's plugin and profile in it, and tshark as this user runs it."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from handmade import udp

SHIPPED = Path(__file__).parents[2] / "iptrec" / "wireshark"
PLUGINS = ".local/lib/wireshark/plugins"  # tshark -G folders
PROFILE = ".config/wireshark/profiles/iptrec"
FLAGS = {"True": "1", "False": "0"}  # as Wireshark has them from 4.2 on
SEPARATOR, AGGREGATOR = "\x1e", "\x1f"  # in no value: control characters are made visible


class Tshark:
    """Runs tshark with a home of its own; it may say nothing on stderr."""

    def __init__(self, home):
        self.environment = {
            **os.environ, "HOME": str(home), "LC_ALL": "C.UTF-8", "XDG_CONFIG_HOME": str(home / ".config"),
        }  # fmt: skip

    def __call__(self, *words):
        done = subprocess.run(
            ["tshark", *map(str, words)], env=self.environment, capture_output=True, check=False
        )  # fmt: skip
        said = [one for one in done.stderr.decode().splitlines() if "Running as user" not in one]
        assert (done.returncode, said) == (0, [])
        return done.stdout.decode()

    def fields(self, path, *names, words=()):
        """Of each packet a list of the values of each field."""
        asked = [word for name in names for word in ("-e", name)]
        form = ("-T", "fields", "-E", f"separator={SEPARATOR}", "-E", f"aggregator={AGGREGATOR}")
        lines = self("-n", "-r", path, *form, *asked, *words).split("\n")[:-1]
        return [
            [
                [FLAGS.get(one, one) for one in value.split(AGGREGATOR)] if value else []
                for value in line.split(SEPARATOR)
            ]
            for line in lines
        ]

    def count(self, path, expression):
        """How many packets a display filter finds."""
        return len(self.fields(path, "frame.number", words=("-Y", expression)))


@pytest.fixture(scope="session")
def tshark(tmp_path_factory):
    """With the plugin and the profile."""
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed (tools/system-packages tests)")
    home = tmp_path_factory.mktemp("wireshark")
    (home / PLUGINS).mkdir(parents=True)
    shutil.copy(SHIPPED / "iptrec.lua", home / PLUGINS)
    shutil.copytree(SHIPPED / "profile", home / PROFILE)
    made = Tshark(home)
    if "iptrec.lua" not in made("-G", "plugins") and os.geteuid() == 0:
        pytest.skip("this tshark runs no Lua as root")
    return made


def capture(*packets):
    """A pcapng file of raw IPv4 packets, each with comments."""
    made = _block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    made += _block(1, struct.pack("<HHI", 101, 0, 0))
    for said in packets:
        data = udp() + bytes(-len(udp()) % 4)
        told = b"".join(
            struct.pack("<HH", 1, len(one)) + one + bytes(-len(one) % 4) for one in said
        )
        head = struct.pack("<IIIII", 0, 0, 0, len(data), len(data))
        made += _block(6, head + data + told + bytes(4))
    return made


def _block(kind, body):
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size


@pytest.fixture(name="capture")
def _capture():
    return capture
