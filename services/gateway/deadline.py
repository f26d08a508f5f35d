"""How much time there still is."""

import asyncio

from services.common.errors import LateError


def left(deadline: float) -> float:
    """Seconds until a deadline in the event loop's time; above 0.

    Raises:
        LateError: it has passed.
    """
    seconds = deadline - asyncio.get_running_loop().time()
    if seconds <= 0:
        raise LateError("the deadline has passed")
    return seconds
