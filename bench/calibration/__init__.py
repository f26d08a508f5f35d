"""How well a judge tells right steps from wrong ones, and where alpha should be."""
