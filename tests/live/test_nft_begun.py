"""A recording that begins while rules of nf_tables change faster than nft lists them: each has its text."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading

import changing
import pytest
import recorder

COUNT = int(os.environ.get("IPTREC_CHANGING", "2000"))
pytestmark = [pytest.mark.live, pytest.mark.timeout(300 + COUNT // 100)]

# A set without a name, a named one, a jump: all of it stays, and is never listed.
STATIC = """\
table inet static {
    set some { type inet_service; elements = { 5000, 5001 }; }
    chain marked { udp dport { 5000, 5002 } meta mark set 1; udp dport @some meta mark set 2; }
    chain forwarded { type filter hook forward priority 5; ct state new,untracked jump marked; }
}
"""
TABLE = """\
table inet fw {{
    chain refused {{ drop; }}
    chain forwarded {{ type filter hook forward priority 0; policy accept; {}; }}
}}
"""


def commands(lab):
    """Of iptables, one rule each."""
    chosen = random.Random(7)  # noqa: S311 - no secret
    there = 20
    lines = (f"-A FORWARD {rule(chosen, one)}" for one in range(there))
    lab.run(["iptables-nft-restore"], stdin="\n".join(["*mangle", *lines, "COMMIT", ""]))

    def change(number):
        nonlocal there
        how = chosen.choice(["-A", "-I", "-R", "-D"])
        if how == "-A" or (how == "-I" and there < 30):
            arguments = ["-I" if how == "-I" else "-A", "FORWARD", *rule(chosen, number).split()]
            there += 1
        elif how == "-R":
            place = str(chosen.randint(1, there))
            arguments = ["-R", "FORWARD", place, *rule(chosen, number).split()]
        else:
            arguments = ["-D", "FORWARD", str(chosen.randint(1, there))]
            there -= 1
        lab.run(["iptables-nft", "-t", "mangle", *arguments])

    return change


def rule(chosen, number):
    return f"-p udp --dport {chosen.choice(changing.PORTS)} -j MARK --set-mark {1000 + number}"


def two_commits(lab):
    """A table goes in one, and comes back in another."""

    def change(number):
        lab.run(["nft", "delete table inet fw"], check=False)
        lab.run(["nft", "-f", "-"], stdin=TABLE.format(changing.rules(number)))

    return change


@pytest.mark.parametrize("tap", [True, False], ids=["tap", "no-tap"])
@pytest.mark.parametrize("case", [commands, two_commits])
def test_each_rule_has_its_text(lab, tmp_path, monkeypatch, case, tap):
    if not tap:
        monkeypatch.setenv("IPTREC_NO_TAP", "1")
    changing.router(lab)
    lab.run(["nft", "-f", "-"], stdin=STATIC)
    change = case(lab)
    over = threading.Event()

    def changes():
        number = 0
        while not over.is_set():
            number += 1
            change(number)

    thread = threading.Thread(target=changes)
    thread.start()
    try:
        path = tmp_path / "t.db"
        child = recorder.start(
            lab, "udp and src 10.0.1.2", "--backend", "nft", "-o", path, notes=True
        )
        rate = str(changing.RATE)
        lab.run([sys.executable, "-c", changing.SENDER, str(changing.FIRST), str(COUNT), rate], "a")
        child.send_signal(signal.SIGINT)
        _, noted = child.communicate(timeout=60)
    finally:
        over.set()
        thread.join()
    assert child.returncode == 0, noted
    told = changing.judge(path, COUNT, 0)
    assert (told.told, told.doubled, told.wrong) == (COUNT, 0, 0), (told, noted)
    if not changing.SLOW:
        assert told.unread == 0, (told, noted)
        assert told.unsure + told.incomplete <= COUNT / 100, (told, noted)
