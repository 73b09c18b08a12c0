"""AIZOO's networks (MIT licence) in PyTorch from plain arrays: a teacher, and the yardstick of cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

MAPS = {260: (33, 17, 9, 5, 3), 360: (45, 23, 12, 6, 4)}
SIZES = ((0.04, 0.056), (0.08, 0.11), (0.16, 0.22), (0.32, 0.45), (0.64, 0.72))
WIDTHS = (32, 64, 64, 64, 128, 128, 64, 64)


class Aizoo(nn.Module):
    """(n, 3, s, s) RGB in 0..1 -> loc (n, a, 4), scores (n, a, 2) after the sigmoid; s is 260 or 360."""

    def __init__(self, state: dict[str, NDArray[np.float32]]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        for name in {key.split(".")[0] for key in state if not key.split(".")[0].endswith("_bn")}:
            weight = torch.from_numpy(state[f"{name}.weight"].astype(np.float32))
            if f"{name}_bn.weight" in state:
                bn = {k: torch.from_numpy(state[f"{name}_bn.{k}"].astype(np.float32))
                      for k in ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
                gain = bn["weight"] / torch.sqrt(bn["running_var"] + 1e-3)
                weight, bias = weight * gain[:, None, None, None], bn["bias"] - bn["running_mean"] * gain
            else:
                bias = torch.from_numpy(state[f"{name}.bias"].astype(np.float32))
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=0 if name == "conv2d_7" else 1)
            conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
            self.layers[name] = conv

    @classmethod
    def load(cls, path: Path) -> Aizoo:
        with np.load(path) as arrays:
            return cls(dict(arrays)).eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        levels = []
        for i in range(8):
            x = functional.relu(self.layers[f"conv2d_{i}"](x))
            if i >= 3:
                levels.append(x)
            if i < 6:
                x = functional.max_pool2d(x, 2, 2, ceil_mode=True)
        boxes: list[Tensor] = []
        scores: list[Tensor] = []
        for i, level in enumerate(levels):
            for kind, outputs, width in (("loc", boxes, 4), ("cls", scores, 2)):
                y = functional.relu(self.layers[f"{kind}_{i}_insert_conv2d"](level))
                y = self.layers[f"{kind}_{i}_conv"](y)
                outputs.append(y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, width))
        return torch.cat(boxes, 1), torch.cat(scores, 1).sigmoid()


def anchors(side: int) -> NDArray[np.float32]:
    """(a, 4) centre x, centre y, width, height in 0..1."""
    parts = []
    for cells, (small, large) in zip(MAPS[side], SIZES, strict=True):
        shapes = [(small, small), (large, large)]
        shapes += [(small * ratio**0.5, small / ratio**0.5) for ratio in (0.62, 0.42)]
        y, x = np.meshgrid((np.arange(cells) + 0.5) / cells, (np.arange(cells) + 0.5) / cells, indexing="ij")
        centre = np.stack([x, y], -1).reshape(-1, 1, 2).repeat(len(shapes), 1)
        parts.append(np.concatenate([centre, np.broadcast_to(shapes, (*centre.shape[:2], 2))], -1).reshape(-1, 4))
    return np.asarray(np.concatenate(parts), np.float32)
