"""What goes back into the raw table, and what stays out, judged by what is there."""

from __future__ import annotations

import subprocess

import pytest

from iptrec.errors import HostError
from iptrec.kernel import iptables, process
from iptrec.kernel.iptables import RefusedError
from iptrec.kernel.legacy import lock, raw

COMMENT = "iptrec:00000000-0000-0000-0000-000000000000"
OURS = f"-m comment --comment {COMMENT} -j TRACE"
A, B, X = "-s 192.0.2.1/32 -j DROP", "-p udp -j NOTRACK", "-p tcp -j ACCEPT"
IN, OUT = f"[7:700] -A PREROUTING {A}", f"[3:300] -A OUTPUT {B}"


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """A raw table; ``restored`` is what would be done to it."""

    class Kernel:
        printed = ""
        restored: tuple[str, ...] = ()
        refused: tuple[str, ...] = ()
        not_understood: tuple[str, ...] = ()

        def save(self, *_, **__):
            return "iptables-save", self.printed.encode()

        def restore(self, _family, lines, *, dry=False, **_):
            for at, line in enumerate(lines):
                if any(one in line for one in self.not_understood):
                    raise RefusedError("iptables-restore", line, "no", at)
            if not dry:
                if any(one in line for one in self.refused for line in lines):
                    raise HostError("no")
                self.restored = tuple(lines)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def ours(self, _):
            return []

    found = Kernel()
    monkeypatch.setattr(raw, "Tables", lambda _: found)
    monkeypatch.setattr(iptables, "save", found.save)
    monkeypatch.setattr(lock, "path", lambda: tmp_path / "lock")
    monkeypatch.setattr(raw, "restore", found.restore)
    return found


def table(*rules):
    lines = [
        ":PREROUTING ACCEPT [0:0]",
        ":OUTPUT ACCEPT [0:0]",
        *(f"[0:0] -A {one}" for one in rules),
    ]
    return "\n".join(["# Generated", "*raw", *lines, "COMMIT", ""])


ANOTHERS = f"PREROUTING {OURS}".replace("iptrec:0", "iptrec:1")
TRACED = f"PREROUTING {OURS}", f"OUTPUT {OURS}"
GONE = tuple(f"-D {one}" for one in TRACED)
BACK = f"[7:700] -I PREROUTING 1 {A}", f"[3:300] -I OUTPUT 1 {B}"
CASES = {
    "ours in place": (TRACED, (*GONE, *BACK), []),
    "one of ours deleted": ((TRACED[0],), (GONE[0], *BACK), []),
    "all of ours deleted": ((), BACK, []),
    "never taken out": ((f"PREROUTING {A}", f"OUTPUT {B}"), (), []),
    "loaded again beside ours": ((TRACED[0], f"PREROUTING {A}", TRACED[1]), (*GONE, BACK[1]), []),
    "somebody's before and behind": (
        (f"PREROUTING {X}", *TRACED, f"OUTPUT {X}"),
        (*GONE, f"[7:700] -I PREROUTING 2 {A}", BACK[1]), [],
    ),
    "one chain replaced": ((f"PREROUTING {X}", TRACED[1]), (GONE[1], BACK[1]), [IN]),
    "another recorder's beside ours": (
        (ANOTHERS, *TRACED), (*GONE, f"[7:700] -I PREROUTING 2 {A}", BACK[1]), [],
    ),
    "another recorder's alone": ((ANOTHERS,), BACK, []),
    "the table replaced": ((f"PREROUTING {X}",), (), [IN, OUT]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_chain_is_judged_by_what_is_there(kernel, case):
    """Nothing is lost, nothing comes twice, nobody's rules change places."""
    rules, restored, kept = CASES[case]
    kernel.printed = table(*rules)
    assert raw.remove("ipv4", COMMENT, [IN, OUT]) == kept
    assert kernel.restored == restored
    assert raw.staying_out("ipv4", COMMENT, [IN, OUT]) == kept


def test_what_iptables_does_not_understand_stays_out_alone(kernel):
    """A chain that a rule jumps to is gone: ours go, the others come back."""
    kernel.printed, kernel.not_understood = table(*TRACED), ("NOTRACK",)
    assert raw.remove("ipv4", COMMENT, [IN, OUT]) == [OUT]
    assert kernel.restored == (*GONE, BACK[0])


def test_what_the_kernel_refuses_stays_out(kernel):
    """It does not say which rule it is: ours go all the same."""
    kernel.printed, kernel.refused = table(*TRACED), ("NOTRACK",)
    assert raw.remove("ipv4", COMMENT, [IN, OUT]) == [IN, OUT]
    assert kernel.restored == GONE


def test_a_held_lock_is_no_refusal(kernel, monkeypatch):
    """Nothing is given up because somebody else is at work."""
    said = subprocess.CompletedProcess(
        [], 4, b"", b"Another app is currently holding the xtables lock"
    )
    kernel.printed = table(*TRACED)
    monkeypatch.setattr(raw, "restore", lambda *_, **__: iptables.check(["iptables-restore"], said))
    with pytest.raises(lock.LockHeldError):
        raw.remove("ipv4", COMMENT, [IN, OUT])


@pytest.mark.parametrize("printed", ["", "hello\n", "*raw\n:PREROUTING ACCEPT [0:0]\n"])
def test_what_is_not_the_raw_table_is_refused(kernel, printed):
    """Whatever the exit status."""
    kernel.printed = printed
    with pytest.raises(HostError, match="prints no raw table"):
        raw.remove("ipv4", COMMENT, [IN, OUT])


@pytest.mark.parametrize(
    ("flush", "expected"), [(False, {"limit", "tcp"}), (True, {"limit", "tcp", "hashlimit"})]
)
def test_what_has_a_name_is_lost_with_its_rule_alone(flush, expected):
    """All rules of a table are made anew at every change, and --flush takes some out."""
    hashed, limited = (
        "[0:0] -A {} -m hashlimit --hashlimit-name x",
        "[0:0] -A mine -m limit --limit 5/s",
    )
    chains = {
        "PREROUTING": [],
        "OUTPUT": [hashed.format("OUTPUT"), "[0:0] -A OUTPUT -p tcp -m tcp"],
    }
    chains["mine"] = [limited]
    assert raw.made_anew(chains, flush=flush) == expected
    chains["mine"], chains["OUTPUT"] = [hashed.format("mine")], []
    assert raw.made_anew(chains, flush=flush) == set()


@pytest.mark.parametrize("line", [1, 3, 99])
def test_a_complaint_about_no_line_of_ours(monkeypatch, line):
    """About the table, COMMIT, or nothing at all: no rule is to blame, and nobody tries again without end."""

    def run(command, *_, **__):
        said = f"iptables-restore: line {line} failed".encode()
        return subprocess.CompletedProcess(command, 2, b"", said)

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(iptables, "command_of", lambda *_: "/sbin/iptables-legacy-restore")
    with pytest.raises(HostError, match="failed") as error:
        iptables.restore("ipv4", ["-A PREROUTING -j ACCEPT"])
    assert not isinstance(error.value, iptables.RefusedError)
