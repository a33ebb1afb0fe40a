"""For pytest: record while a test runs, and assert what became of its packets. See docs/pytest.md.

pytest loads this in every run where iptrec is installed, so it loads nothing but what pytest has loaded before.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from iptrec.expected import Recorded
    from iptrec.names import BackendChoice, DropsChoice

_IF_REFUSED, _DIRECTORY = "iptrec_if_refused", "iptrec_directory"
_PATIENCE_S, _POLL_S = 10.0, 0.5


def pytest_addoption(parser: pytest.Parser) -> None:
    """Settings, which pytest --help tells of."""
    parser.addini(
        _IF_REFUSED,
        "what a test does that asks for iptrec_recording where this host refuses to record: skip or fail",
        default="skip",
    )
    group = parser.getgroup("iptrec")
    group.addoption(
        "--iptrec-directory",
        dest=_DIRECTORY,
        metavar="DIR",
        help="keep the recordings of tests there; else they are in pytest's temporary directory",
    )


@pytest.fixture
def iptrec_recording(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., AbstractContextManager[Recorded]]]:
    """A function that records packets as long as a with block lasts, to assert what became of them.

    Its arguments are those of `iptrec.record`: filter, netns, backend, drops. When the block is left, and in
    any case when the test ends, the recorder has ended and undone its changes.
    """
    from pathlib import Path

    from iptrec.errors import HostError

    given = request.config.getoption(_DIRECTORY)
    directory = tmp_path_factory.mktemp("iptrec") if given is None else Path(given)
    numbers = iter(range(1, 1 << 30))

    def name() -> Path:
        """A file that is not there yet."""
        directory.mkdir(parents=True, exist_ok=True)
        plain = "".join(one if one.isalnum() or one in "-_" else "_" for one in request.node.name)
        found = (directory / f"{plain[:100]}-{number}.db" for number in numbers)
        return next(one for one in found if not one.exists())

    def tell(name: str, value: object) -> None:
        """Into the report; record_property does the same, with a warning by pytest's default."""
        request.node.user_properties.append((name, value))

    with contextlib.ExitStack() as running:

        @contextlib.contextmanager
        def record(
            filter: str | None = None,  # noqa: A002 - the word everywhere
            *,
            netns: str | int | os.PathLike[str] | None = None,
            backend: BackendChoice = "auto",
            drops: DropsChoice = "auto",
        ) -> Iterator[Recorded]:
            from iptrec.child_recorder import RecorderEndedError
            from iptrec.errors import TakenError
            from iptrec.expected import Recorded

            path = name()
            recorded = Recorded(path, tell)
            try:
                _once_free(
                    partial(recorded.start, filter, netns=netns, backend=backend, drops=drops)
                )
            except RecorderEndedError:
                raise
            except TakenError as error:  # skipped, it would look as if all were well
                pytest.fail(f"iptrec cannot record: {error}", pytrace=False)
            except HostError as error:
                _refused(request.config, error)
            running.callback(recorded.stop)
            request.node.add_report_section("setup", "iptrec", f"recording: {path}")
            try:
                yield recorded
            finally:
                recorded.stop()

        yield record


def _once_free(start: Callable[[], None]) -> None:
    """Start; where another program has what only one can have, such as a recorder beside us, wait for it."""
    from iptrec.errors import TakenError

    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        with contextlib.suppress(TakenError):
            return start()
        time.sleep(_POLL_S)
    return start()


def _refused(config: pytest.Config, error: Exception) -> None:
    """Skip or fail, as the settings say."""
    wanted: Any = config.getini(_IF_REFUSED)
    if wanted not in ("skip", "fail"):
        raise pytest.UsageError(f"{_IF_REFUSED} = {wanted}: must be skip or fail")
    told = f"iptrec cannot record: {error}"
    if wanted == "fail":
        pytest.fail(told, pytrace=False)
    pytest.skip(told)
