"""A model with what only training needs: heads for auxiliary losses.

In one forward pass a model can compare what stands there with what it would have written only in layers
above the one where its own prediction forms. So the lower, writing layers predict the next token too; the
next ones learn, token by token, whether the right one stands there; the last gather that for the verdict.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration
from transformers.models.llava.modeling_llava import LlavaModelOutputWithPast

from training.data import IGNORED, Batch
from training.images import Images
from training.model import Size

WRITING_WEIGHT, SOUND_WEIGHT, WORD_WEIGHT, DIGIT_WEIGHT = 0.5, 1.0, 1.0, 0.3


@dataclass(frozen=True, slots=True)
class Losses:
    """Means over what each is about, in nats; `total` is what is minimised."""

    total: Tensor
    text: Tensor
    word: Tensor
    sound: Tensor
    digit: Tensor


class Trainee(nn.Module):
    """One model of the pair, in training.

    Args:
        size: what the model was made with.
    """

    def __init__(self, model: LlavaForConditionalGeneration, images: Images, size: Size) -> None:
        super().__init__()
        width = model.config.text_config.hidden_size
        self.model = model
        self.images = images
        self.writing = size.writing if size.writing < size.layers else 0
        self.comparing = (size.writing + size.layers) // 2
        self.digit_head = nn.Linear(width, 10)
        self.sound_head = nn.Linear(width, 1)

    def look(self, batch: Batch) -> Tensor:
        """Loss of reading the digits from the visual tokens alone: the vision tower's warm-up."""
        pixels = self.images.pixels(batch.grids, distort=True)
        features = self.model.model.get_image_features(pixels, return_dict=True).pooler_output
        return self._digit_loss(torch.cat(list(features)), batch)

    def forward(self, batch: Batch) -> Losses:
        """All losses of a batch."""
        pixels = self.images.pixels(batch.grids, distort=True)
        out = self.model.model(
            input_ids=batch.ids,
            attention_mask=batch.sees,
            position_ids=batch.position,
            pixel_values=pixels,
            output_hidden_states=True,
            use_cache=False,
        )
        text, word = self._text_losses(out.last_hidden_state, batch)
        total = text + WORD_WEIGHT * word
        zero = text.new_zeros(())
        sound = digit = zero
        if self.writing:
            total = total + WRITING_WEIGHT * self._text_losses(self._normed(out, self.writing), batch)[0]
            marked = batch.sound != IGNORED
            if marked.any():
                logits = self.sound_head(self._normed(out, self.comparing)[marked]).squeeze(-1).float()
                sound = _balanced(logits, batch.sound[marked].float())
                total = total + SOUND_WEIGHT * sound
        digit = self._digit_loss(out.image_hidden_states.flatten(0, -2), batch)
        return Losses(total + DIGIT_WEIGHT * digit, text, word, sound, digit)

    def _normed(self, out: LlavaModelOutputWithPast, layer: int) -> Tensor:
        normed: Tensor = self.model.model.language_model.norm(out.hidden_states[layer])
        return normed

    def _text_losses(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross entropy of the next token: of the reasoning, and of the judge's words."""
        labels = batch.labels[:, 1:]
        taught = labels != IGNORED
        logits = self.model.lm_head(hidden[:, :-1][taught]).float()
        losses = functional.cross_entropy(logits, labels[taught], reduction="none")
        is_word = batch.word[:, 1:][taught]
        text = losses[~is_word].mean()
        word = losses[is_word].mean() if is_word.any() else text.new_zeros(())
        return text, word

    def _digit_loss(self, features: Tensor, batch: Batch) -> Tensor:
        logits = self.digit_head(features).float()
        return functional.cross_entropy(logits, self.images.labels[batch.grids.flatten()])


def _balanced(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy in which the few wrong tokens weigh as much as the many right ones."""
    losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    right, wrong = labels.sum().clamp(min=1), (1 - labels).sum().clamp(min=1)
    return (losses * labels).sum() / (2 * right) + (losses * (1 - labels)).sum() / (2 * wrong)
