"""Comments of rules that hold what looks like lines of a listing: redacted, nothing of the answers changes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from command import IPTREC, iptrec
from redacting import everything, redact

pytestmark = pytest.mark.live

# Each may be typed behind --comment. What iptables-save and nft print of them has a line more, or what Python
# takes for the end of one (str.splitlines).
SEPARATORS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
COMMENTS = [
    *(f"zebedee{one}-A INPUT -i lo -j ACCEPT" for one in SEPARATORS),
    *(
        f"zebedee\n{line}"
        for line in (
            "", "\n", "mulberry", "# mulberry", ":MULBERRY ACCEPT [0:0]", "*mulberry", "COMMIT",
            "COMMIT\n*nat\n:X - [0:0]",
            "[0:0] -A INPUT -j DROP", "-A INPUT -j ACCEPT -m comment --comment mulberry", "\t}\n}",
            "\t\ttcp dport 7 drop", "table ip mulberry {\n\tchain c {",
        )
    ),
]  # fmt: skip
# Of iptables alone: nft has no quotes in quotes, and no backslash is more than one to it
OF_IPTABLES = [
    'zebedee "quixotic\n"',
    'zebedee " -j DROP\n-A INPUT -j ACCEPT -m comment --comment "',
    "zebedee \\\nquixotic\\",
    "zebedee '\n'",
    'zebedee \\" \n \\',
]
OF_NFT = ["zebedee\\", "zebedee\\\nquixotic", "zebedee\n", "zebedee { # quixotic\n}"]
NAMES = [b"zebedee", b"mulberry", b"quixotic"]


def answers(recording):
    """What is told of packets and rules, without words."""
    packets = [json.loads(line) for line in iptrec("show", recording, "--json").stdout.splitlines()]
    chains = [json.loads(line) for line in iptrec("rules", recording, "--json").stdout.splitlines()]
    ends = [
        (one["verdict"], one["complete"], one["reason"], (one["decided_by"] or {}).get("rule"))
        for one in packets
    ]
    hits = [[rule["packets"] for rule in one["rules"]] for one in chains]
    return ends, hits


def recorded(lab, path, backend, *options):
    """A ping that the last rule drops."""
    done = lab.run(
        [*IPTREC, "record", "icmp", "--backend", backend, *options, "-o", str(path), "--",
         "ping", "-c1", "-W1", "127.0.0.1"],
        check=False,
    )  # fmt: skip
    assert path.exists(), done.stderr
    return path


def holds(path, tmp_path, rules):
    """The last rule decides, in both recordings; of the comments nothing is left, nor of a pack."""
    before = answers(path)
    assert before[0][-1] == ("DROP", True, None, rules)
    assert before[1].count([*[0] * (rules - 1), 1]) == 1
    output, done = redact(tmp_path, path, "--check")
    assert done.returncode == 0, done.stderr
    assert answers(output) == before
    assert not [name for name in NAMES if name in everything(output)]
    pack = tmp_path / "shared.zip"
    made = iptrec("pack", path, "-o", pack, "--redact", "--key", tmp_path / "key")
    assert made.returncode == 0, made.stderr
    with zipfile.ZipFile(pack) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
        parts["unpacked"] = everything(Path(archive.extract("recording.db", tmp_path / "unpacked")))
    told = [(part, name) for part in parts for name in NAMES if name in parts[part]]
    assert told == []


def test_of_iptables(lab, backend, tmp_path):
    """One rule for each comment, in one chain: a line too many or too few moves those behind."""
    comments = [*COMMENTS, *OF_IPTABLES]
    rule = [f"iptables-{backend}", "-A", "INPUT", "-p", "udp", "-m", "comment", "--comment"]
    for one in comments:
        lab.run([*rule, one, "-j", "ACCEPT"])
    lab.run([f"iptables-{backend}", "-A", "INPUT", "-p", "icmp", "-j", "DROP"])
    holds(recorded(lab, tmp_path / "t.db", backend), tmp_path, len(comments) + 1)


def test_of_nft(lab, tmp_path):
    """Of rules, sets and their elements, chains, tables."""
    comments = [*COMMENTS, *OF_NFT]
    rules = "\n".join(f'udp dport 7 accept comment "{one}"' for one in comments)
    one, two, three, four = COMMENTS[-4:]
    text = f"""table ip fw {{
        comment "{one}"
        set s {{ type ipv4_addr; comment "{two}"; elements = {{ 192.0.2.1 comment "{three}" }}; }}
        chain in {{ comment "{four}"; type filter hook input priority 0;
        {rules}
        ip protocol icmp drop
        }}
    }}
    """
    lab.run(["nft", "-f", "-"], stdin=text)
    holds(recorded(lab, tmp_path / "t.db", "nft"), tmp_path, len(comments) + 1)


def test_of_rules_that_flush_took_out(lab, tmp_path):
    """Of nf_tables they are recorded in nft's words."""
    rule = ["iptables-nft", "-t", "raw", "-A", "PREROUTING", "-p", "udp", "-i", "mulberry"]
    lab.run([*rule, "-m", "comment", "--comment", "zebedee\nquixotic", "-j", "ACCEPT"])
    path = recorded(lab, tmp_path / "t.db", "nft", "--flush")
    assert b"PREROUTING iifname" in everything(path)
    output, done = redact(tmp_path, path, "--check")
    assert done.returncode == 0, done.stderr
    assert not [name for name in NAMES if name in everything(output)]
