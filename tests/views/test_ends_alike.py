"""One answer to what became of a packet, whichever view is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from told_alike import ends

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.db"))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda one: one.stem)
def test_samples(sample, tmp_path):
    ends(sample, tmp_path)
