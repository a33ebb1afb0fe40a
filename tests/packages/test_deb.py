"""The .deb in a minimal Debian: installed, used, removed."""

from __future__ import annotations

from roots import installed

from iptrec.version import __version__

SAMPLES = "/usr/share/iptrec/samples"
DROP = "=> DROP"
RECORDED_NFT = """\
ip link set lo up
nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; }'
nft add rule inet fw in udp dport 9 drop
iptrec record --backend nft -o /root/nft.db udp -- bash -c 'echo > /dev/udp/127.0.0.1/9'
iptrec show /root/nft.db
"""


def test_deb(debian_root, made):
    root = debian_root
    installed(root, made)
    assert root.run("iptrec", "--version").stdout == f"iptrec {__version__}\n"
    assert DROP in root.run("iptrec", "show", f"{SAMPLES}/docker_hairpin.db").stdout
    assert (
        DROP in root.run("iptrec", "demo").stdout
    )  # legacy: it starts itself, Python and a guardian
    recorded = root.run("bash", "-c", RECORDED_NFT)
    assert "inet fw" in recorded.stdout
    assert "DROP" in recorded.stdout
    uses_what_it_brings(root)
    ran = root.run("iptrec", "record", "-o", "/root/env.db", "--", "env").stdout
    assert "PATH=" in ran
    assert [one for one in ran.splitlines() if one.startswith(("LD_", "_PYI_"))] == []
    checks(root)
    root.run("dpkg", "--purge", "iptrec")
    for one in (root.path / "root").glob("iptrec_*.deb"):
        one.unlink()
    caches = ("var/cache/apt/", "var/cache/man/")  # of apt's and man's own
    assert {one for one in root.named("iptrec") if not one.startswith(caches)} == set()


def uses_what_it_brings(root):
    """Pages, questions and tables that are files of the package; libpcap; a second process."""
    sample = f"{SAMPLES}/docker_hairpin.db"
    root.run("iptrec", "report", sample, "-o", "/root/report.html")
    assert "</html>" in (root.path / "root/report.html").read_text()
    root.run("iptrec", "export", "sqlite", sample, "-o", "/root/tables.sqlite")
    root.run("iptrec", "redact", sample, "-o", "/root/redacted.db", "--check")
    assert "origin: Docker" in root.run("iptrec", "why", sample, "--packet", "1").stdout
    assert DROP in root.run("iptrec", "show", sample, "tcp port 1242").stdout
    assert root.run("iptrec", "paths", "-j", "2", sample).stdout


def checks(root):
    """What other programs make of it, when they are there: man, bash."""
    root.install("man-db", "bash-completion")
    manual = root.run("man", "iptrec-record").stdout
    assert "--ring" in manual
    (root.path / "root/.bashrc").write_text(". /usr/share/bash-completion/bash_completion\n")
    shown = root.typed(SAMPLES)
    assert "iptrec info" in shown
    assert "1 DROP" in shown
    assert root.run("dpkg", "--verify", "iptrec").stdout == ""


def test_what_is_in_it(debian_root, made):
    """Manual pages, completion, schemas, samples, licences; no file of this host's."""
    installed(debian_root, made)
    there = debian_root.run("dpkg", "-L", "iptrec").stdout
    for one in (
        "/usr/share/man/man1/iptrec-show.1.gz",
        "/usr/share/zsh/vendor-completions/_iptrec",
        "/usr/share/fish/vendor_completions.d/iptrec.fish",
        "/usr/share/iptrec/schemas/show-v1.schema.json",
        "/usr/share/doc/iptrec/copyright",
        "/usr/share/doc/iptrec/examples/iptrec-wireshark",
        "/usr/share/polkit-1/actions/org.iptrec.capture.policy",
        "/usr/lib/iptrec/_internal/iptrec/cli/index.py",  # what an index in a cache is good for
        "/usr/share/doc/iptrec/licenses/python",
    ):
        assert one in there
    assert "numpy" in there
