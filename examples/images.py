"""Images as paths, encoded bytes and PIL images: `python examples/images.py HOST:PORT IMAGE QUESTION`."""

import sys
from pathlib import Path

from PIL import Image

import dreamr


def main(address: str, path: str, question: str) -> None:
    with dreamr.Client(address) as client, Image.open(path) as opened:
        for image in (path, Path(path).read_bytes(), opened):
            answer = client.ask(question, images=[image])
            print(f"answer: {answer.answer} ({len(answer.steps)} steps, {answer.seconds:.2f} s)")


main(*sys.argv[1:])
