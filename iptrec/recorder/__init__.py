"""Record traced packets and the rulesets in force."""
