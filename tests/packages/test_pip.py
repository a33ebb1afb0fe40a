"""The wheel in an environment of its own, as pip and pipx make it: man and TAB find what is beside it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from roots import copied

SHARE = "/opt/iptrec/share"
BY_HAND = "PATH=/opt/iptrec/bin:$PATH\nsource <(iptrec completion bash)\n"
BY_ITSELF = "PATH=/opt/iptrec/bin:$PATH\n. /usr/share/bash-completion/bash_completion\n"


@pytest.mark.parametrize(
    ("suite", "version", "startup"), [("bookworm", "3.11", BY_HAND), ("trixie", "3.13", BY_ITSELF)]
)
def test_pip(bases, made, tmp_path, suite, version, startup):
    """bash-completion 2.12 finds it by itself; that of Debian 12 is older, and a line in .bashrc does it."""
    (wheel,) = made.glob("iptrec-*.whl")
    (tmp_path / "copy").mkdir()
    with copied(bases(suite), tmp_path / "copy") as root:
        root.install("python3-venv", "man-db", "bash-completion")
        wheels = root.path / "root/wheels"
        command = [
            "pip",
            "download",
            "--quiet",
            "--only-binary=:all:",
            "--python-version",
            version,
            "-d",
            wheels,
        ]
        subprocess.run([sys.executable, "-m", *command, wheel], check=True, capture_output=True)
        root.run("python3", "-m", "venv", "/opt/iptrec")
        root.run(
            "/opt/iptrec/bin/pip", "install", "--no-index", "--find-links", "/root/wheels", "iptrec"
        )
        (root.path / "root/.bashrc").write_text(startup)
        shown = root.typed(f"{SHARE}/iptrec/samples")
        assert "iptrec info" in shown
        assert "1 DROP" in shown
        manual = root.run("sh", "-c", "PATH=/opt/iptrec/bin:$PATH man iptrec-record").stdout
        assert "--ring" in manual
