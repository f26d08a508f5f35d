"""Thousands of sessions under a virtual clock, with faults, each checked against the rules of FPSR."""
