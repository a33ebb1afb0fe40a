"""Recordings of nf_tables made by hand: listings, what the kernel tells of changes, and its traces."""

from __future__ import annotations

import json
import struct

from handmade import HandMade, attribute, netlink

from iptrec.recording.rows import Loss, Stream

INET, FORWARD = 1, 2
NEW_TABLE, DEL_TABLE, NEW_CHAIN, DEL_CHAIN, NEW_RULE, DEL_RULE = 0, 2, 3, 5, 6, 8
NEW_SET, DEL_SET, NEW_ELEMENTS, DEL_ELEMENTS, NEW_GENERATION, TRACE = 9, 11, 12, 14, 15, 17
CREATE, APPEND, REPLACE = 0x400, 0x800, 0x100
ACCEPT, DROP, CONTINUE = 1, 0, 2**32 - 1


def message(kind, *attributes, flags=0):
    """A message of nf_tables."""
    body = struct.pack("!BBH", INET, 0, 0) + b"".join(attribute(*one) for one in attributes)
    return netlink(0x0A00 | kind, body, flags=flags)


def text(name):
    return name.encode() + b"\0"


def u32(number):
    return struct.pack("!I", number)


def u64(number):
    return struct.pack("!Q", number)


def table(kind, handle, name="fw", flags=0):
    """A table came or went."""
    return message(kind, (1, text(name)), (2, u32(flags)), (4, u64(handle)))


def chain(kind, name, handle, *, of="fw", policy=None, hook=FORWARD):
    """A chain came or went; with a policy it is attached to a hook."""
    base = ()
    if policy is not None:
        place = attribute(1, u32(hook)) + attribute(2, u32(0))
        base = ((4, place), (5, u32(policy)), (7, text("filter")), (10, u32(1)))
    return message(kind, (1, text(of)), (2, u64(handle)), (3, text(name)), *base)


def expressions(what, hits=0):
    """Something, and a counter."""
    counter = attribute(1, text("counter")) + attribute(2, attribute(1, u64(hits)))
    other = attribute(1, text("something")) + attribute(2, what.encode())
    return attribute(1, counter) + attribute(1, other)


def rule(kind, of, handle, what="", *, after=None, flags=APPEND, hits=0, in_table="fw"):
    """A rule came or went; ``what`` it is made of."""
    position = () if after is None else ((6, u64(after)),)
    parts = (1, text(in_table)), (2, text(of)), (3, u64(handle)), *position
    return message(kind, *parts, (4, expressions(what, hits)), flags=flags)


def new_set(name, size, flags=0):
    """A set came; the bytes of a key."""
    return message(NEW_SET, (1, text("fw")), (2, text(name)), (3, u32(flags)), (5, u32(size)))


def element(kind, of, key, *, upto=None, ends=False, expires_ms=None):
    """An element came or went."""
    parts = attribute(1, attribute(1, key))
    if ends:
        parts += attribute(3, u32(1))
    if expires_ms is not None:
        parts += attribute(5, u64(expires_ms))
    if upto is not None:
        parts += attribute(10, attribute(1, upto))
    return message(kind, (1, text("fw")), (2, text(of)), (3, attribute(1, parts)))


def listing(chains, *, handle=1, name="fw", sets=(), **base):
    """What nft prints, as JSON and as text: chain -> (handle, words) of its rules; the first one has a hook.

    ``sets``: what nft's JSON has of each, but for its table. ``base``: the same of the hook.
    """
    objects = [{"table": {"family": "inet", "name": name, "handle": handle}}]
    objects += [{"set": {"family": "inet", "table": name, "handle": 80, **one}} for one in sets]
    lines = [f"table inet {name} {{ # handle {handle}"]
    for number, (one, rules) in enumerate(chains.items()):
        head = {"family": "inet", "table": name, "name": one, "handle": 90 + number}
        hook = {"type": "filter", "hook": "forward", "prio": 0, "policy": "accept"} | base
        objects.append({"chain": head | ({} if number else hook)})
        lines.append(f"\tchain {one} {{ # handle {90 + number}")
        for rule_handle, words in rules:
            place = {"family": "inet", "table": name, "chain": one, "handle": rule_handle}
            objects.append({"rule": place | {"expr": [_statement(words)]}})
            lines.append(f"\t\t{words} # handle {rule_handle}")
        lines.append("\t}")
    return json.dumps({"nftables": objects}).encode(), "\n".join([*lines, "}"]).encode()


def _statement(words):
    last = words.split()[-1]
    return {last: None} if words == last else {"something": words}


class NftHandMade(HandMade):
    """A recording in memory of nf_tables; times in milliseconds."""

    def __init__(self):
        super().__init__()
        self.streams = [Stream(1, 1, "nftrace", {"slots": 1}), Stream(2, 1, "nftables", {})]

    def listed(self, chains, time, *, generation=None, since=None, after=None, **more):
        """The ruleset is listed, or those from ``since`` on."""
        printed, words = listing(chains, **more)
        number = [] if generation is None else [("nft-generation", str(generation).encode())]
        if since is not None:
            number = [("nft-generations", f"{since} {generation}".encode())]
        return self._snapshots(time, after, *number, ("nft-text", words), ("nft", printed))

    def unseen(self, time, after=None):
        """The ruleset was gone before it was listed."""
        return self._snapshots(time, after, ("nft-unknown", b""))

    def _snapshots(self, time, after, *parts):
        for kind, content in parts:
            if after is None and self.snapshots_:
                after_ns = self.snapshots_[0].time_ns
            else:
                after_ns = None if after is None else after * 10**6
            self.snapshot(kind, content, time * 10**6, after_ns)
        return self

    def commit(self, generation, time, *messages):
        """The kernel tells of a transaction."""
        end = message(NEW_GENERATION, (1, u32(generation)))
        return self._told(2, time, [b"".join(messages), end] if messages else [end])

    def traced(self, time, *events):
        """The kernel tells of traces, or of nothing."""
        return self._told(1, time, list(events) or [netlink(1)])

    def lost(self, time):
        self.losses.append(Loss(2, time * 10**6, time * 10**6, None, "enobufs"))
        return self

    def _told(self, stream, time, datagrams):
        return self.received(stream, [time * 10**6] * len(datagrams), datagrams)


def event(packet, trace, of, handle=None, *, policy=None, verdict=CONTINUE, dumps=False):
    """A message of a trace: of a rule, of a chain's end, or of a policy."""
    parts = [
        (1, text("fw")),
        (2, text(of)),
        (4, u32(1 if policy is not None else 2)),
        (6, u32(trace)),
    ]
    if handle is not None:
        parts.append((3, u64(handle)))
    if policy is not None:
        parts.append((16, u32(policy)))
    else:
        parts.append((5, attribute(1, u32(verdict))))
    if dumps:
        parts += [(8, packet[:20]), (9, packet[20:40])]
    return message(TRACE, *parts, (15, u32(2)))
