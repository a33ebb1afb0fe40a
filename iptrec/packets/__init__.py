"""Which events are one packet."""
