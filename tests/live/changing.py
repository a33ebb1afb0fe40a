"""Packets through a ruleset of nf_tables that changes all the time, and what a recording of them says.

Each packet has a source port of its own, and each ruleset rules that set a mark of its own: the kernel tells
the mark beside the rule, so each event says itself which rule it met. The judge knows it, the reading must not.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace

import recorder
import sides
from command import IPTREC

from iptrec.answers.packets import Packets
from iptrec.answers.summary import summarize
from iptrec.recording.reader import Reader

# Set where a processor is emulated (bench/kernels): rules are gone there before any program has listed them.
# What is told has to be true all the same, but how much of it is known is not asked.
SLOW = "IPTREC_SLOW" in os.environ
FIRST = 20000  # source port
RATE = 1000  # packets a second
PORTS = (5000, 5001, 5002)
AROUND = """\
table inet before {
    chain early { type filter hook prerouting priority mangle; udp dport 5000-5009 counter; }
}
table inet behind {
    chain late { type filter hook postrouting priority srcnat + 1; counter; }
}
"""
_CHAINS = """\
    chain refused { drop; }
    chain judged {
        RULES
    }
    chain forwarded { type filter hook forward priority filter; policy drop; jump judged; }
"""
_RULES = (
    "udp dport 5000 meta mark set {0} accept; udp dport 5001 meta mark set {0} goto refused;"
    " udp dport {{ 5002, 5003 }} meta mark set {0} accept"
)
# The table goes and comes with its handles, or its rules alone do.
RELOAD = f"table inet fw {{}}\ndelete table inet fw\ntable inet fw {{\n{_CHAINS}}}\n"
# A chain keeps its name, at another hook or where another chain jumps to it.
_BASE = "chain judged {{ type filter hook {} priority filter; policy drop; RULES; }}\n"
FORWARD, PREROUTING = (
    RELOAD.replace(_CHAINS, "    chain refused { drop; }\n    " + _BASE.format(hook))
    for hook in ("forward", "prerouting")
)
REFILL = f"flush table inet fw\ntable inet fw {{\n{_CHAINS}}}\n"
SLEEP, WAKE = "add table inet fw { flags dormant; }\n", "add table inet fw\n"
# A base chain is made anew, and what it jumps to is kept.
REBASE = f"flush table inet fw\ndelete chain inet fw forwarded\ntable inet fw {{\n{_CHAINS}}}\n"
# The kernel tells of all its rules before it detaches the chains of the tables behind it.
ASIDE = f"""\
table inet aside {{}}
delete table inet aside
table inet aside {{
    chain unused {{
        {"udp dport 1; " * 300}
    }}
}}
"""
# Two tables come and go in one commit, each time with other priorities at one hook.
MOVED = f"""\
table inet fw {{}}
delete table inet fw
table inet beside {{}}
delete table inet beside
table inet fw {{
    chain refused {{ drop; }}
    {_BASE.replace("priority filter", "priority PRIORITY").format("forward")}
}}
table inet beside {{
    chain judged {{
        type filter hook forward priority OTHER; policy accept
        udp dport 5000 counter; udp dport 5002 accept
    }}
}}
"""
_PRIORITIES = (-10, 0, 20), (-5, 5, 10, -200)
# Chains before those that trace, and beside them, which keep their names at other hooks.
EARLY = f"""\
table inet early {{}}
delete table inet early
table inet early {{
    {_BASE.replace("judged", "one").format("HOOK").replace("priority filter", "priority PRIORITY")}
    chain two {{ type filter hook NEXT priority OTHER; udp dport 5000 counter; }}
    chain refused {{ drop; }}
}}
"""
_HOOKS = (
    ("prerouting", -400),
    ("forward", -300),
    ("prerouting", -310),
    ("postrouting", -300),
    ("prerouting", -300),
)
_RESTORE = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:judged - [0:0]
-A FORWARD -j judged
-A judged -p udp --dport 5000 -j MARK --set-mark VALUE
-A judged -p udp --dport 5000 -m comment --comment mVALUE -j ACCEPT
-A judged -p udp --dport 5001 -j MARK --set-mark VALUE
-A judged -p udp --dport 5001 -m comment --comment mVALUE -j DROP
-A judged -p udp -j MARK --set-mark VALUE
-A judged -p udp -m comment --comment mVALUE -j ACCEPT
COMMIT
"""
# Two tables, which iptables-restore commits one after the other; the mark in a rule is that of the one before.
_TWO = "".join(
    f"*{table}\n-A FORWARD -p udp -j MARK --set-mark VALUE\n"
    f"-A FORWARD -p udp --dport 5000:{5001 + (table == 'mangle')} -m comment --comment mVALUE -j ACCEPT\n"
    "-A FORWARD -p udp -m comment --comment mVALUE -j DROP\nCOMMIT\n"
    for table in ("mangle", "filter")
)
SENDER = f"""\
import socket, sys, time
first, count, rate = map(int, sys.argv[1:])
begun = time.monotonic()
for number in range(count):
    time.sleep(max(0, begun + number / rate - time.monotonic()))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.bind(("", first + number))
        out.sendto(number.to_bytes(8, "little"), ("10.0.2.2", 5000 + number % {len(PORTS)}))
"""
_TEXT = re.compile(r"mark set 0x([0-9a-f]+)|--set-xmark 0x([0-9a-f]+)/|--comment m([0-9]+)")


@dataclass
class Told:
    """What a recording says of packets that were sent: each a number of them."""

    sent: int = 0
    told: int = 0  # at least once
    doubled: int = 0
    incomplete: int = 0
    unsure: int = 0
    wrong: int = 0  # and sure
    unread: int = 0  # with a rule of which no text was seen
    changes: int = 0

    def __str__(self):
        return " ".join(f"{name} {getattr(self, name)}" for name in self.__dataclass_fields__)


def rules(number):
    """Those of a native ruleset with a mark of its own."""
    return _RULES.format(1000 + number)


def moved(number):
    """Two tables whose chains keep their names, and have other priorities each time."""
    text = MOVED.replace("RULES", rules(number))
    for word, priorities in zip(("PRIORITY", "OTHER"), _PRIORITIES, strict=True):
        text = text.replace(word, str(priorities[number % len(priorities)]))
    return text


def early(number):
    """Two chains, each at another hook and priority each time."""
    text = EARLY.replace("RULES", rules(number))
    (hook, priority), (after, other) = (_HOOKS[(number + at) % len(_HOOKS)] for at in (0, 2))
    text = text.replace("HOOK", hook).replace("NEXT", after)
    return text.replace("PRIORITY", str(priority)).replace("OTHER", str(other))


def static(rules=""):
    """All tables of the native rulesets."""
    chains = _CHAINS.replace("RULES", rules)
    return f"{AROUND}table inet fw {{\n    set others {{ type ipv4_addr; }}\n{chains}}}\n"


def saved(number):
    """A ruleset of iptables with a mark of its own."""
    return _RESTORE.replace("VALUE", str(1000 + number))


def two_tables(number):
    """Both with one mark, of one version."""
    return _TWO.replace("VALUE", str(1000 + number))


def router(lab):
    """Two hosts, a and b, and the lab as the router between them; nobody answers."""
    sides.join(lab, "a", "b", peer="to-{name}")
    lab.restore("b", "ipv4", "*filter\n:OUTPUT DROP\nCOMMIT\n")
    lab.settle()


def run(lab, path, change, *, count, every_s, backend="nft", before=IPTREC):
    """Record ``count`` packets while ``change(number)`` changes the rules again and again."""
    router(lab)
    change(0)
    child = recorder.start(
        lab,
        "udp and src 10.0.1.2",
        "--backend",
        backend,
        "--force",
        "-o",
        path,
        notes=True,
        before=before,
    )
    command = [sys.executable, "-c", SENDER, str(FIRST), str(count), str(RATE)]
    sender = lab.popen(command, "a")
    changes = 0
    begun = time.monotonic()
    while sender.poll() is None:
        changes += 1
        change(changes)
        time.sleep(max(0, begun + changes * every_s - time.monotonic()))
    assert sender.returncode == 0
    child.send_signal(signal.SIGINT)
    _, noted = child.communicate(timeout=60)
    assert child.returncode == 0, noted
    found = judge(path, count, changes, mark_after=backend == "nft")
    with Reader(path) as reader:
        assert f"recorded {summarize(reader).events:,} events" in noted
    return found


def judge(path, count, changes, *, mark_after=True):
    """Compare the packets of a recording with the marks in them."""
    found = Told(sent=count, changes=changes)
    times = Counter()
    with Reader(path) as reader:
        assert not [one for one in reader.losses if one.of_events and one.events]
        for packet in Packets(reader):
            times[packet.header["sport"]] += 1
            found.incomplete += not packet.complete
            found.unsure += packet.ambiguous
            rules = [one for one in packet.steps if one.type == "rule"]
            found.unread += any(one.spec is None for one in rules)
            if mark_after:
                wrong = any(map(differs, rules))
            else:
                wrong = any(map(differs_from_next, packet.steps, packet.steps[1:]))
            found.wrong += not packet.ambiguous and wrong
    found.told = len(times)
    found.doubled = sum(number > 1 for number in times.values())
    return found


def differs(step):
    """Whether a rule's text says another mark than the kernel told beside it."""
    said = _TEXT.search(step.spec or "")
    if said is None or (step.mark == 0 and step.target == "MARK"):
        return False
    return (int(said[3]) if said[3] else int(said[1] or said[2], 16)) != step.mark


def differs_from_next(step, after):
    """The same of legacy iptables, which tells the mark before a rule: what one set the next event has."""
    if step.type != "rule" or step.target != "MARK":
        return differs(step)
    return differs(replace(step, mark=after.mark))
