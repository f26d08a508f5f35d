"""The bundled models: standard LLaVA classes, small, with one visual token a cell."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from training.task import CELL_PIXELS, SIDE
from training.tokens import IMAGE


@dataclass(frozen=True, slots=True)
class Size:
    """Layers and widths of the language model and of the vision tower.

    Attributes:
        writing: the lower layers, after which the next token is known; those above them, if any, compare it
            with what stands there. They start as identities.
    """

    layers: int
    writing: int
    width: int
    heads: int
    inner: int
    vision_layers: int
    vision_width: int


# Depth decides the time per token on a CPU, and how well the target compares a step with its own.
SIZES = {
    "target": Size(layers=12, writing=8, width=192, heads=4, inner=512, vision_layers=3, vision_width=96),
    "draft": Size(layers=2, writing=2, width=96, heads=4, inner=256, vision_layers=1, vision_width=64),
}


def make_model(size: Size, tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A model of that size with fresh weights."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    vision = SiglipVisionConfig(
        hidden_size=size.vision_width,
        intermediate_size=4 * size.vision_width,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=4,
        image_size=SIDE * CELL_PIXELS,
        patch_size=CELL_PIXELS,
        vision_use_head=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_seq_length=SIDE * SIDE,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    for layer in model.model.language_model.layers[size.writing :]:
        nn.init.zeros_(layer.self_attn.o_proj.weight)
        nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Resizes an image of any size to the grid's; three equal channels within -1..1."""
    pixels = SIDE * CELL_PIXELS
    images = SiglipImageProcessorPil(
        size={"height": pixels, "width": pixels}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=CELL_PIXELS,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        image_token=IMAGE,
        chat_template=tokenizer.chat_template,
    )
