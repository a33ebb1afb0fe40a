"""Records all samples again (make samples), each into a .db beside its script."""

import both
import docker_hairpin
import ipsets
import ipv6
import kubernetes
import loopback
import nftables
import tapped

if __name__ == "__main__":
    for sample in (docker_hairpin, kubernetes, ipv6, loopback, nftables, ipsets, both, tapped):
        sample.main()
        print(f"recorded samples/{sample.__name__}.db")
    docker_hairpin.main("nft")
    print("recorded samples/docker_hairpin_nft.db")
