"""Whole steps out of a model: one at a time, or a run of them split at the delimiter."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dreamr.v1 import common_pb2
from services.common.pair import ReasoningSettings
from services.common.triton import Chunk, Sampling, TritonModel

OnProgress = Callable[[int], None]
"""Told the tokens that a generation has written so far."""


@dataclass(frozen=True, slots=True)
class Written:
    """A step, what it cost, and the version of the model that wrote it."""

    step: common_pb2.Step
    usage: common_pb2.Usage
    version: int = 0


class StepWriter:
    """Writes steps with one model."""

    def __init__(self, model: TritonModel, settings: ReasoningSettings) -> None:
        self._model = model
        self._settings = settings

    async def write(
        self,
        prompt: str,
        images: Sequence[bytes],
        sampling: Sampling,
        *,
        max_tokens: int,
        seconds: float,
        logprobs: bool = False,
        on_progress: OnProgress | None = None,
        version: int | None = None,
    ) -> Written:
        """Writes one step behind `prompt`; it ends at the delimiter, at the mark that ends reasoning or at
        `max_tokens`. With `on_progress` the generation is streamed; with `logprobs` the step says how likely
        its tokens were; without `version` the latest writes it.

        A model that writes a bare delimiter is asked once more behind it; if that brings nothing either, the
        step is empty and counts as truncated. A step that is empty and closes is the end of the reasoning.

        Raises:
            ServiceError: as `TritonModel.generate`.
        """
        settings = self._settings
        parameters = {
            **sampling.parameters(),
            "max_tokens": max_tokens,
            "stop": [settings.delimiter, settings.think_close],
            "include_stop_str_in_output": True,
        }
        if logprobs:
            # In vLLM's terms: of the drawn token, and of no other.
            parameters["logprobs"] = 0
        started = time.perf_counter()
        written = await self._once(prompt, images, parameters, seconds, on_progress, 0, started, version)
        if not _is_blank(written.step):
            return written
        prompt += settings.delimiter
        seconds -= time.perf_counter() - started
        spent = written.step.tokens
        written = await self._once(
            prompt, images, parameters, max(seconds, 0), on_progress, spent, started, version
        )
        written.step.truncated = written.step.truncated or _is_blank(written.step)
        return written

    async def _once(
        self,
        prompt: str,
        images: Sequence[bytes],
        parameters: dict[str, Any],
        seconds: float,
        on_progress: OnProgress | None,
        tokens: int,
        started: float,
        version: int | None,
    ) -> Written:
        """One generation of a step for which `tokens` have been spent already."""
        text, last = "", None
        drawn: list[float] = []
        streams = on_progress is not None
        async with self._model.generate(
            prompt, images, parameters, stream=streams, seconds=seconds, version=version
        ) as chunks:
            async for chunk in chunks:
                text, tokens, last = text + chunk.text, tokens + chunk.tokens, chunk
                drawn += (place[0].logprob for place in chunk.logprobs if place)
                if on_progress:
                    on_progress(tokens)
        assert last is not None
        step = self._step(text, tokens, last.finish_reason)
        if drawn:
            step.mean_logprob, step.min_logprob = fmean(drawn), min(drawn)
        return Written(step, _usage(last, tokens, started), last.version)

    async def run_on(
        self,
        prompt: str,
        images: Sequence[bytes],
        sampling: Sampling,
        *,
        max_tokens: int,
        max_step_tokens: int,
        seconds: float,
        on_progress: OnProgress | None = None,
    ) -> AsyncIterator[Written]:
        """Writes steps in one generation, mostly until the reasoning closes or `max_tokens` are written.

        A step's tokens are those of the pieces up to its delimiter, its usage that of its generation so far.
        One of more than `max_step_tokens` is written anew, as `write` does; so is one that is not too long,
        but in one piece with what follows. Such steps come together: behind it they are written one by one,
        up to the first that ends by itself, which is the last. Close the iterator to cancel.

        Raises:
            ServiceError: as `TritonModel.generate`.
        """
        settings = self._settings
        parameters = {
            **sampling.parameters(),
            "max_tokens": max_tokens,
            "stop": [settings.think_close],
            "include_stop_str_in_output": True,
        }
        started = time.perf_counter()
        buffer, tokens, total, count = "", 0, 0, 0
        async with self._model.generate(prompt, images, parameters, stream=True, seconds=seconds) as chunks:
            async for chunk in chunks:
                buffer, tokens, total = buffer + chunk.text, tokens + chunk.tokens, total + chunk.tokens
                if on_progress:
                    on_progress(total)
                if tokens > max_step_tokens:
                    break
                last = chunk.finish_reason is not None
                *whole, buffer = buffer.split(settings.delimiter)
                if whole and not last:
                    # Extra blank lines are no steps.
                    buffer = buffer.lstrip("\n")
                for text in filter(str.strip, whole):
                    step = common_pb2.Step(text=text.strip(), tokens=tokens)
                    yield Written(step, _usage(chunk, total, started))
                    prompt, tokens, count = prompt + step.text + settings.delimiter, 0, count + 1
                if last and (buffer.strip() or chunk.finish_reason == "stop"):
                    step = self._step(buffer, tokens, chunk.finish_reason)
                    yield Written(step, _usage(chunk, total, started))
                    count += 1
        # A budget that a blank has used up is no reason to write nothing.
        again = tokens > max_step_tokens or not count
        while again:
            count += 1
            one = await self.write(
                prompt,
                images,
                sampling.behind(count),
                max_tokens=max_step_tokens,
                seconds=max(0, seconds - (time.perf_counter() - started)),
                on_progress=_behind(total, on_progress),
            )
            yield one
            prompt, total = prompt + one.step.text + settings.delimiter, total + one.usage.output_tokens
            again = one.step.truncated and bool(one.step.text) and total < max_tokens

    def _step(self, text: str, tokens: int, finish_reason: str | None) -> common_pb2.Step:
        """Reads off how a step ended. Without a stop string at its end, "stop" means end of sequence."""
        settings = self._settings
        body, mark, _ = text.partition(settings.think_close)
        delimited = not mark and body.endswith(settings.delimiter)
        return common_pb2.Step(
            text=body.strip(),
            tokens=tokens,
            closes=bool(mark) or (finish_reason == "stop" and not delimited),
            truncated=finish_reason == "length" and not mark and not delimited,
        )


def _is_blank(step: common_pb2.Step) -> bool:
    return not (step.text or step.closes or step.truncated)


def _behind(tokens: int, report: OnProgress | None) -> OnProgress | None:
    """Reports a generation's tokens together with those before it."""
    return report and (lambda more: report(tokens + more))


def _usage(chunk: Chunk, tokens: int, started: float) -> common_pb2.Usage:
    return common_pb2.Usage(
        prompt_tokens=chunk.prompt_tokens,
        output_tokens=tokens,
        seconds=time.perf_counter() - started,
    )
