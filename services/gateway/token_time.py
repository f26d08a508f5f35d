"""How long a token of the target takes, as a function of what else the target does."""

import numpy as np

# An observation's weight falls by half within some 350 others.
_MEMORY = 0.998
# What the load does not explain for certain is booked to the base: 1% of a feature's own weight.
_DOUBT = 0.01


class TokenTime:
    """Recursive least squares with forgetting: seconds = base + share * decoding + verdict * verdicts.

    None of the three is negative.
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
        doubt = np.diag(self._squares) * (0.0, _DOUBT, _DOUBT)
        kept = [0, 1, 2]
        while True:
            kept = [index for index in kept if self._squares[index, index] > 0]
            squares = (self._squares + np.diag(doubt))[np.ix_(kept, kept)]
            found = np.linalg.solve(squares, self._products[kept])
            negative = [index for index, value in zip(kept, found, strict=True) if value < 0]
            if not negative:
                values = dict(zip(kept, map(float, found), strict=True))
                return values.get(0, 0.0), values.get(1, 0.0), values.get(2, 0.0)
            kept = [index for index in kept if index not in negative]
