"""The Docker hairpin once more, its rules loaded by iptables-nft: the answers are the same."""

from docker_hairpin import main

if __name__ == "__main__":
    main("nft")
