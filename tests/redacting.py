"""Recordings redacted in a test, and all that is in them."""

from __future__ import annotations

import ipaddress
import json
import re
import sqlite3

import zstandard
from command import iptrec

KEY = b"a secret that everybody knows, for the same result each time"
_TEXT = re.compile(rb"[\x20-\x7e]{4,}")


def redact(tmp_path, recording, *options):
    """The redacted recording, and what was said on stderr."""
    key, output = tmp_path / "key", tmp_path / f"redacted-{recording.name}"
    key.write_bytes(KEY)
    done = iptrec("redact", recording, "-o", output, "--force", "--key", key, *options)
    return output, done


def everything(path):
    """All values of a recording, unpacked, in one piece."""
    parts = []
    connection = sqlite3.connect(path)
    for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type='table'"):
        for row in connection.execute(f"SELECT * FROM {table}"):
            for value in row:
                blob = isinstance(value, bytes)
                unpacked = zstandard.ZstdDecompressor().decompress(value) if blob else value
                parts.append(unpacked if blob else str(unpacked).encode())
    connection.close()
    whole = b"\n".join(parts)
    # Messages of nf_tables lie in JSON, too.
    hexadecimal = re.findall(rb'"messages": "([0-9a-f]*)"', whole)
    return whole + b"\n".join(bytes.fromhex(one.decode()) for one in hexadecimal)


def addresses(values):
    """The addresses in values of JSON that are not the same for everybody."""
    if isinstance(values, dict):
        values = [*values.values()]
    if isinstance(values, list):
        return set().union(*map(addresses, values)) if values else set()
    try:
        one = ipaddress.ip_address(values) if isinstance(values, str) else None
    except ValueError:
        return set()
    return {one} if one is not None and is_own(one) else set()


def is_own(address):
    """Whether an address tells something of whose it is."""
    if address.version == 6 and address in ipaddress.ip_network("2001:db8::/32"):
        return False
    documentation = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
    if any(address in ipaddress.ip_network(one) for one in documentation if address.version == 4):
        return False
    small = (
        address.version == 6 and address.is_link_local and int(address) & (1 << 64) - 1 < 1 << 16
    )
    # 0a 00 01 00 is an attribute of netlink as well
    network = int(address) & 0xFF == 0
    return not (
        address.is_loopback
        or address.is_multicast
        or address.is_unspecified
        or (address.version == 4 and address.is_link_local)
        or address.is_reserved
        or small
        or network
    )


def seen(recording):
    """The addresses and MAC addresses that iptrec shows of a recording, and those of its rules and lists."""
    packets = [json.loads(line) for line in iptrec("show", recording, "--json").stdout.splitlines()]
    text = everything(recording)
    written = [
        one.decode()
        for one in re.findall(
            rb"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])|[0-9a-f]{1,4}(?::[0-9a-f]{0,4}){2,7}",
            text,
        )
    ]
    macs = {link[end] for packet in packets if (link := packet["link"]) for end in ("src", "dst")}
    return addresses(packets) | addresses(written), {
        one for one in macs if not int(one[:2], 16) & 1 and one.strip("0:")
    }
