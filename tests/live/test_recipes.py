"""docs/tutorial.md and docs/recipes/, typed from top to bottom: what is printed is what the page prints."""

from __future__ import annotations

import documents
import pytest
import recipes
import sessions
from rights import IS_ROOT

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not IS_ROOT, reason="the pages are typed by root"),
]

ALL = [
    pytest.param(name, heading, backend, id=f"{name.rpartition('/')[2]} {heading} {backend}")
    for (name, heading), (_, backends) in recipes.NETWORKS.items()
    for backend in backends
]


@pytest.mark.parametrize(("name", "heading", "backend"), ALL)
def test_recipe(lab, tmp_path, request, name, heading, backend):
    """As the page prints it where iptables is on nf_tables; legacy iptables tells the same, but for policies.

    The kernel's counters of rules agree, and what curl and ping print tells what arrived.
    """
    page = documents.ROOT / "docs" / f"{name}.md"
    commands = sessions.read(page, heading)
    network, backends = recipes.NETWORKS[name, heading]
    session = sessions.Session(lab, tmp_path, backend, network(lab, backend))
    lab.settle()
    for command in commands:
        session.type(command)
    if request.config.getoption("--update-golden") and backend == backends[0]:
        sessions.update(page, commands, session.printed)
        return
    for command in commands:
        printed = session.printed[command.line]
        wrong = sessions.differences(command.expected, printed, other=backend != backends[0])
        assert wrong is None, "\n".join([command.text, *printed])
    if backend == "legacy" and heading != "Answers that rp_filter drops":
        assert session.counted
