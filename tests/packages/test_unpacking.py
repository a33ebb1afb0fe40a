"""How the single file unpacks itself, with a small program instead of Python and iptrec in it.

It needs root, to be other users; no package that tools/packages made.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

MALLORY, ALICE = 64001, 64002
PROGRAM = """#!/bin/sh
if [ "${1-}" = slow ]; then sleep 3; fi
if [ "${1-}" = umask ]; then umask; fi
echo "iptrec here: $*"
"""
FOREIGN = "iptrec: will not run what others can change: "
ADVICE = "; set IPTREC_UNPACKED=DIRECTORY to unpack into another directory\n"
SHELLS = ["dash", "bash", "busybox sh"]


@pytest.fixture(scope="module")
def tools():
    """tools/packages as a module."""
    path = str(Path(__file__).parents[2] / "tools/packages")
    loader = importlib.machinery.SourceFileLoader("packages_tool", path)
    spec = importlib.util.spec_from_loader("packages_tool", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def single(tools, tmp_path_factory):
    """A single file."""
    at = tmp_path_factory.mktemp("single")
    tree, licences, to = at / "tree", at / "licenses", at / "made"
    for one in (tree / "_internal", licences, to):
        one.mkdir(parents=True)
    (tree / "iptrec").write_text(PROGRAM)
    (tree / "iptrec").chmod(0o755)
    (tree / "_internal/data").write_bytes(os.urandom(1 << 20))
    values = {"VERSION": "1", "MACHINE": "x86_64", "GLIBC": "2.36"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SOURCE_DATE_EPOCH", "0")
        tools.portable(tree, licences, values, to)
    (made,) = to.iterdir()
    return made


@pytest.fixture
def place():
    """A directory that root alone can write, which others may enter: below /, for /tmp is sticky."""
    at = Path(f"/iptrec-unpacking-{os.getpid()}")
    at.mkdir(mode=0o755)
    yield at
    shutil.rmtree(at)


@pytest.fixture
def run(single, place):
    """Run the single file, by a shell, as a user, with nothing but these variables."""
    program = place / "iptrec"
    shutil.copy(single, program)

    def started(*arguments, by="dash", user=0, prefix=(), check=True, **variables):
        done = subprocess.run(
            [*prefix, *by.split(), program, *arguments], capture_output=True, text=True, check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **variables},
            user=user, group=user, extra_groups=[],
        )  # fmt: skip
        assert not check or (done.returncode, done.stderr) == (0, ""), done.stderr
        return done

    started.program = program
    return started


def refused(done):
    """The one line of an error."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("iptrec: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def owned(path, user, mode=0o755):
    """A new directory of a user's."""
    path.mkdir()
    os.chown(path, user, user)
    path.chmod(mode)
    return path


def name_of(run, place):
    """The name that the tree gets."""
    run(IPTREC_UNPACKED=str(owned(place / "named", 0)))
    (tree,) = (place / "named").iterdir()
    return tree.name


@pytest.mark.parametrize("shell", SHELLS)
def test_it_is_unpacked_once(run, place, shell):
    base = place / "a b" / "c"
    assert run("x", "y z", by=shell, IPTREC_UNPACKED=str(base)).stdout == "iptrec here: x y z\n"
    (tree,) = base.iterdir()
    assert sorted(one.name for one in tree.iterdir()) == ["_internal", "iptrec", "licenses"]
    before = tree.stat()
    run(by=shell, IPTREC_UNPACKED=str(base))
    assert tree.stat() == before
    assert list(base.iterdir()) == [tree]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_tree_of_another_user_is_refused(run, place, shell):
    name = name_of(run, place)
    shared = owned(place / "shared", 0, 0o1777)
    tree = owned(shared / name, MALLORY)
    (tree / "iptrec").write_text("#!/bin/sh\necho stolen\n")
    (tree / "iptrec").chmod(0o755)
    line = refused(run(by=shell, check=False, IPTREC_UNPACKED=str(shared)))
    assert line == f"{FOREIGN}{tree} belongs to user {MALLORY}{ADVICE}"


def test_a_sticky_directory_will_do(run, place):
    """Of /tmp others cannot take a name of ours."""
    shared = owned(place / "shared", 0, 0o1777)
    run(user=ALICE, IPTREC_UNPACKED=str(shared))
    assert run(user=ALICE, IPTREC_UNPACKED=str(shared)).stdout == "iptrec here: \n"


@pytest.mark.parametrize(
    ("owner", "mode", "why"),
    [
        (MALLORY, 0o755, f"belongs to user {MALLORY}"),
        (0, 0o777, "can be written by other users"),
        (0, 0o775, "can be written by other users"),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_directory_above_that_others_can_change_is_refused(run, place, owner, mode, why, there):
    above = owned(place / "above", 0)
    if there:
        run(IPTREC_UNPACKED=str(above / "base"))
    os.chown(above, owner, owner)
    above.chmod(mode)
    line = refused(run(check=False, IPTREC_UNPACKED=str(above / "base")))
    assert line == f"{FOREIGN}{above} {why}{ADVICE}"
    assert (above / "base").exists() == there


def test_a_link_of_another_user_is_refused(run, place):
    name = name_of(run, place)
    shared = owned(place / "shared", 0, 0o1777)
    (shared / name).symlink_to(place / "named" / name)
    os.chown(shared / name, MALLORY, MALLORY, follow_symlinks=False)
    line = refused(run(check=False, IPTREC_UNPACKED=str(shared)))
    assert f"{shared / name}" in line
    mine = owned(place / "mine", MALLORY)
    (shared / "led").symlink_to(mine)
    line = refused(run(check=False, IPTREC_UNPACKED=str(shared / "led")))
    assert line == f"{FOREIGN}{mine} belongs to user {MALLORY}{ADVICE}"
    assert list(mine.iterdir()) == []


@pytest.mark.parametrize("at", [0.02, 0.5, 0.98, None])
@pytest.mark.parametrize("shell", SHELLS)
def test_a_damaged_file_is_not_installed(run, place, single, shell, at):
    """One bit of it; or its end is missing."""
    content = bytearray(single.read_bytes())
    start = content.index(b"\x1f\x8b\x08")
    if at is None:
        del content[-100:]
    else:
        content[start + int((len(content) - start) * at)] ^= 1
    run.program.write_bytes(content)
    base = place / "base"
    line = refused(run(by=shell, check=False, IPTREC_UNPACKED=str(base)))
    assert line.startswith(f"iptrec: cannot unpack {run.program} into {base}: ")
    assert "download it again if it is damaged" in line
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("mask", [0o027, 0o002])
def test_the_umask_stays_the_users(run, place, mask):
    base = place / "base"
    before = os.umask(mask)
    try:
        for _ in range(2):
            assert run("umask", IPTREC_UNPACKED=str(base)).stdout.startswith(f"{mask:04o}\n")
    finally:
        os.umask(before)
    for one in (base, *base.iterdir(), *base.glob("*/_internal")):
        assert one.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("shell", SHELLS)
def test_what_a_kill_left_goes(run, place, shell):
    base = owned(place / "base", 0)
    left, busy = base / "part-aaaaaa", base / "part-bbbbbb"
    for one in (left, busy):
        one.mkdir(mode=0o700)
        (one / "iptrec").touch()
    with subprocess.Popen(["flock", busy, "cat"], stdin=subprocess.PIPE) as lock:
        while subprocess.run(["flock", "-n", busy, "true"], check=False).returncode == 0:
            pass
        run(by=shell, IPTREC_UNPACKED=str(base))
        lock.stdin.close()
    assert not left.exists()
    assert (busy / "iptrec").exists()
    assert len(list(base.iterdir())) == 2


def test_one_that_unpacks_is_left_alone(run, place):
    """A second one, while the first is at it, finds its directory locked."""
    base, bin_ = place / "base", place / "bin"
    bin_.mkdir()
    (bin_ / "gzip").write_text('#!/bin/sh\nsleep 1\nexec /bin/gzip "$@"\n')
    (bin_ / "gzip").chmod(0o755)
    slow = subprocess.Popen(
        [run.program, "first"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={"PATH": f"{bin_}:/usr/bin:/bin", "IPTREC_UNPACKED": str(base)},
    )  # fmt: skip
    with slow:
        while not list(base.glob("part-*/")):
            assert slow.poll() is None
        assert run("second", IPTREC_UNPACKED=str(base)).stdout == "iptrec here: second\n"
        assert slow.communicate()[0] == "iptrec here: first\n"
    assert len(list(base.iterdir())) == 1


def test_many_at_once(run, place):
    base = place / "base"
    command = [run.program, "x"]
    environment = {"PATH": "/usr/bin:/bin", "IPTREC_UNPACKED": str(base)}
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(8)
    ]
    assert {one.communicate()[0] for one in started} == {b"iptrec here: x\n"}
    assert len(list(base.iterdir())) == 1


def test_root_of_a_user_namespace(run, place):
    """It is not the host's root, to which /var/cache belongs."""
    home = owned(place / "home", ALICE)
    done = run(user=ALICE, prefix=["unshare", "-Urn"], HOME=str(home))
    assert done.stdout == "iptrec here: \n"
    (tree,) = (home / ".cache/iptrec").iterdir()
    os.chown(tree, MALLORY, MALLORY)
    line = refused(run(user=ALICE, prefix=["unshare", "-Urn"], check=False, HOME=str(home)))
    assert f"{tree} belongs to user 65534" in line


def test_what_is_wrong_is_said(run, place):
    assert refused(run(user=ALICE, check=False)) == f"iptrec: HOME is not set{ADVICE}"
    for variable in ("HOME", "IPTREC_UNPACKED"):
        line = refused(run(user=ALICE, check=False, **{variable: str(owned(place / variable, 0))}))
        assert "Permission denied" in line
        assert line.endswith(ADVICE)


@pytest.mark.parametrize(
    ("options", "why"),
    [("ro", "Read-only file system"), ("noexec", "noexec"), ("size=400k", "tar: ")],
)
def test_a_file_system_that_will_not_do(run, place, options, why):
    base = owned(place / "base", 0)
    mounted = f'mount -t tmpfs -o {options},mode=755 t "$0" && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", mounted, base]
    line = refused(run(prefix=prefix, check=False, IPTREC_UNPACKED=str(base)))
    assert why in line
    assert line.endswith(ADVICE)


@pytest.mark.parametrize("missing", ["gzip", "tar", "tail", "mktemp"])
def test_a_missing_program_is_named(run, place, missing):
    bin_ = place / "bin"
    bin_.mkdir()
    for one in {"gzip", "tar", "tail", "mktemp", "id", "ls", "mkdir", "rm"} - {missing}:
        (bin_ / one).symlink_to(shutil.which(one))
    done = run(by="/bin/dash", check=False, PATH=str(bin_), IPTREC_UNPACKED=str(place / "base"))
    line = refused(done)
    assert line == f"iptrec: {missing} is not installed: it is needed to unpack iptrec\n"
    assert not (place / "base").exists()
