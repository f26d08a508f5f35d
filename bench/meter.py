"""What a cluster of our own has spent: CPU time of all its processes, tokens of its models."""

from dataclasses import dataclass

from bench import cpu
from bench.models import Engine, at_rest, engines
from dreamr.cluster.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Reading:
    """So far, or between two readings.

    Attributes:
        tokens: generated, by model; those of cancelled requests too.
    """

    cpu_seconds: float
    tokens: dict[str, int]

    def since(self, before: "Reading") -> "Reading":
        """What was spent between two readings."""
        spent = {model: count - before.tokens[model] for model, count in self.tokens.items()}
        return Reading(self.cpu_seconds - before.cpu_seconds, spent)

    def __add__(self, other: "Reading") -> "Reading":
        tokens = {model: count + other.tokens[model] for model, count in self.tokens.items()}
        return Reading(self.cpu_seconds + other.cpu_seconds, tokens)


class Meter:
    """Reads a cluster's counters."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def read(self) -> Reading:
        """Waits until no request is active, so that nothing is booked to the next one.

        Raises:
            TimeoutError: one still is after ten seconds.
        """
        return self._reading(await at_rest(*self._addresses()))

    async def now(self) -> Reading:
        """Without waiting; engines tell their tokens up to 50 ms late."""
        return self._reading(await engines(*self._addresses()))

    def _addresses(self) -> list[str]:
        return [server.metrics_address for server in self._cluster.tritons.values()]

    def _reading(self, found: dict[str, Engine]) -> Reading:
        tokens = {model: engine.generated_tokens for model, engine in found.items()}
        return Reading(cpu.seconds(self._cluster.pids().values()), tokens)
