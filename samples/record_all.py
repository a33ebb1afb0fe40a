"""Records all samples again (make samples), each into a .db beside its script."""

import docker_hairpin
import ipv6
import kubernetes
import loopback

if __name__ == "__main__":
    for sample in (docker_hairpin, kubernetes, ipv6, loopback):
        sample.main()
        print(f"recorded samples/{sample.__name__}.db")
