"""Counters for Prometheus, beside a recorder: a process that counts, and one that keeps the file."""
