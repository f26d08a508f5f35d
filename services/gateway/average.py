"""A mean that forgets."""

from dataclasses import dataclass

# How many observations it reaches back, give or take.
MEMORY = 32


@dataclass(slots=True)
class Average:
    """The mean of the last observations, the newest weighing most.

    Attributes:
        count: of all observations so far.
    """

    value: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """One more observation."""
        self.count += 1
        self.value += (value - self.value) / min(self.count, MEMORY)
