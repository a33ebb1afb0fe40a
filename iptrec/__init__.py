"""iptrec: a flight recorder for netfilter.

kernel -> recorder -> file -> reader -> columns -> packets -> answers -> views.

The public names are loaded when they are first used: `import iptrec` costs next to nothing. docs/api.md tells
what is promised of them.
"""

TYPE_CHECKING = False  # typing's own takes longer to load than all that is here
if TYPE_CHECKING:
    from iptrec.answers.select import Select
    from iptrec.api import Packet, Packets, Recording, Rows, open  # noqa: A004
    from iptrec.child_recorder import Progress, Recorded, record
    from iptrec.errors import HostError, IptrecError, RecordingError, UsageError
    from iptrec.packets.model import Step

__version__ = "0.1.0"
__all__ = [
    "HostError",
    "IptrecError",
    "Packet",
    "Packets",
    "Progress",
    "Recorded",
    "Recording",
    "RecordingError",
    "Rows",
    "Select",
    "Step",
    "UsageError",
    "open",
    "record",
]
_HOMES = {
    "answers.select": ("Select",),
    "api": ("Packet", "Packets", "Recording", "Rows", "open"),
    "child_recorder": ("Progress", "Recorded", "record"),
    "errors": ("HostError", "IptrecError", "RecordingError", "UsageError"),
    "packets.model": ("Step",),
}


def __getattr__(name: str) -> object:
    """A public name, from the module that has it."""
    from importlib import import_module  # noqa: PLC0415 - half of what `import iptrec` would cost

    for home, names in _HOMES.items():
        if name in names:
            globals()[name] = found = getattr(import_module(f"iptrec.{home}"), name)
            return found
    raise AttributeError(f"module 'iptrec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
