"""Docker hairpin: a container asks for another network's published port and is dropped in isolation.

The container 172.22.0.2 connects to 172.17.0.3:1242 (DNAT to 172.23.0.2:1242); the packet dies in
DOCKER-ISOLATION-STAGE-2 rule 1.
"""

import os
import sys

from recording import HERE

from iptrec.demo.lab import Lab
from iptrec.demo.scenario import FILTER, TRAFFIC, docker_hairpin


def main(backend: str = "legacy") -> None:
    """Record it."""
    name = "docker_hairpin" if backend == "legacy" else f"docker_hairpin_{backend}"
    output = os.path.relpath(HERE / f"{name}.db")
    traffic = ["python3" if word == sys.executable else word for word in TRAFFIC]
    with Lab() as lab:
        docker_hairpin(lab, backend)
        lab.run(
            [
                sys.executable,
                "-m",
                "iptrec",
                "record",
                "--force",
                FILTER,
                "-o",
                output,
                "--",
                *traffic,
            ]
        )


if __name__ == "__main__":
    main()
