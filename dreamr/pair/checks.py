"""What is wrong with a pair, or may become so, told before a model is loaded."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from dreamr.pair.model_folder import ModelFolder, PairFolderError, one_line
from dreamr.pair.writing import ROLES
from services.common.pair import ModelSettings, Pair
from services.common.prompts import Prompts
from services.verifier.evidence import word_of
from services.verifier.words import TOKENIZER, Words

_QUESTION = "What is 17 plus 25?"
_STEP = "17 plus 25 is 42."
_BACKEND = re.compile(r'^\s*backend\s*:\s*"(transformers|vllm)"', re.MULTILINE)
_IMAGES_UNSET = {"transformers": 8, "vllm": 999}
"""Images that a prompt may have where `model.json` sets no limit."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a pair.

    Attributes:
        level: the pair cannot be served with an error; with a warning it may be slow, or reject too much.
        text: what it is, and what to do.
    """

    level: Literal["error", "warning"]
    text: str


def check_pair(pair: Pair, repository: Path) -> list[Finding]:
    """Everything that can be told from the files.

    Args:
        repository: Triton's model repository with the pair's models.
    """
    findings: list[Finding] = []
    folders: dict[str, ModelFolder] = {}
    for role in ROLES:
        settings: ModelSettings = getattr(pair, role)
        try:
            served = _Served.read(repository / settings.triton_model)
            folder = folders[role] = ModelFolder.read(served.folder)
        except PairFolderError as error:
            findings.append(Finding("error", f"{role}: {error}"))
            continue
        for check in (
            _check_backend(served, folder),
            _check_context(served, folder, pair),
            _check_images(served, folder, pair),
            _check_tokenizer(pair, settings.template),
            _check_template(
                settings.template, pair, images=folder.takes_images and pair.reasoning.max_images > 0
            ),
        ):
            findings += (Finding(found.level, f"{role}: {found.text}") for found in check)
    findings += _check_judge(pair)
    if len(folders) == len(ROLES):
        findings += _check_both(folders["target"], folders["draft"], pair)
    return findings


def on_gpus(pair: Pair, repository: Path) -> bool:
    """Whether a model is vLLM's to serve.

    Raises:
        PairFolderError: a model's files are missing or not of that form.
    """
    served = (_Served.read(repository / getattr(pair, role).triton_model) for role in ROLES)
    return any(one.backend == "vllm" for one in served)


@dataclass(frozen=True, slots=True)
class _Served:
    """A model in Triton's repository: its backend, and what `1/model.json` says."""

    backend: str
    folder: Path
    settings: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "_Served":
        """Raises PairFolderError when a file is missing or is not of that form."""
        config, file = path / "config.pbtxt", path / "1" / "model.json"
        try:
            text = config.read_text("utf-8")
            settings = json.loads(file.read_text("utf-8"))
            folder = file.parent / settings["model"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PairFolderError(f"{path}: is no model as `dreamr pair add` writes it: {error!r}") from error
        limits = settings.get("limit_mm_per_prompt", {})
        if not isinstance(limits, dict) or not isinstance(limits.get("image", 0), int):
            raise PairFolderError(f'{file}: limit_mm_per_prompt must be an object, such as {{"image": 8}}')
        backend = _BACKEND.search(text)
        if backend is None:
            raise PairFolderError(f"{config}: has none of the backends transformers, vllm")
        if backend[1] == "vllm" and not Path(settings["model"]).is_absolute():
            raise PairFolderError(
                f"{file}: model {settings['model']!r} must be an absolute path: to vLLM another one is "
                "relative to where Triton was started, or a name in the hub"
            )
        return cls(backend[1], folder, settings)


def _check_backend(served: _Served, folder: ModelFolder) -> Iterator[Finding]:
    if served.backend == "vllm":
        if not folder.config.get("architectures"):
            yield Finding("error", "config.json names no architectures, by which vLLM finds the model's code")
        if folder.needs_code and not folder.generates and not served.settings.get("trust_remote_code"):
            yield Finding(
                "warning",
                f"{folder.model_type} is a model by code of its own: where vLLM has none for it, read that "
                'code and set "trust_remote_code": true in 1/model.json',
            )
    elif folder.needs_code and not folder.generates:
        yield Finding("error", f"{folder.model_type} is a model by code of its own, which is not run")
    elif not folder.generates:
        yield Finding(
            "error",
            f"model_type {folder.model_type!r} writes no text that transformers knows of: the backend serves "
            "AutoModelForImageTextToText and AutoModelForCausalLM",
        )
    elif quantized := folder.config.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        yield Finding(
            "warning",
            f"the weights are quantized ({method}), which transformers loads only with that method's own "
            "package, and many not on a CPU; take those that are not",
        )


def _check_context(served: _Served, folder: ModelFolder, pair: Pair) -> Iterator[Finding]:
    longest = served.settings.get("max_model_len") or folder.context
    if not isinstance(longest, int):
        yield Finding("warning", "says nothing of its context; set max_model_len in 1/model.json (tokens)")
        return
    if folder.context is not None and longest > folder.context:
        yield Finding(
            "error", f"max_model_len {longest} in 1/model.json is more than the model's {folder.context}"
        )
    wanted = pair.reasoning.max_reasoning_tokens + pair.reasoning.max_answer_tokens
    if wanted >= longest:
        yield Finding(
            "warning",
            f"a context of {longest} tokens does not hold reasoning and answer ({wanted}): lower "
            "max_reasoning_tokens and max_answer_tokens, or long questions end with an error",
        )


def _check_images(served: _Served, folder: ModelFolder, pair: Pair) -> Iterator[Finding]:
    if not (wanted := pair.reasoning.max_images):
        return
    if not folder.takes_images:
        yield Finding("error", f"takes no images; set max_images = 0 instead of {wanted}")
    limit = served.settings.get("limit_mm_per_prompt", {}).get("image", _IMAGES_UNSET[served.backend])
    if limit < wanted:
        yield Finding(
            "error", f"limit_mm_per_prompt in 1/model.json allows {limit} images, max_images {wanted}"
        )


def _check_tokenizer(pair: Pair, template: Path) -> Iterator[Finding]:
    """Whether steps and the end of reasoning can be seen in what the model writes."""
    settings = pair.reasoning
    tokenizer = _tokenizer(template)
    if tokenizer is None:
        yield Finding(
            "warning", f"{template}: has no {TOKENIZER}, so delimiter and marks could not be checked"
        )
        return
    text = f"one{settings.delimiter}two"
    written = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids)
    if settings.delimiter not in written:
        yield Finding(
            "error",
            f"its tokenizer does not keep the delimiter {settings.delimiter!r}, so no step would end: set "
            "another in [reasoning]",
        )
    close = settings.think_close
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    if close in special:
        yield Finding(
            "error",
            f"{close} is a special token, which engines leave out of the text, so no reasoning would close: "
            'set "special": false for it in tokenizer.json',
        )
    elif tokenizer.token_to_id(close) is None:
        yield Finding(
            "warning",
            f"its tokenizer has no token {close}: reasoning closes where the model ends its turn, and the "
            "answer is written behind a mark that it was hardly taught. Prefer a model that reasons, or set "
            "think_close in [reasoning] to the mark that it uses",
        )


def _check_template(template: Path, pair: Pair, *, images: bool) -> Iterator[Finding]:
    """Whether the prompts of a session can be written."""
    try:
        prompts = Prompts(template, pair.reasoning)
    except ValueError as error:
        yield Finding("error", str(error))
        return
    instruction = pair.tbvm.instruction
    plain: str | None = None
    tries: list[tuple[str, Callable[[], str], str]] = [
        ("a question", lambda: prompts.reasoning(_QUESTION, 0, ()), _QUESTION),
        (
            "the judge's instruction",
            lambda: prompts.judge(_QUESTION, 0, (), _STEP, False, instruction),
            instruction,
        ),
    ]
    if images:
        tries.append(("a question with an image", lambda: prompts.reasoning(_QUESTION, 1, ()), _QUESTION))
    for what, render, part in tries:
        try:
            text = render()
        except IndexError:
            yield Finding(
                "error", f"{template}: the chat template drops the assistant's turn, behind which it judges"
            )
            continue
        except Exception as error:  # noqa: BLE001 - a template is a program, and may raise anything
            yield Finding("error", f"{template}: the chat template fails on {what}: {one_line(error)}")
            continue
        if part not in text:
            yield Finding("error", f"{template}: the chat template leaves out {what}")
        elif plain is None:
            plain = text
        elif what.endswith("image") and text == plain:
            yield Finding("error", f"{template}: the chat template writes nothing for an image")
    if plain is not None:
        yield from _check_thinking(prompts, plain, pair, template)


def _check_thinking(prompts: Prompts, opening: str, pair: Pair, template: Path) -> Iterator[Finding]:
    """Whether the template opens the thought, and leaves it out where the judge is to say a word at once."""
    close = pair.reasoning.think_close
    opens = close.replace("/", "", 1)
    tokenizer = _tokenizer(template)
    if opening.rstrip().endswith(opens) or tokenizer is None or tokenizer.token_to_id(opens) is None:
        return
    asked = [{"role": "user", "content": _QUESTION}]

    def render(*, thinking: bool) -> str:
        return prompts.conversation(asked, opens_turn=True, continues=False, thinking=thinking)

    try:
        switches = render(thinking=True) != render(thinking=False)
    except Exception:  # noqa: BLE001 - told already
        return
    if not switches:
        yield Finding(
            "warning",
            f"{template}: the model has {opens}, which the chat template neither opens nor leaves out by "
            "enable_thinking: as a judge it may think first, and then every candidate is rejected; see the "
            "verdict's mass in the probe",
        )


def _check_judge(pair: Pair) -> Iterator[Finding]:
    """Whether the target can say the judge's words as its next token."""
    folder = pair.target.template
    tokenizer = _tokenizer(folder)
    for name, judge in (("tbvm", pair.tbvm), ("equivalence", pair.equivalence)):
        if judge is None:
            continue
        try:
            words = Words.find(judge.positive, judge.negative, folder)
        except ValueError as error:
            yield Finding("error", f"[{name}] {error}: choose other words for positive and negative")
            continue
        if tokenizer is None or words.ids is None:
            yield Finding(
                "warning", f"[{name}] {folder} has no {TOKENIZER}: words are told by the texts of tokens"
            )
            continue
        for word, found in zip((judge.positive, judge.negative), words.ids, strict=True):
            texts = sorted({tokenizer.decode([number], skip_special_tokens=False) for number in found})
            if not any(word_of(text) == word_of(word) for text in texts):
                yield Finding(
                    "warning",
                    f"[{name}] {word!r} is no token of the target, and is told by how it begins ({texts}): "
                    "a word that is one token, such as yes and no, judges better",
                )


def _check_both(target: ModelFolder, draft: ModelFolder, pair: Pair) -> Iterator[Finding]:
    if target.path == draft.path:
        yield Finding(
            "warning", "target and draft are the same folder: right, and no faster than the target alone"
        )
    if target.takes_images != draft.takes_images and not pair.reasoning.max_images:
        blind = "draft" if target.takes_images else "target"
        yield Finding(
            "warning", f"the {blind} takes no images, so the pair is for text alone (max_images = 0)"
        )


def _tokenizer(folder: Path) -> Tokenizer | None:
    """The folder's `tokenizer.json`, where it has one that can be read; `Words` tells of one that cannot."""
    path = folder / TOKENIZER
    try:
        return Tokenizer.from_file(str(path)) if path.is_file() else None
    except Exception:  # noqa: BLE001 - the library raises nothing more particular
        return None
