"""What can go wrong, as one line for the user and one exit status for the caller.

An error's text names the object (file, chain, namespace, option), the fact, and what to do next.
It is printed once, in ``iptrec.cli``; nothing else in iptrec prints errors or exits.
"""

EXIT_DONE = 0
EXIT_NO = 1
EXIT_TROUBLE = 2


class IptrecError(Exception):
    """Something that the user can read and act on; exit status 2."""

    exit_status = EXIT_TROUBLE


class UsageError(IptrecError):
    """An option or argument cannot be meant as it stands (bad filter, unknown interface)."""


class HostError(IptrecError):
    """The kernel or the host refuses: rights, modules, namespaces, locks, a taken nflog group."""


class RecordingError(IptrecError):
    """A recording cannot be read or written: no recording, damaged, newer format, disk full."""
