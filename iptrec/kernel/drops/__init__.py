"""Which packets the kernel drops, and why it says that it does so: a BPF program on its own tracepoint."""
