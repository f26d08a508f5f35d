"""Judges candidates by evidence from the target."""
