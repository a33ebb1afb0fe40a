"""Undo what a recorder did, whatever ended it."""
