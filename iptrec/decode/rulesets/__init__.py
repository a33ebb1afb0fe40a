"""Texts of rulesets → values."""
