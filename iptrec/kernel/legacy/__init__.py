"""The iptables-legacy half of the kernel: nflog events, loggers, rule blobs, their watch."""
