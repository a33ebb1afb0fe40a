"""`iptrec why` of rules that look up sets of nf_tables whose elements change all the time."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from command import IPTREC
from judged import claims

pytestmark = pytest.mark.live
MOST_UNJUDGED = 0.05
FALSE = "false"

TABLE = """\
table inet fw {
	set ports { type inet_service; }
	set spans { type inet_service; flags interval; }
	set hosts { type ipv4_addr; flags interval; }
	set pairs { type ipv4_addr . inet_service; flags interval; }
	set triples { type inet_proto . ipv4_addr . inet_service; }
	set marks { type mark; }
	set links { type ifname; }
	set timed { type inet_service; flags timeout; }
	set couples { type ipv4_addr . inet_service; flags timeout; }
	set blocks { type ipv4_addr . inet_service; flags interval, timeout; }
	set banned { type inet_service; flags interval, timeout; }
	set grown { type inet_service; flags dynamic; }
	map verdicts { type inet_service : verdict; }
	map values { type inet_service : mark; }
	chain back {
		return
	}
	chain judged {
		type filter hook output priority filter;
		udp dport @ports counter
		udp dport != @ports counter
		udp dport @spans counter
		ip daddr != @hosts counter
		ip daddr . udp dport @pairs counter
		meta l4proto . ip daddr . udp dport @triples counter
		oifname @links counter
		udp dport @timed counter
		ip daddr . udp dport @couples counter
		ip daddr . udp dport @blocks counter
		udp dport @banned counter
		udp dport @grown counter
		udp dport 1005 add @grown { udp dport }
		meta mark set udp dport map @values counter
		meta mark @marks counter
		meta mark set 0
		udp dport vmap @verdicts
	}
}
"""

# Sends a packet each millisecond, and changes sets each 20 ms; now and then it makes all anew.
TRAFFIC = """
import random, socket, subprocess, sys, threading, time
table, anew, some = sys.argv[1], sys.argv[2] == "anew", random.Random(sys.argv[3])
port = lambda: some.randrange(1000, 1010)
host = lambda: f"127.0.0.{some.randrange(1, 5)}"
span = lambda: f"{(low := port())}-{low + some.randrange(1, 4)}"
timeout = lambda: f"timeout {some.choice(('100ms', '300ms', '1s', '1h'))}"
ELEMENTS = {
    "ports": port, "spans": span, "hosts": lambda: some.choice((host(), "127.0.0.2/31", "127.0.0.1-127.0.0.3")),
    "pairs": lambda: f"127.0.0.{some.choice((0, 2, 4))}/31 . {span()}",
    "triples": lambda: f"udp . {host()} . {port()}", "marks": lambda: some.randrange(3),
    "links": lambda: some.choice(("lo", "eth0")),
    "timed": lambda: f"{port()} {timeout()}", "couples": lambda: f"{host()} . {port()} {timeout()}",
    "blocks": lambda: f"127.0.0.{some.choice((0, 2, 4))}/31 . {span()} {timeout()}",
    "banned": lambda: f"{span()} {timeout()}",
    "verdicts": lambda: f"{port()} : jump back", "values": lambda: f"{port()} : {some.randrange(3)}",
}
def change():
    if anew and some.random() < 0.1:
        yield f"delete table inet fw\\n{table}"
        names = ELEMENTS
    else:
        names = some.sample(sorted(ELEMENTS), 4)
    for name in names:
        element = ELEMENTS[name]()
        if some.random() < 0.4:
            yield f"flush set inet fw {name}"
        yield f"add element inet fw {name} {{ {element} }}"
        if some.random() < 0.3:
            key = str(element).split(" : ")[0].split(" timeout")[0]
            yield f"delete element inet fw {name} {{ {key} }}"
def changing():
    while not done.wait(0.02):
        text = "\\n".join(change())
        subprocess.run(["nft", "-f", "-"], input=text, text=True, stderr=subprocess.DEVNULL)
done = threading.Event()
changer = threading.Thread(target=changing, daemon=True)
changer.start()
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
begun = time.monotonic()
for number in range(2000):
    time.sleep(max(0, begun + number / 1000 - time.monotonic()))
    out.sendto(b"x", (f"127.0.0.{number % 4 + 1}", 1000 + number % 13))
done.set()
changer.join()
"""


@pytest.mark.parametrize("anew", ["elements", "anew"])
def test_sets_that_change_all_the_time(lab, tmp_path, anew):
    """No claim is against the kernel, and few are not made; what rules add is not known."""
    rules, path = tmp_path / "rules.nft", tmp_path / "t.db"
    rules.write_text(TABLE)
    lab.run(["nft", "-f", str(rules)])
    traffic = [sys.executable, "-c", TRAFFIC, TABLE, anew, "7"]
    lab.run([*IPTREC, "record", "--backend", "nft", "udp", "-o", str(path), "--", *traffic])
    found: dict[str, Counter] = {}
    for _, rule, matched, judgement in claims(path, ("inet fw", "judged")):
        if "@" in rule.spec:
            said = judgement.fits if judgement.fits in (None, matched) else FALSE
            found.setdefault(rule.spec, Counter())[said] += 1
    assert all(not said[FALSE] for said in found.values()), found
    unknown = {spec for spec in found if "@grown" in spec}
    assert {*found["udp dport @grown counter"]} == {None}
    others = Counter()
    for spec in found.keys() - unknown:
        others += found[spec]
    assert others[True]
    assert others[False]
    assert others[None] < MOST_UNJUDGED * others.total(), found
