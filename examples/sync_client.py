"""The same without asyncio: `python examples/sync_client.py HOST:PORT IMAGE QUESTION`."""

import sys

import dreamr


def main(address: str, image: str, question: str) -> None:
    with dreamr.Client(address) as client:
        for event in client.reason(question, images=[image]):
            if isinstance(event, dreamr.Commit):
                print(event.index, event.author, event.text)
            elif isinstance(event, dreamr.Finished):
                print("answer:", event.answer)
        try:
            client.ask("", images=[image])
        except dreamr.InvalidRequestError as error:
            print("refused:", error)


main(*sys.argv[1:])
