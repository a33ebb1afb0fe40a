"""BPF by itself: bpf(2) and its instructions, the kernel's types, rings, and the tap of netlink sockets."""
