"""Names whose addresses the test gives."""


class Names:
    """A resolver whose answers the test gives; a name without any cannot be resolved."""

    def __init__(self, **hosts: list[str]) -> None:
        self.hosts = hosts
        self.asked: list[tuple[str, int]] = []

    async def look_up(self, host: str, port: int) -> list[str]:
        """See Lookup."""
        self.asked.append((host, port))
        if host not in self.hosts:
            raise OSError("no such name")
        return self.hosts[host]
