"""Root writes into a lake that others may add names to: never where they lead."""

from __future__ import annotations

import os
import shutil

import pytest
from command import iptrec
from lakes import another, files, put, sample
from rights import ROOT

STRANGER = 65534
pytestmark = ROOT


@pytest.fixture
def shared(tmp_path):
    """A directory of root's where all may add names, as /tmp, and one that is none of theirs."""
    for above in (tmp_path, *tmp_path.parents):
        if (
            above.stat().st_uid == 0
            and above.stat().st_mode & 0o22
            and not above.stat().st_mode & 0o1000
        ):
            pytest.skip("others can change what is above")  # fmt: skip
    lake, elsewhere = tmp_path / "lake", tmp_path / "elsewhere"
    lake.mkdir()
    lake.chmod(0o1777)
    elsewhere.mkdir()
    return lake, elsewhere


def linked(name, target):
    name.symlink_to(target)
    os.chown(name, STRANGER, STRANGER, follow_symlinks=False)


def refused(lake, *words):
    done = iptrec("export", "parquet", f"{lake}/", *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "others than root can change" in done.stderr


@pytest.mark.parametrize("table", ["packets", "rules", "recordings", "related"])
def test_a_link_of_a_strangers(table, shared):
    """In the place of a table: nothing is made behind it."""
    lake, elsewhere = shared
    linked(lake / table, elsewhere)
    refused(lake, sample("ipv6"))
    assert list(elsewhere.iterdir()) == []


def test_a_link_of_a_strangers_in_a_lake_of_events(shared):
    """The same."""
    lake, elsewhere = shared
    linked(lake / "events", elsewhere)
    refused(lake, sample("ipv6"), "--schema", "ecs")
    assert list(elsewhere.iterdir()) == []


def test_nothing_is_taken_away_behind_it(shared, tmp_path):
    """What looks like the rest of an interrupted export is somebody's."""
    lake, elsewhere = shared
    put(tmp_path / "other", sample("loopback"))
    shutil.copytree(tmp_path / "other" / "steps", elsewhere, dirs_exist_ok=True)
    before = files(elsewhere)
    linked(lake / "steps", elsewhere)
    refused(lake, sample("ipv6"))
    assert before
    assert files(elsewhere) == before


@pytest.mark.parametrize("below", ["packets", "packets/dt=*", "packets/dt=*/host=*"])
def test_a_directory_of_a_strangers(below, shared, tmp_path):
    """He can put links there at any time, also while an export is at work."""
    lake, _ = shared
    put(lake, sample("ipv6"))
    os.chown(next(lake.glob(below)), STRANGER, STRANGER)
    before = files(lake)
    refused(lake, "--force", sample("ipv6"))
    refused(lake, "--force", another(sample("ipv6"), tmp_path / "x.db", host="vm"))
    assert {one: data for one, data in files(lake).items() if one in before} == before


def test_a_shared_lake_of_roots(shared):
    """Is written to where nobody has put a thing, and root's own links are followed, as elsewhere."""
    lake, elsewhere = shared
    (lake / "packets").symlink_to(elsewhere)
    put(lake, sample("ipv6"))
    put(lake, "--force", sample("ipv6"))
    assert list(elsewhere.rglob("*.parquet"))
