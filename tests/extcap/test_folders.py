"""Where Wireshark looks, as it says itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from iptrec.errors import HostError
from iptrec.extcap import folders
from iptrec.kernel import process

# tshark -G folders of Debian 12 (4.0.17), and of 4.4
OLD = """\
Temp:                	/tmp
Personal configuration:	HOME/.config/wireshark
Global configuration:	/usr/share/wireshark
Personal Lua Plugins:	HOME/.local/lib/wireshark/plugins
Global Lua Plugins:  	/usr/lib/x86_64-linux-gnu/wireshark/plugins
Extcap path:         	/usr/lib/x86_64-linux-gnu/wireshark/extcap
MaxMind database path:	/usr/share/GeoIP
"""
NEW = OLD.replace("Extcap path", "Global Extcap path").replace(
    "Global conf", "Personal Extcap path:	HOME/.local/lib/wireshark/extcap\nGlobal conf"
)


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Have a tshark print this; None: there is none."""
    monkeypatch.setattr(process, "search_path", lambda: str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)

    def say(text, name="tshark"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n/bin/cat <<'E'\n{text.replace('HOME', str(tmp_path))}E\n")
        program.chmod(0o755)

    return say


@pytest.mark.parametrize(
    ("text", "extcap"),
    [
        (OLD, ".config/wireshark/extcap"),
        (NEW, ".local/lib/wireshark/extcap"),
        (None, ".local/lib/wireshark/extcap"),
    ],
    ids=["4.0", "4.4", "none"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["tshark", "wireshark"])
def test_personal(told, tmp_path, text, extcap, name):
    """Before 4.2 the folder for programs that capture was that of the configuration."""
    if text is not None:
        told(text, name)
    found = folders.personal()
    assert found.extcap == tmp_path / extcap
    assert found.plugins == tmp_path / ".local/lib/wireshark/plugins"
    assert found.profiles == tmp_path / ".config/wireshark/profiles"


@pytest.mark.parametrize("text", [OLD, NEW], ids=["4.0", "4.4"])
def test_system(told, text):
    told(text)
    found = folders.system()
    assert str(found.extcap) == "/usr/lib/x86_64-linux-gnu/wireshark/extcap"
    assert str(found.plugins) == "/usr/lib/x86_64-linux-gnu/wireshark/plugins"
    assert str(found.profiles) == "/usr/share/wireshark/profiles"


@pytest.mark.parametrize("text", [None, "", "nonsense\n", ":::\n"])
def test_nobody_says(told, text):
    if text is not None:
        told(text)
    with pytest.raises(HostError, match="--dest DIR"):
        folders.system()


def test_the_real_one_says():
    """The one that is installed here, if one is."""
    if not folders._told():
        pytest.skip("neither tshark nor wireshark is installed")
    assert folders.system().extcap.name == "extcap"
