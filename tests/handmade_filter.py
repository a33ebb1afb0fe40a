"""Recordings made by hand of packets that came in and passed the table filter."""

from __future__ import annotations

from handmade import UUID, HandMade, udp

RAW = (
    "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    f'-A PREROUTING -m comment --comment "iptrec:{UUID}" -j TRACE\nCOMMIT\n'
)
FILTER = "*filter\n:INPUT {policy} [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"


def rules(*lines, policy="ACCEPT", chains=(), more=""):
    """The table filter with these rules, "-j DROP" in INPUT or "a -j DROP" in the chain a."""
    text = FILTER.format(policy=policy) + "".join(f":{name} - [0:0]\n" for name in chains)
    for line in lines:
        chain = "INPUT " if line.startswith("-") else ""
        text += f"-A {chain}{line}\n"
    return RAW + more + text + "COMMIT\n"


def packet(*places, **fields):
    """A packet that came in and was seen at places of the table filter, "INPUT:rule:1"."""
    return fields, ["raw:PREROUTING:policy:2", *(f"filter:{one}" for one in places)]


def cut(**fields):
    """One that was not seen to its end."""
    return fields, ["raw:PREROUTING:policy:2"]


def recording(ruleset, *packets):
    events = []
    for ident, (fields, places) in enumerate(packets, 1):
        one = udp(f"{ident}".encode(), ident=ident, **fields)
        events += [(place, one, {"indev": 2}) for place in places]
    return HandMade().ruleset(ruleset).events(events)
