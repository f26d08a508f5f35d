"""Policies side by side, on the same questions in one run."""
