"""The command line in a process of its own that need not load it: a server that has it loaded forks one.

Loading Python, numpy and iptrec takes a third of a second of processor time, and the suite runs thousands
of commands. `Popen` here is `subprocess.Popen` of `python -m iptrec ARGUMENTS`: the process is a child of ours
with its own pid, streams, signals, directory, environment, namespaces and exit status. Only what comes before
`main` was done once, by tests/warm_server.py.

What a fork of the server could not be (another user's, with another charset, with limits) is started as a user
starts it, and so is everything where IPTREC_COLD is set, or in a test that is marked "cold".
"""

from __future__ import annotations

import contextlib
import marshal
import os
import socket
import subprocess
import sys
from pathlib import Path

IPTREC = (sys.executable, "-m", "iptrec")
SCRIPT = (sys.executable, "-c")
# Sees the processes that it starts, and no other.
ALONE = ("unshare", "--pid", "--fork", "--mount-proc")
SERVER = Path(__file__).parent / "warm_server.py"
# Taken up by a new interpreter, or by the loader of a new program, alone.
_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC", "GLIBC", "OPENBLAS", "OMP", "MKL", "BLIS")
_OPTIONS = {"stdin", "stdout", "stderr", "text", "env", "cwd", "start_new_session"}
_RIGHTS = ("Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "SigBlk", "SigIgn")
_servers = {}
_cold = "IPTREC_COLD" in os.environ


class Popen(subprocess.Popen):
    """A command of iptrec's that is already loaded; ``namespaces``: files of those that it enters."""

    def __init__(self, argv, *, namespaces=(), **options):
        self._namespaces = namespaces
        super().__init__(argv, **options)

    def _execute_child(
        self, args, _executable, _preexec_fn, _close_fds, _pass_fds, cwd, env, _startupinfo, _flags, _shell,
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, _restore, _gid, _gids, _uid, _umask,
        start_new_session, _process_group,
    ):  # fmt: skip
        alone = tuple(args[: len(ALONE)]) == ALONE
        args = args[alone * len(ALONE) :]
        is_script = tuple(args[: len(SCRIPT)]) == SCRIPT
        known = SCRIPT if is_script else IPTREC
        request = {
            "script": is_script,
            "arguments": list(map(os.fspath, args[len(known) :])),
            "alone": alone,
            "environment": {
                name: os.fspath(one) for name, one in (os.environ if env is None else env).items()
            },
            "directory": str(cwd or Path.cwd()),
            "umask": _own_umask(),
            "session": bool(start_new_session),
        }
        given = (p2cread, c2pwrite, errwrite)
        files = [own if one == -1 else one for own, one in enumerate(given)]
        with contextlib.ExitStack() as stack:
            files += [_opened(stack, path) for path in self._namespaces]
            self.pid = _server().start(request, files)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


def popen(argv, **options):
    """`subprocess.Popen`, from the server where it can."""
    start = Popen if fits(argv, options) else subprocess.Popen
    return start(argv, **options)


def run(argv, *, input=None, capture_output=False, check=False, **options):  # noqa: A002 - subprocess's word
    """`subprocess.run`, from the server where it can."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options["stdout"] = options["stderr"] = subprocess.PIPE
    timeout = options.pop("timeout", None)
    with popen(argv, **options) as process:
        try:
            stdout, stderr = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)
    if check:
        done.check_returncode()
    return done


@contextlib.contextmanager
def cold(all_of_them):
    """Start everything as a user starts it, if ``all_of_them``."""
    global _cold  # noqa: PLW0603 - a test runs alone in its process
    before, _cold = _cold, _cold or all_of_them
    try:
        yield
    finally:
        _cold = before


def fits(argv, options):
    """Whether the server can fork what `subprocess.Popen` would start."""
    return (
        not _cold
        and _is_ours(tuple(argv))
        and options.keys() <= _OPTIONS
        and _taken_up(options.get("env") or os.environ) == _taken_up(os.environ)
        and _server().serves()
    )


def _is_ours(argv):
    beside = argv[len(ALONE) :] if argv[: len(ALONE)] == ALONE else argv
    return beside[: len(IPTREC)] == IPTREC or beside[: len(SCRIPT)] == SCRIPT


def _taken_up(environment):
    return {name: value for name, value in environment.items() if name.startswith(_AT_START)}


def _own_umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _opened(stack, path):
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def _server():
    """The server of this process: a fork of ours needs one of its own, whose siblings are its children."""
    pid = os.getpid()
    if pid not in _servers:
        _servers.clear()
        _servers[pid] = _Server()
    return _servers[pid]


class _Server:
    """The process that has everything loaded. It ends with this one, which holds its socket's other end."""

    def __init__(self):
        self._at_start = self._now()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, SERVER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._can = self._socket.recv(1) == b"+"  # and everything is loaded

    def serves(self):
        """Whether its children have what ours would have."""
        return self._can and self._now() == self._at_start

    def start(self, request, files):
        """Fork; the pid."""
        socket.send_fds(self._socket, [marshal.dumps(request)], files)
        return int(self._socket.recv(64))

    @staticmethod
    def _now():
        """What a child inherits and the server does not take over with each request."""
        status = Path("/proc/self/status").read_text().splitlines()
        rights = [line for line in status if line.startswith(_RIGHTS)]
        limits = Path("/proc/self/limits").read_text()
        places = [
            Path(f"/proc/self/ns/{one}").stat().st_ino for one in ("net", "mnt", "user", "pid")
        ]
        return rights, limits, places, _taken_up(os.environ)
