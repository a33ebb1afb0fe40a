"""A test that fails is tried once more: two processors that are shared are late at times.

That it was is told in the end, with why it failed: what fails now and then is to be looked at.
"""

from __future__ import annotations

from _pytest.runner import runtestprotocol

_AGAIN = "tried again"


def pytest_runtest_protocol(item, nextitem):
    """Run it, and once more if need be; the last reports count."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if failed := [one for one in reports if one.failed]:
        crash = getattr(failed[0].longrepr, "reprcrash", None)
        item.user_properties.append((_AGAIN, " ".join(getattr(crash, "message", "").split())[:200]))
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for one in reports:
        item.ihook.pytest_runtest_logreport(report=one)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter):
    """Name those that passed at the second try."""
    for report in terminalreporter.stats.get("passed", []):
        for name, why in report.user_properties:
            if name == _AGAIN:
                terminalreporter.write_line(f"PASSED AT THE SECOND TRY {report.nodeid} ({why})")
