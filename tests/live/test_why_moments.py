"""`iptrec why`: conditions of time, native ones and those of iptables, where people are not in UTC."""

from __future__ import annotations

import json
import re
import struct
import sys
import time
from collections import Counter

import frames
import pytest
from command import IPTREC
from judged import claims

pytestmark = pytest.mark.live

MINUTE, HOUR, DAY = 60, 3600, 86400


def localtime(east_s):
    """A file of tzfile(5), version 1: one timezone, without changes."""
    return b"TZif" + bytes(16) + struct.pack(">6IiBB", 0, 0, 0, 0, 1, 4, east_s, 0, 0) + b"IST\0"


NATIVE = """\
meta hour "{soon}"-"{later}"
meta hour "{before}"-"{later}"
meta hour != "{before}"-"{later}"
meta hour >= "{before}"
meta hour < "{before}"
meta hour "{later}"
meta hour {{ "{before}"-"{later}", "00:00" }}
meta hour != {{ "{before}"-"{soon}" }}
meta hour @hours
meta day "{day}"
meta day != "{day}"
meta day {{ "Sunday", "Wednesday" }}
meta day != {{ "{day}", "Tuesday" }}
meta time < "2030-01-01 00:00:00"
meta time > "2030-01-01 00:00:00"
meta time "2024-01-01 00:00:00"-"2037-01-01 00:00:00"
meta time != "2024-01-01 12:00:00"-"2037-01-01 00:00:00"
meta time {{ "2024-01-01 00:00:00"-"2037-01-01 00:00:00" }}
meta time "2023-11-14 22:13:20"
meta hour . meta day {{ "{before}"-"{later}" . "{day}" }}
""".splitlines()
IPTABLES = """\
-m time --timestart {before} --timestop {later}
-m time --timestart {later} --timestop {before}
-m time --timestart {before} --timestop {later} --kerneltz
-m time --datestart 2024-01-01T00:00:00 --datestop 2037-01-01T00:00:00 --kerneltz
-m time --weekdays {short}
-m time ! --weekdays {short} --kerneltz
-m time --monthdays {monthday}
""".splitlines()


def noon(now):
    """How far east of UTC it is noon: there, as in UTC, no time below is on another day."""
    return (12 * HOUR - now % DAY) // 1800 * 1800


def asked(lines, now, east_s=0):
    """The conditions, of times of the day as people ``east_s`` east of UTC have them."""
    midnight = now // DAY * DAY
    near = {
        "before": max(now - HOUR, midnight),
        "soon": min(now + 10 * MINUTE, midnight + DAY - 2 * MINUTE),
        "later": min(now + 70 * MINUTE, midnight + DAY - MINUTE),
    }
    clocks = {name: time.strftime("%H:%M", time.gmtime(one + east_s)) for name, one in near.items()}
    days = {name: time.strftime(how, time.gmtime(now)) for name, how in DAYS.items()}
    return [one.format(**clocks, **days) for one in lines]


THERE = ("env", "--unset=TZ")  # of the tests
DAYS = {"day": "%A", "short": "%a", "monthday": "%-d"}


@pytest.fixture
def now():
    """A whole minute, seconds since 1970."""
    return int(time.time()) // MINUTE * MINUTE


@pytest.fixture
def host(lab, now, tmp_path):
    """A lab in whose timezone it is noon."""
    frames.neighbour(lab)
    (tmp_path / "localtime").write_bytes(localtime(noon(now)))
    lab.run(["mount", "--bind", str(tmp_path / "localtime"), "/etc/localtime"])
    return lab


def recorded(host, tmp_path, backend):
    """The recording of a few packets."""
    path, sent = tmp_path / "t.db", tmp_path / "frames.json"
    sent.write_text(
        json.dumps(frames.of_neighbour(host, [frames.IPV4[one] for one in ("udp", "syn")]))
    )
    send = ["nsenter", "--net=/run/netns/h", sys.executable, "-c", frames.SEND, str(sent)]
    options = ["--iface", "v1", "--family", "ipv4", "--backend", backend]
    host.run([*IPTREC, "record", "-q", "-o", str(path), *options, "--", *send])
    return path


def test_conditions_of_nft_about_time(host, now, tmp_path):
    """Each is judged, as the kernel judged; rules are told as nft prints them there."""
    rules = "".join(
        f"add rule ip fw judged {one} counter\n" for one in asked(NATIVE, now, noon(now))
    )
    hours = asked(
        ['{{ typeof meta hour; flags interval; elements = {{ "{before}"-"{soon}" }}; }}'],
        now,
        noon(now),
    )
    host.run(
        [*THERE, "nft", "-f", "-"],
        stdin="add table ip fw\n"
        "add chain ip fw judged { type filter hook prerouting priority mangle; }\n"
        f"add set ip fw hours {hours[0]}\n{rules}",
    )
    path = recorded(host, tmp_path, "nft")
    hits, false = Counter(), []
    for _, rule, matched, judgement in claims(path, ("ip fw", "judged"), "v1"):
        hits[rule.handle] += matched
        if judgement.fits != matched:
            false.append((rule.spec, judgement))
    assert false == []
    listed = json.loads(host.run(["nft", "-j", "list", "ruleset"]).stdout)["nftables"]
    counted = {
        one["rule"]["handle"]: one["rule"]["expr"][-1]["counter"]["packets"]
        for one in listed
        if "rule" in one
    }
    assert len(counted) == len(NATIVE)
    assert {one: hits[one] for one in counted} == counted
    assert sum(map(bool, counted.values())) >= 8
    printed = host.run([*THERE, "nft", "-s", "list", "ruleset"]).stdout
    shown = host.run([*IPTREC, "rules", str(path)]).stdout
    words = [one for line in printed.splitlines() if (one := line.strip()).startswith("meta hour")]
    assert all(one.removesuffix(" counter") in shown for one in words)


def test_conditions_of_iptables_about_time(host, backend, now, tmp_path):
    """Each is judged, also by the kernel's own timezone."""
    rules = asked(IPTABLES, now)
    host.restore(
        None,
        "ipv4",
        "*mangle\n" + "".join(f"-A PREROUTING {one}\n" for one in rules) + "COMMIT\n",
        backend,
    )
    path = recorded(host, tmp_path, backend)
    hits, false = Counter(), []
    for _, rule, matched, judgement in claims(path, ("mangle", "PREROUTING"), "v1"):
        hits[rule.spec] += matched
        if judgement.fits != matched:
            false.append((rule.spec, judgement))
    assert false == []
    saved = host.run([f"iptables-{backend}-save", "-c", "-t", "mangle"]).stdout
    counted = {
        spec: int(number)
        for number, spec in re.findall(r"^\[(\d+):\d+\] -A PREROUTING (.*)$", saved, re.MULTILINE)
    }
    assert len(counted) == len(IPTABLES)
    assert {one: hits[one] for one in counted} == counted
