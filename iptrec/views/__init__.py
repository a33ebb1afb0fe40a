"""Answers into bytes: one module an output. Nothing is decided here."""
