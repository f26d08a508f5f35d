"""Images of grids as tensors, with or without distortion."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from training.task import CELL_PIXELS, SIDE, digits

# Of the coarse field that bends a cell, in half cells: 99.5% of unknown digits read instead of 99.2%.
WARP = 0.07


class Images:
    """Makes pixel values from grids, on one device."""

    def __init__(self, device: torch.device) -> None:
        pixels, labels = digits()
        self._cells = torch.tensor(pixels, device=device).float() / 127.5 - 1
        self.labels = torch.tensor(labels, device=device)

    def pixels(self, grids: Tensor, *, distort: bool = False) -> Tensor:
        """Pixel values [B, 3, 48, 48] within about -1..1, for grids [B, 9] of indices."""
        cells = self._cells[grids.flatten()].unsqueeze(1)
        if distort:
            cells = _distort(cells)
        side = SIDE * CELL_PIXELS
        rows = cells.view(-1, SIDE, SIDE, CELL_PIXELS, CELL_PIXELS).transpose(2, 3)
        return rows.reshape(-1, 1, side, side).expand(-1, 3, -1, -1).contiguous()


def _distort(cells: Tensor) -> Tensor:
    """Turns, scales, shears, shifts, warps and stains each cell a little: the hands of other writers."""
    count, device = len(cells), cells.device

    def spread(most: float) -> Tensor:
        return (torch.rand(count, device=device) * 2 - 1) * most

    angle, scale, shear = spread(math.radians(12)), 1 + spread(0.15), spread(0.15)
    matrix = torch.stack(
        [
            torch.stack([scale * angle.cos(), shear - angle.sin(), spread(0.15)], 1),
            torch.stack([angle.sin(), scale * angle.cos(), spread(0.15)], 1),
        ],
        1,
    )
    grid = functional.affine_grid(matrix, list(cells.shape), align_corners=False)
    warp = torch.randn(count, 2, 4, 4, device=device) * WARP
    grid = grid + functional.interpolate(warp, size=CELL_PIXELS, mode="bicubic").permute(0, 2, 3, 1)
    # Paper is -1: sample ink above it, so that what comes in from outside is paper.
    moved = functional.grid_sample(cells + 1, grid, align_corners=False) - 1
    noise = torch.randn_like(moved) * (torch.rand(count, 1, 1, 1, device=device) * 0.15)
    return moved + noise
