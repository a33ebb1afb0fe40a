"""Which rules were in force when, and what can follow what."""
