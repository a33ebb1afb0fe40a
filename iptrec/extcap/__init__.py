"""Wireshark's interface for programs that capture, extcap(4): what it asks, a capture into its pipe, its folders."""
