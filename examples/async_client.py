"""Watch an answer come about: `python examples/async_client.py HOST:PORT IMAGE QUESTION`."""

import asyncio
import sys
from contextlib import aclosing

import dreamr


async def main(address: str, image: str, question: str) -> None:
    async with (
        dreamr.AsyncClient(address) as client,
        # Without it, who leaves the loop early would leave the session running.
        aclosing(client.reason(question, images=[image], policy="fpsr", window=4)) as events,
    ):
        async for event in events:
            if isinstance(event, dreamr.Commit):
                print(event.index, event.author, event.text)
            elif isinstance(event, dreamr.Finished):
                print("answer:", event.answer)


asyncio.run(main(*sys.argv[1:]))
