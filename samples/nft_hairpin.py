"""The Docker hairpin of docker_hairpin.py, its rules loaded by iptables-nft."""

import os
import sys

from recording import HERE

from iptrec.cli.demo import FILTER, TRAFFIC, docker_hairpin
from iptrec.kernel.lab import Lab


def main() -> None:
    """Record it."""
    output = os.path.relpath(HERE / "nft_hairpin.db")
    traffic = ["python3" if word == sys.executable else word for word in TRAFFIC]
    with Lab() as lab:
        docker_hairpin(lab, "nft")
        iptrec = (sys.executable, "-m", "iptrec", "record", "--force")
        lab.run([*iptrec, FILTER, "-o", output, "--", *traffic])


if __name__ == "__main__":
    main()
