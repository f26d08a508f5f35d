"""SAPO: the draft learns by reinforcement to write steps that the target accepts, and few of them."""
