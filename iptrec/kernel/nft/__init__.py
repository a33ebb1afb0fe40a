"""The nf_tables half of the kernel: trace events, objects, our table, their watch."""
