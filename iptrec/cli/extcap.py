"""``iptrec extcap``: what Wireshark starts to capture by iptrec, and how it gets there."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from iptrec.cli import record_options as option
from iptrec.cli.help_ import Command
from iptrec.errors import EXIT_DONE, EXIT_TROUBLE, IptrecError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.extcap.folders import Folders
    from iptrec.extcap.installed import Installed

app = typer.Typer(
    name="extcap",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    invoke_without_command=True,
)
_ASKED: Final = "What Wireshark asks (man extcap)"
_CAPTURES: Final = "Of a capture"
_ONLY: Final = "capture"


Netns = Annotated[
    str,
    typer.Option(
        "--netns", metavar="NETNS", rich_help_panel=_CAPTURES,
        help="Network namespace: a name of ip netns, a path such as /proc/PID/ns/net, a pid.",
    ),
]  # fmt: skip
Snaplen = Annotated[  # what is wrong with it is told once the pipe is open
    str,
    typer.Option(
        metavar="N", rich_help_panel=_CAPTURES, help="Bytes of each packet to keep at each rule."
    ),
]
Recording = Annotated[
    str,
    typer.Option(
        "--output", "-o", metavar="FILE", rich_help_panel=_CAPTURES,
        help="Keep the recording in this file; %Y, %m, %d, %H, %M, %S in its name are the local time.",
    ),
]  # fmt: skip


@app.callback()
def extcap(
    context: typer.Context,
    interfaces: Annotated[
        bool,
        typer.Option(
            "--extcap-interfaces", rich_help_panel=_ASKED, help="Which interfaces there are."
        ),
    ] = False,
    link_types: Annotated[
        bool, typer.Option("--extcap-dlts", rich_help_panel=_ASKED, help="What packets begin with.")
    ] = False,
    config: Annotated[
        bool,
        typer.Option("--extcap-config", rich_help_panel=_ASKED, help="Which options there are."),
    ] = False,
    reload_option: Annotated[
        str,
        typer.Option(
            "--extcap-reload-option",
            metavar="NAME",
            rich_help_panel=_ASKED,
            help="With --extcap-config: the values of this option alone.",
        ),
    ] = "",
    interface: Annotated[
        str,
        typer.Option(
            "--extcap-interface", metavar="NAME", rich_help_panel=_ASKED, help="Of which one."
        ),
    ] = "",
    capture_filter: Annotated[
        str | None,
        typer.Option(
            "--extcap-capture-filter",
            metavar="FILTER",
            rich_help_panel=_ASKED,
            help="Packets to trace (man pcap-filter); without --capture, print what is wrong with it.",
        ),
    ] = None,
    _version: Annotated[
        str,
        typer.Option(
            "--extcap-version",
            metavar="X.Y",
            rich_help_panel=_ASKED,
            help="Which Wireshark asks.",
        ),
    ] = "",
    capture: Annotated[
        bool, typer.Option("--capture", rich_help_panel=_ASKED, help="Capture.")
    ] = False,
    fifo: Annotated[
        Path | None,
        typer.Option(
            "--fifo", metavar="PIPE", rich_help_panel=_ASKED, help="The pipe to write packets to."
        ),
    ] = None,
    netns: Netns = "",
    iface: option.Interfaces = "",
    backend: option.Backend = "auto",
    family: option.Family = "both",
    drops: option.Drops = "auto",
    conntrack: option.Conntrack = False,
    snaplen: Snaplen = "256",
    output: Recording = "",
    log_level: option.LogLevel = "error",
    log_file: Annotated[
        str,
        typer.Option(
            "--log-file",
            metavar="FILE",
            rich_help_panel=_CAPTURES,
            help="Add what is said to this file, instead of stderr, which Wireshark shows in the end.",
        ),
    ] = "",
) -> int:
    """Capture in Wireshark: which rule ate my packet.

    iptrec extcap install makes iptrec one of the interfaces of this user's Wireshark, with these options in the
    dialog behind its gear.

    Wireshark runs as a user, and tracing needs root. A capture works if Wireshark runs as root, if sudo allows
    iptrec extcap capture without a password, or if polkit does; see docs/wireshark.md. Who is allowed that sees
    every packet of this host, as with dumpcap, and its rules.

    Examples:

    \b
      iptrec extcap install

    \b
      tshark -i iptrec -o extcap.iptrec.netns:web -f 'tcp port 443'
    """
    if "PKEXEC_UID" in os.environ and context.invoked_subcommand != _ONLY:
        raise UsageError(f"pkexec runs iptrec extcap {_ONLY} alone: use sudo, or unset PKEXEC_UID")
    if context.invoked_subcommand is not None:
        return EXIT_DONE
    from iptrec.extcap import sentences

    if interfaces:
        return _say(sentences.interfaces())
    if not (link_types or config or capture or capture_filter is not None):
        print(context.get_help())
        return EXIT_TROUBLE
    if interface != sentences.INTERFACE:
        raise UsageError(f"--extcap-interface {interface!r}: there is {sentences.INTERFACE} alone")
    if link_types:
        return _say(sentences.link_types())
    if config:
        return _say(_options(reload_option))
    if not capture:
        return _check(capture_filter or "")
    if fifo is None:
        raise UsageError("--capture needs --fifo PIPE")
    values = {
        "--filter": (capture_filter or "").strip(), "--netns": netns, "--iface": iface, "--backend": backend,
        "--family": family, "--drops": drops, "--snaplen": snaplen, "--log-level": log_level,
        "--output": str(Path(output).absolute()) if output else "",
    }  # fmt: skip
    given = [f"{name}={value}" for name, value in values.items() if value]
    return _capture([*given, *(["--conntrack"] if conntrack else [])], fifo, log_file)


def _options(reload_option: str) -> Iterable[str]:
    from iptrec.extcap import sentences
    from iptrec.extcap.namespaces import choices

    if reload_option:
        return sentences.reloaded(reload_option, choices())
    return sentences.config(choices())


def _say(lines: Iterable[str]) -> int:
    """As UTF-8, whatever the locale says: Wireshark reads nothing else."""
    text = "".join(f"{line}\n" for line in lines)
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()
    return EXIT_DONE


def _check(expression: str) -> int:
    """Say on stdout what is wrong with a filter; nothing if it is right. Wireshark marks the field by that."""
    from iptrec.names import FAMILIES
    from iptrec.pcap.filter import bytecodes
    from iptrec.views.escape import printable

    try:
        bytecodes(expression.strip(), FAMILIES)
    except IptrecError as error:
        print(printable(str(error)))
    return EXIT_DONE


def _capture(arguments: list[str], fifo: Path, log_file: str) -> int:
    from iptrec.extcap import capture
    from iptrec.extcap.fifo import opened

    with contextlib.ExitStack() as stack:
        # First of all: dumpcap waits for ever for a pipe that nobody has opened, whatever we say.
        pipe = opened(fifo)
        log = stack.enter_context(open(log_file, "ab", opener=_private)) if log_file else None
        status = capture.capture(["extcap", _ONLY, *arguments], pipe, _complain, log)
    # Behind an error it ends with this process: once it is closed, tshark hears nothing more.
    os.close(pipe)
    return status


def _private(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_CLOEXEC, 0o600)


def _complain(said: bytes) -> None:
    sys.stderr.flush()
    sys.stderr.buffer.write(said)
    sys.stderr.buffer.flush()


@app.command(_ONLY, cls=Command)
def capture_(
    expression: Annotated[
        str, typer.Option("--filter", metavar="FILTER", help="Packets to trace (man pcap-filter).")
    ] = "",
    netns: Netns = "",
    iface: option.Interfaces = "",
    backend: option.Backend = "auto",
    family: option.Family = "both",
    drops: option.Drops = "auto",
    conntrack: option.Conntrack = False,
    snaplen: option.Snaplen = 256,
    output: Recording = "",
    log_level: option.LogLevel = "error",
) -> int:
    """Write packets to stdout, until that or stdin is closed.

    What sudo or polkit may allow to who may see every packet of this host: it starts no command of theirs,
    and writes --output with their own rights.
    """
    from iptrec.cli import record, trace
    from iptrec.extcap import rights
    from iptrec.kernel import hangup

    if "--" in sys.argv:  # trace would take what follows for a command, and run it
        raise UsageError(f"extcap {_ONLY} takes options alone, and no --")
    mode = os.fstat(1).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        raise UsageError("stdout is not a pipe; to write a file: iptrec trace --pcapng FILE")
    rights.take_caller()
    path = record.dated(output) if output else None
    rights.require_callers(path, netns)
    hangup.end_with(0)
    return trace.trace(
        [expression] if expression else None, family=family, interfaces=iface, backend=backend, drops=drops,
        netns=[netns] if netns else None, conntrack=conntrack, snaplen=snaplen, pcapng="-", epb_verdict=False,
        output=path, log_level=log_level,
    )  # fmt: skip


System = Annotated[
    bool, typer.Option("--system", help="For all users of this host, instead of this one; as root.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace files of others, or that were changed.")
]


@app.command(cls=Command)
def install(
    dest: Annotated[
        Path | None,
        typer.Option(
            "--dest", metavar="DIR", help="Put the program that captures there, and nothing else."
        ),
    ] = None,
    system: System = False,
    force: Force = False,
) -> int:
    """Put iptrec where Wireshark looks for it.

    Three things: a program that captures, a dissector that makes fields of what is told of a packet, such as
    iptrec.verdict, and a profile with columns and colours. They go where tshark -G folders says.
    What is there already is left alone, and files of others are not replaced.

    Examples:

      iptrec extcap install
    """
    from iptrec.extcap import parts
    from iptrec.extcap.sentences import INTERFACE

    installed = _installed(system=system)
    if dest is not None:
        wanted = {dest.absolute() / INTERFACE: parts.program()}
    else:
        wanted = parts.parts(_folders(system=system))
    written, kept = installed.put(wanted, force=force)
    for path in wanted:
        if path in kept:
            print(
                f"iptrec extcap: {path} was changed since, and stays; see --force", file=sys.stderr
            )
        else:
            print(f"{path}{'' if path in written else ': there already'}")
    return EXIT_DONE


@app.command(cls=Command)
def uninstall(system: System = False, force: Force = False) -> int:
    """Remove what install has put somewhere.

    What was changed since stays, unless --force is given.

    Examples:

      iptrec extcap uninstall
    """
    gone, kept = _installed(system=system).remove(force=force)
    for name in gone:
        print(f"removed {name}")
    for name in kept:
        print(f"iptrec extcap: {name} was changed since, and stays", file=sys.stderr)
    if not (gone or kept):
        print("iptrec extcap: nothing is installed", file=sys.stderr)
    return EXIT_DONE


def _folders(*, system: bool) -> Folders:
    from iptrec.extcap import folders

    return folders.system() if system else folders.personal()


def _installed(*, system: bool) -> Installed:
    """What was installed. Root's sudo changes root's files alone: it has no business in a user's home."""
    from iptrec.extcap.installed import Installed

    if system:
        if os.geteuid() != 0:
            raise UsageError("--system writes where root may alone: run it with sudo")
        return Installed.read(Path("/var/lib/iptrec/wireshark.json"))
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "0") != "0":
        raise UsageError("this is for one user's Wireshark: run it without sudo, or with --system")
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Installed.read(Path(home, "iptrec", "wireshark.json"))
