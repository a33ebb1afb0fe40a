"""Signals as something to poll."""

from __future__ import annotations

import signal

import pytest

from iptrec.recorder import signals


@pytest.fixture
def answered(monkeypatch):
    """Numbers that the handlers from before were called with; one SIGTERM comes whenever a handler is set."""
    found, set_handler = [], signal.signal
    before = set_handler(signal.SIGTERM, lambda number, _: found.append(number))

    def setting(number, handler):
        was = set_handler(number, handler)
        signal.raise_signal(signal.SIGTERM)
        return was

    monkeypatch.setattr(signals.signal, "signal", setting)
    yield found
    set_handler(signal.SIGTERM, before)


def test_none_is_lost_while_handlers_are_set(answered):
    """Each is answered as before, or wakes."""
    came = 5  # SIGINT, SIGTERM, SIGHUP, SIGCHLD, SIGUSR1
    with signals.waking() as wake:
        before = len(answered)
        assert 0 < before < came
        assert wake.stopped() == "SIGTERM"
    assert 0 < len(answered) - before < came

    assert signal.set_wakeup_fd(-1) == -1
