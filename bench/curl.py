"""`python -m bench.curl` asks a cluster of its own by curl and prints what is typed and seen."""

import asyncio
import sys
import tempfile
from pathlib import Path

from bench.questions import Question, held_out
from dreamr.cluster.cluster import Cluster

_QUESTION = """\
[{"role": "user", "content": [
  {"type": "image_url", "image_url": {"url": "data:image/png;base64,$image"}},
  {"type": "text", "text": "$question"}]}"""

COMMANDS = (
    "curl -s $URL/health",
    "curl -s $URL/v1/models",
    "image=$(base64 -w0 grid.png)",
    f"""\
curl -s $URL/v1/chat/completions -H 'content-type: application/json' -d @- <<END
{{"model": "dreamr", "messages": {_QUESTION}]}}
END""",
    f"""\
curl -sN $URL/v1/chat/completions -H 'content-type: application/json' -d @- <<END
{{"model": "dreamr", "stream": true, "stream_options": {{"include_usage": true}},
"dreamr": {{"policy": "fpsr", "window": 4}}, "messages": {_QUESTION}]}}
END""",
    f"""\
curl -s $URL/v1/chat/completions -H 'content-type: application/json' -d @- <<END
{{"model": "dreamr/draft", "max_tokens": 2, "logprobs": true, "top_logprobs": 2,
"continue_final_message": true, "add_generation_prompt": false, "messages": {_QUESTION},
{{"role": "assistant", "content": "<think>\\\\nstep 1 : row"}}]}}
END""",
    """\
curl -s -w '%{http_code}\\n' $URL/v1/chat/completions -H 'content-type: application/json' -d @- <<END
{"model": "dreamr", "messages": [{"role": "user", "content": [
  {"type": "image_url", "image_url": {"url": "https://example.org/grid.png"}}]}]}
END""",
)


async def transcript(url: str, asked: Question, folder: Path) -> str:
    """What a user types and sees.

    Args:
        url: of the gateway's HTTP front.
        folder: where the image is put.

    Raises:
        RuntimeError: a command failed; the message is what it says.
    """
    (folder / "grid.png").write_bytes(asked.image)
    settings = f"URL={url}\nquestion='{asked.text}'\n"
    shown = [f"$ {line}\n" for line in settings.splitlines()]
    for command in COMMANDS:
        # A shell for each command, to tell its output from the others'.
        process = await asyncio.create_subprocess_exec(
            *("/bin/bash", "-euc", f"{settings}{command}"),
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, problems = await asyncio.wait_for(process.communicate(), 120)
        if process.returncode:
            raise RuntimeError(f"{command}: {problems.decode()}")
        if command.startswith("image="):
            settings += f"{command}\n"
        shown.append(f"\n$ {command}\n{out.decode().rstrip()}\n")
    return "".join(shown)


async def _main() -> None:
    async with Cluster(http="127.0.0.1:0") as cluster:
        with tempfile.TemporaryDirectory() as folder:
            found = await transcript(f"http://{cluster.http[0]}", held_out(1, seed=5)[0], Path(folder))
    sys.stdout.write(found)


if __name__ == "__main__":
    asyncio.run(_main())
