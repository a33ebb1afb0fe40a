"""A recording without what identifies a host, its users and their peers, of which every answer is the same."""
