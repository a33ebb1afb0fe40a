"""``iptrec demo``: record and show one packet on a small Docker-like network of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Keep the recording in this file.", dir_okay=False),
    ] = None,
) -> None:
    """Record and show a dropped packet on a small Docker network.

    The network is made for that, and goes in the end. No root is needed.

    Example:

      iptrec demo -o demo.db
    """
    from iptrec.demo.lab import Lab
    from iptrec.demo.scenario import FILTER, STORY, TRAFFIC, docker_hairpin
    from iptrec.kernel.process import iptrec

    # Without -o the recording lies on the lab's own /run, which vanishes with the lab.
    recording = "/run/demo.db" if output is None else str(output)
    quiet = ["-q"] if output is None else []  # it would name a file that nobody can look at
    with Lab() as lab:
        docker_hairpin(lab)
        print(STORY, flush=True)
        for command in (
            ("record", *quiet, FILTER, "--output", recording, "--", *TRAFFIC),
            ("show", "--no-pager", recording),
        ):
            with lab.popen(iptrec(*command)) as child:
                status = child.wait()
            if status:
                raise typer.Exit(status)
    if output is None:
        print("\nThe network is gone, and the recording too. Keep it: iptrec demo -o demo.db")
    else:
        print(f"\nThe network is gone; the recording stays: iptrec show {output}")
