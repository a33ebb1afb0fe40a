"""Which programs send packets that are traced: a BPF program of our own at OUTPUT."""
