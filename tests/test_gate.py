"""The gate does not pass where live tests could not run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rights import ROOT

HERE = Path(__file__).parents[1]


@ROOT
@pytest.mark.parametrize(
    ("require", "status", "said"),
    [("1", 1, "IPTREC_REQUIRE_LIVE=1, and no lab can be made: "), ("", 0, "1 skipped")],
    ids=["required", ""],
)
def test_root_without_namespaces(require, status, said):
    """Root that may make none: a failure where live tests are required, else skipped; the reason is told."""
    environment = {**os.environ, "IPTREC_REQUIRE_LIVE": require}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin",
         sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/live/test_demo.py"],
        cwd=HERE, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (status, ""), done.stdout
    assert said in done.stdout
    assert "CAP_SYS_ADMIN" in done.stdout
