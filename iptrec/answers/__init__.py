"""The questions that a recording answers."""
