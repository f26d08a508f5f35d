"""The tokenizer and chat template of the bundled pair.

Words and single characters, each with a leading space or without, so that a text is the plain sum of its
tokens; numbers are read and written digit by digit.
"""

import string

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from training.task import example_words

IMAGE, USER, ASSISTANT, END = "<image>", "<|user|>", "<|assistant|>", "<|end|>"
PAD, UNKNOWN = "<|pad|>", "<|unknown|>"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
POSITIVE, NEGATIVE = "positive", "negative"
INSTRUCTION = f"is the last step correct ? say {POSITIVE} or {NEGATIVE} ."
# SpecReason's judge (arXiv 2504.07891) gives a digit instead.
WORST, BEST = "0", "9"
DIGIT_INSTRUCTION = f"is the last step correct ? say a digit , {WORST} to {BEST} ."

# A question is a string or a list of parts, as chat APIs have it; the thought is opened by default.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}<|user|>
{%- elif message['role'] == 'assistant' -%}<|assistant|>
{%- else -%}{{ raise_exception('this model knows the roles user and assistant only') }}
{%- endif -%}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<image>{%- else -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- if enable_thinking is not defined or enable_thinking -%}
{{ '<think>\\n' }}
{%- endif -%}{%- endif -%}"""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is the task's words and all printable ASCII characters."""
    words = sorted({*example_words(), *INSTRUCTION.split(), POSITIVE, NEGATIVE})
    pieces = [*words, *string.printable]
    texts = dict.fromkeys([*pieces, *(f" {piece}" for piece in pieces if piece.strip()), "\n\n"])
    special = [PAD, UNKNOWN, IMAGE, USER, ASSISTANT, END]
    vocabulary = {text: number for number, text in enumerate([*special, *texts])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    known = "|".join(sorted((word for word in words if word.isalpha()), key=len, reverse=True))
    pattern = Regex(rf"\n\n| ?(?:{known})(?![A-Za-z])| ?[^\s]|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    # Ordinary text, as in Qwen3: a reader of the output must see where the reasoning ends.
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in (THINK_OPEN, THINK_CLOSE)])
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in special])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        extra_special_tokens={"image_token": IMAGE},
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
