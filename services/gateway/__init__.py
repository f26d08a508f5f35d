"""FPSR across the cluster: the state machine, its driver, sessions and the front."""
