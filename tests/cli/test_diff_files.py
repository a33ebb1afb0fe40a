"""`iptrec diff` of files that are empty, odd, or made to do harm: one line says what is wrong with which."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
from command import iptrec, program

DATA = Path(__file__).parents[1] / "data" / "nft"
NFT = (
    "table inet fw {\n\tchain in {\n\t\ttype filter hook input priority filter; policy accept;\n"
    "\t\taccept\n\t}\n}\n"
)
TABLE = {"table": {"family": "ip", "name": "t", "handle": 1}}
CHAIN = {"chain": {"family": "ip", "table": "t", "name": "c", "handle": 1}}
RULE = {"family": "ip", "table": "t", "chain": "c", "handle": 2, "expr": [{"accept": None}]}
SET = {"family": "ip", "table": "t", "name": "s", "handle": 3}
SAVED = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j DROP\nCOMMIT\n"
MEMORY = 700 << 20  # address space: an eighth of what 30 MB have cost


def printed(*objects):
    return json.dumps({"nftables": [*objects]})


def without(name, of):
    return {key: value for key, value in of.items() if key != name}


@pytest.fixture
def file(tmp_path):
    """Writes a file and gives its path."""

    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("empty", ["", "\n \n\t\n"])
@pytest.mark.parametrize(
    ("text", "created"),
    [
        (NFT, "@@ inet fw/in (inet) @@"),
        (printed(TABLE, CHAIN, {"rule": RULE}), "@@ ip t/c (ipv4) @@"),
        (SAVED, "@@ filter/INPUT (ipv4) @@"),
    ],
)
def test_an_empty_file_is_a_ruleset_of_nothing(file, empty, text, created):
    """No table was there when it was printed, whichever command it was; unless that failed, which is told."""
    operands = [file("empty", empty), file("full", text)]
    done = iptrec("diff", *operands)
    assert done.returncode == 1
    assert done.stderr == (
        f"iptrec diff: {operands[0]} is empty, as a host without tables prints it; was iptables-save run as"
        " root?\n"
    )
    assert created in done.stdout
    assert "-   " not in done.stdout
    assert iptrec("diff", *reversed(operands)).returncode == 1
    assert iptrec("diff", operands[0], operands[0]).stdout == "no difference\n"


ODD = {
    "no_object": (
        '{"nftables":[{"rule":[]},3,null]}',
        'object 1: its "rule" is not an object',
    ),
    "number": (printed(TABLE, 3), "object 2 is not an object of one key"),
    "two_keys": (printed({**TABLE, **CHAIN}), "object 1 is not an object of one key"),
    "no_family": (printed({"rule": without("family", RULE)}), 'object 1: its "rule" has no "family"'),
    "no_table": (printed(TABLE, {"rule": without("table", RULE)}), 'object 2: its "rule" has no "table"'),
    "no_handle": (printed({"rule": without("handle", RULE)}), 'object 1: its "rule" has no "handle"'),
    "no_chain": (printed({"rule": without("chain", RULE)}), 'object 1: its "rule" has no "chain"'),
    "no_expr": (printed({"rule": without("expr", RULE)}), 'object 1: its "rule" has no "expr"'),
    "no_name": (printed({"set": without("name", SET)}), 'object 1: its "set" has no "name"'),
    "expr": (printed({"rule": RULE | {"expr": "accept"}}), 'object 1: "expr" of its "rule" is not a list'),
    "handle": (printed({"rule": RULE | {"handle": "7"}}), 'object 1: "handle" of its "rule" is not a number'),
    "table": (printed({"rule": RULE | {"table": 1}}), 'object 1: "table" of its "rule" is not a text'),
    "elements": (
        printed({"set": SET | {"elem": {}}}),
        'object 1: "elem" of its "set" is not a list',
    ),
    "priority": (
        printed({"chain": CHAIN["chain"] | {"hook": "input", "type": "filter", "prio": "filter"}}),
        'object 1: "prio" of its "chain" is not a number',
    ),
    "policy": (printed({"chain": CHAIN["chain"] | {"policy": {}}}), '"policy" of its "chain" is not a text'),
    "timeouts": (
        printed({"ct timeout": SET | {"policy": "drop"}}),
        '"policy" of its "ct timeout" is not an object',
    ),
    "no_list": ('{"nftables":{}}', 'it has no list "nftables"'),
    "no_nftables": ('{"tables":[]}', 'it has no list "nftables"'),
    "cut": ('{"nftables":[{"table":', "it is not JSON (line 1, column 23)"),
    "deep": ('{"nftables":' + "[" * 100_000, "it is nested too deeply"),
    "deep_rule": (
        printed({"rule": RULE | {"expr": [0]}}).replace("[0]", "[" * 980 + "]" * 980),
        None,  # Python's limit decides, and no traceback tells
    ),
    "long_number": ('{"nftables":[' + "1" * 5000 + "]}", "it is not JSON"),
    "bytes": ('{"nftables":["\\ud800"]}', "object 1 is not an object of one key"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_what_nft_does_not_print_is_refused(file, case):
    """In one line that names the file and what is wrong; not taken for a ruleset without that."""
    text, message = ODD[case]
    path = file("odd.json", text)
    done = iptrec("diff", path, file("whole.json", printed(TABLE, CHAIN, {"rule": RULE})))
    assert "Traceback" not in done.stderr
    if message is not None:
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert f"{path}: " in done.stderr
        assert message in done.stderr
        for word in ("Error", "Expecting", "recording", "NoneType"):
            assert word not in done.stderr


CHANGED = {  # in a listing with every object that nft has: what it is, what is said of it; None: nothing
    "counter": ('"packets": 0, "bytes": 0', '"packets": 5, "bytes": 7', None),
    "quota": ('"bytes": 10485760, "used": 0', '"bytes": 20971520, "used": 9', "quota q"),
    "limit": ('"rate": 10, "per": "second", "burst": 5', '"rate": 10, "per": "minute", "burst": 5', "limit l"),
    "limit_of_bytes": ('"burst_unit": "kbytes"', '"burst_unit": "mbytes"', "limit lb"),
    "ct_helper": ('"type": "ftp"', '"type": "tftp"', "ct helper h"),
    "ct_timeout": ('"established": 100', '"established": 200', "ct timeout to"),
    "ct_expectation": ('"dport": 9876', '"dport": 9877', "ct expectation e"),
    "synproxy": ('"sack-perm"', '"wscale"', "synproxy sp"),
    "secmark": ("object_r:x", "object_r:y", "secmark sm"),
    "set": ('"policy": "memory"', '"policy": "performance"', "set s"),
    "flowtable": ('["lo", "eth0"]', '"lo"', "flowtable ft"),
    "element": ('"10.0.0.0"', '"11.0.0.0"', "set s"),
    "map": ('[80, "10.0.0.1"]', '[80, "10.0.0.2"]', "map m"),
    "policy_of_a_chain": ('"policy": "drop"', '"policy": "accept"', "policy"),
    "none": ('"handle": 1', '"handle": 1', None),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGED)
def test_every_object_of_nft_is_compared(file, case):
    """What nft -j prints of each of them is read, and a change of it is told."""
    before, after, named = CHANGED[case]
    text = (DATA / "objects.json").read_text()
    assert before in text
    operands = [file("base.json", text), file("new.json", text.replace(before, after))]
    done = iptrec("diff", *operands)
    assert (done.returncode, done.stderr) == (0 if named is None else 1, "")
    assert (named or "no difference") in done.stdout


REWRITTEN = {
    "its port": ("tcp dport 1 accept", "tcp dport 2 accept", "changed"),
    "its verdict": ("tcp dport 1 accept", "tcp dport 1 drop", "changed"),
    "all of it": ("tcp dport 1 accept", "ip saddr 10.0.0.1 drop", "inserted"),
}
_FIELD = (
    '{{"match":{{"op":"==","left":{{"payload":{{"protocol":"{}","field":"{}"}}}},"right":{}}}}}'
)
AS_JSON = {
    "tcp dport 1 accept": f'[{_FIELD.format("tcp", "dport", 1)},{{"accept":null}}]',
    "tcp dport 2 accept": f'[{_FIELD.format("tcp", "dport", 2)},{{"accept":null}}]',
    "tcp dport 1 drop": f'[{_FIELD.format("tcp", "dport", 1)},{{"drop":null}}]',
    "ip saddr 10.0.0.1 drop": "[" + _FIELD.format("ip", "saddr", '"10.0.0.1"') + ',{"drop":null}]',
}  # fmt: skip


@pytest.mark.parametrize("case", REWRITTEN)
def test_a_rule_is_rewritten_in_text_and_json_alike(file, case):
    """What two rules have in common is what they say, not how JSON nests it."""
    *rules, kind = REWRITTEN[case]
    head = '{"family":"ip","table":"t"'
    chain = f'{{"chain":{head},"name":"c","handle":1}}}}'
    texts = [f"table ip t {{\n\tchain c {{\n\t\t{rule}\n\t}}\n}}\n" for rule in rules]
    listed = [
        f'{{"nftables":[{{"table":{{"family":"ip","name":"t","handle":1}}}},{chain},'
        f'{{"rule":{head},"chain":"c","handle":2,"expr":{AS_JSON[rule]}}}}}]}}'
        for rule in rules
    ]
    for name, sides in (("text", texts), ("json", listed)):
        done = iptrec("diff", *[file(f"{name}{number}", one) for number, one in enumerate(sides)])
        assert (done.returncode, done.stderr) == (1, "")
        assert f"1 rule {kind}" in done.stdout, name


def test_a_jump_follows_the_name_of_its_chain(file):
    def listed(name):
        rule = {"family": "inet", "table": "f", "handle": 9}
        jump, goto = ({one: {"target": name}} for one in ("jump", "goto"))
        return printed(
            TABLE,
            {"chain": {"family": "inet", "table": "f", "name": name, "handle": 1}},
            CHAIN,
            {"rule": rule | {"chain": name, "expr": [{"accept": None}]}},
            {"rule": rule | {"chain": CHAIN["chain"]["name"], "expr": [jump]}},
            {"rule": rule | {"chain": CHAIN["chain"]["name"], "expr": [goto], "comment": "old"}},
        )

    done = iptrec("diff", file("old.json", listed("old")), file("new.json", listed("new")))
    assert done.stdout.splitlines()[-1] == "1 chain renamed"


def test_text_and_json_are_compared_by_way_of_a_recording(file):
    text = "table inet f {\n\tchain c {\n\t\taccept\n\t}\n}\n"
    done = iptrec("diff", file("a.nft", text), file("b.json", printed(TABLE)))
    assert done.returncode == 2
    assert "a recording is compared with either" in done.stderr


def test_stdin_is_read_once():
    """It cannot be both sides; nor has it a moment."""
    done = program("diff", "-", "-", input=SAVED)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "stdin (-) can be read only once" in done.stderr
    done = program("diff", "-@end", "-", input=SAVED)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def bounded():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


LARGE = {
    "quoted": ('-A INPUT -m comment --comment "{}" -j DROP'.format("a b " * (8 << 20)), "longer than"),
    "escaped": ('-A INPUT -m comment --comment "{}" -j DROP'.format(r"\"" * (8 << 20)), "longer than"),
    "lines": ('-A INPUT -m comment --comment "{}" -j DROP'.format("a b\n" * (4 << 20)), "longer than"),
    "words": ("-A INPUT " + "a " * (8 << 20), "longer than"),
    "open": ('-A INPUT --comment "' + "a" * (8 << 20), "longer than"),
    "hash": ("# " + "a " * (8 << 20), "longer than"),
}  # fmt: skip


@pytest.mark.parametrize("case", LARGE)
def test_a_line_that_is_too_long_is_refused(file, case):
    """Before it is read as words, which takes a hundred times as much memory."""
    line, message = LARGE[case]
    path = file("large.rules", f"*filter\n:INPUT ACCEPT [0:0]\n{line}\nCOMMIT\n")
    done = program("diff", path, path, preexec_fn=bounded)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


@pytest.mark.parametrize("text", ["table ip t {\n", '{"nftables":[{},{},'])
def test_a_listing_of_nft_that_is_too_large_is_refused(file, text):
    """As soon as that is seen."""
    path = file("large", text + "  " * (18 << 20))
    done = program("diff", path, path, preexec_fn=bounded)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "of more than 33,554,432 bytes is not read" in done.stderr


def test_json_that_nft_breaks_off(file):
    """At the flags of a dormant table (1.0.6): what to do instead is said."""
    path = file(
        "j", '{"nftables": [{"metainfo": {}}, {"table": {"family": "ip", "name": "t", "flags": \n'
    )
    done = iptrec("diff", path, path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"{path}: it ends at the flags of a table" in done.stderr
    assert "print them without -j" in done.stderr


@pytest.mark.parametrize("printed", ["numeric", "services"])
def test_numbers_are_names(tmp_path, printed):
    """What nft 1.0.6 printed of one ruleset with -n, or -S, is what it printed without."""
    named, other = DATA / "named.txt", DATA / f"{printed}.txt"
    assert named.read_text() != other.read_text()
    for operands in ((named, other), (other, named)):
        assert iptrec("diff", *operands).stdout == "no difference\n"
    changed = tmp_path / "changed"
    for old, new, kind in (
        ("protocol 6 ", "protocol 17 ", "1 rule changed"),
        ("ip protocol tcp ", "ip protocol udp ", "1 rule changed"),
        ("priority -140;", "priority -141;", "1 object changed"),
        ("elements = { 8 }", "elements = { 0 }", "1 element removed, 1 element added"),
        ("timeout 3600s", "timeout 3601s", "1 object changed"),
    ):
        if old in other.read_text():
            changed.write_text(other.read_text().replace(old, new))
            assert iptrec("diff", named, changed).stdout.splitlines()[-1] == kind
