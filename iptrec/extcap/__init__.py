"""Wireshark's interface for programs that capture, extcap(4): answers, a capture into its pipe, its folders."""
