"""What a call carries beside its message."""

from collections.abc import Iterable

Metadata = Iterable[tuple[str, str | bytes]]
"""Names in lower case, with their values; a name may come several times."""
