"""Interfaces, connections and addresses over time."""
