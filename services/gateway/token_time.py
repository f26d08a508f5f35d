"""How long a token of the target takes, as a function of what else the target does."""

import numpy as np

# An observation's weight falls by half within some 140 others.
_MEMORY = 0.995
# What the load has not explained yet is booked to the base, as if so much of an observation had shown that a
# mean load has no effect. Without it a load that never changed would have no single solution.
_DOUBT = 0.05
# The base is never taken for nothing: at least this share of a mean token's time.
_LEAST_BASE = 0.05


class TokenTime:
    """Recursive least squares with forgetting: seconds = base + share * decoding + verdict * verdicts.

    None of the three is negative, and the base is positive.
    """

    def __init__(self) -> None:
        self._squares = np.zeros((3, 3))
        self._products = np.zeros(3)
        self.count = 0

    def observe(self, seconds: float, decoding: float, verdicts: float) -> None:
        """A piece of generation.

        Args:
            seconds: a token.
            decoding: sequences that the target decoded meanwhile, this one among them.
            verdicts: that were given, a token.
        """
        features = np.array([1.0, decoding, verdicts])
        self._squares = _MEMORY * self._squares + np.outer(features, features)
        self._products = _MEMORY * self._products + features * seconds
        self.count += 1

    def fit(self) -> tuple[float, float, float]:
        """Base, share and verdict, in seconds; call it after at least one observation."""
        weight = self._squares[0, 0]
        doubt = np.diag(self._squares) / weight * (0.0, _DOUBT, _DOUBT)
        least = _LEAST_BASE * self._products[0] / weight
        effects = [index for index in (1, 2) if self._squares[index, index] > 0]
        while True:
            kept = [0, *effects]
            found = np.linalg.solve(
                (self._squares + np.diag(doubt))[np.ix_(kept, kept)], self._products[kept]
            )
            worst = min(range(1, len(kept)), key=found.__getitem__, default=0)
            if not worst or found[worst] >= 0:
                values = dict(zip(kept, map(float, found), strict=True))
                return max(values[0], float(least)), values.get(1, 0.0), values.get(2, 0.0)
            del effects[worst - 1]
