"""Records all samples again (make samples), each into a .db beside its script."""

import docker_hairpin
import ipv6
import kubernetes
import loopback
import nft_hairpin
import nft_native

if __name__ == "__main__":
    for sample in (docker_hairpin, kubernetes, ipv6, loopback, nft_hairpin, nft_native):
        sample.main()
        print(f"recorded samples/{sample.__name__}.db")
