"""The demonstration: a small lab, and what is tried there."""
