"""The network: a depthwise-separable backbone, a light feature pyramid and one anchor a cell at strides 8, 16 and 32.

Only operators that every runtime has: convolutions, ReLU, addition, nearest-neighbour doubling, concatenation, sigmoid.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

VARIANCES = (0.1, 0.1, 0.2, 0.2)
"""Centre x, centre y, log width, log height: what the exported offsets are divided by (Liu et al. 2016)."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Everything that fixes the network's shape. Sizes are pixels of the input; widths are channels.

    widths, depths: of the stages at strides 4, 8, 16, 32, after a stem of stride 2.
    anchors: sides of one square anchor a cell, a list a feature map.
    """

    width: int = 448
    height: int = 384
    stem: int = 16
    widths: tuple[int, ...] = (32, 64, 128, 192)
    depths: tuple[int, ...] = (1, 2, 3, 2)
    pyramid: int = 64
    bottom_up: bool = True
    head_depth: int = 1
    strides: tuple[int, ...] = (8, 16, 32)
    anchors: tuple[float, ...] = (24.0, 64.0, 160.0)
    classes: int = 2

    def __post_init__(self) -> None:
        if self.width % 32 or self.height % 32:
            raise ValueError(f"the input's sides must be multiples of 32, not {self.width}x{self.height}")
        if len(self.strides) != len(self.anchors):
            raise ValueError("one anchor side is needed for each stride")

    @property
    def maps(self) -> list[tuple[int, int]]:
        """(columns, rows) of each feature map."""
        return [(self.width // s, self.height // s) for s in self.strides]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        settled: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**settled)


def anchor_points(architecture: Architecture, device: torch.device | str = "cpu") -> Tensor:
    """(a, 4) centre x, centre y, side, stride in input pixels; order (map, row, column)."""
    parts = []
    for (columns, rows), stride, side in zip(
        architecture.maps, architecture.strides, architecture.anchors, strict=True
    ):
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        centre = torch.stack([x, y], -1).reshape(-1, 2) * stride
        rest = torch.tensor([side, float(stride)]).expand_as(centre)
        parts.append(torch.cat([centre, rest], 1))
    return torch.cat(parts).to(device)


class ConvBnRelu(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, relu: bool = True):
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs, momentum=0.03, eps=1e-3),
        ]
        super().__init__(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class Depthwise(nn.Conv2d):
    """A depthwise 3x3 convolution.

    With stride 2 it leaves mixed precision: on CPUs its bfloat16 gradients take five times as long as float32 ones.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, channels, 3, stride, 1, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.stride != (1, 1) and x.dtype == torch.bfloat16:
            with torch.autocast(x.device.type, enabled=False):
                return super().forward(x.float()).bfloat16()
        return super().forward(x)


class Separable(nn.Module):
    """Depthwise 3x3 and pointwise 1x1, nothing between them (as in Xception: it trains a third faster).

    Adds its input where the shapes fit.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.adds = stride == 1 and inputs == outputs
        self.depthwise = Depthwise(inputs, stride)
        self.pointwise = ConvBnRelu(inputs, outputs, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pointwise(self.depthwise(x))
        return functional.relu(y + x if self.adds else y)


class Head(nn.Module):
    """Separable layers, then one 1x1 convolution to 4 offsets and the classes' logits, for one feature map."""

    def __init__(self, channels: int, depth: int, classes: int, prior: float = 0.01) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[Separable(channels, channels) for _ in range(depth)])
        self.boxes = nn.Conv2d(channels, 4, 1)
        self.scores = nn.Conv2d(channels, classes, 1)
        nn.init.normal_(self.boxes.weight, std=0.01)
        nn.init.normal_(self.scores.weight, std=0.01)
        assert self.scores.bias is not None
        assert self.boxes.bias is not None
        nn.init.zeros_(self.boxes.bias)
        nn.init.constant_(self.scores.bias, -torch.log(torch.tensor((1 - prior) / prior)).item())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layers(x)
        boxes, scores = self.boxes(y), self.scores(y)
        n = x.shape[0]
        return (
            boxes.permute(0, 2, 3, 1).reshape(n, -1, 4),
            scores.permute(0, 2, 3, 1).reshape(n, -1, scores.shape[1]),
        )


class FaceMaskNet(nn.Module):
    """(n, 3, height, width) RGB in 0..1 -> offsets (n, a, 4) in units of the anchor's side, logits (n, a, classes)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        channels = architecture.pyramid
        self.stem = ConvBnRelu(3, architecture.stem, 3, 2)
        stages, inputs = [], architecture.stem
        for outputs, depth in zip(architecture.widths, architecture.depths, strict=True):
            blocks = [Separable(inputs, outputs, 2)] + [Separable(outputs, outputs) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        self.laterals = nn.ModuleList([ConvBnRelu(w, channels, 1) for w in architecture.widths[1:]])
        self.down = nn.ModuleList([Separable(channels, channels) for _ in range(2)])
        self.up = nn.ModuleList([Separable(channels, channels, 2) for _ in range(2)] if architecture.bottom_up else [])
        self.enlarge = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.heads = nn.ModuleList(
            [Head(channels, architecture.head_depth, architecture.classes) for _ in architecture.strides]
        )

    def features(self, x: Tensor) -> list[Tensor]:
        x = self.stages[0](self.stem(x))
        levels = []
        for stage, lateral in zip(list(self.stages)[1:], self.laterals, strict=True):
            x = stage(x)
            levels.append(lateral(x))
        c8, c16, c32 = levels
        p16 = self.down[0](c16 + self.enlarge(c32))
        p8 = self.down[1](c8 + self.enlarge(p16))
        if not self.up:
            return [p8, p16, c32]
        p16 = p16 + self.up[0](p8)
        return [p8, p16, c32 + self.up[1](p16)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        outputs = [head(level) for head, level in zip(self.heads, self.features(x), strict=True)]
        return torch.cat([boxes for boxes, _ in outputs], 1), torch.cat([scores for _, scores in outputs], 1)


def decode(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Offsets (..., a, 4) in anchor sides to (..., a, 4) xyxy in input pixels."""
    centre = anchors[:, :2] + offsets[..., :2] * anchors[:, 2:3]
    half = anchors[:, 2:3] * offsets[..., 2:].clamp(-6, 4).exp() / 2
    return torch.cat([centre - half, centre + half], -1)


class Deployed(nn.Module):
    """The network as runtimes see it: SSD offsets divided by ``VARIANCES`` and scores after the sigmoid."""

    def __init__(self, network: FaceMaskNet) -> None:
        super().__init__()
        self.network = network
        self.scale: Tensor
        self.register_buffer("scale", 1.0 / torch.tensor(VARIANCES))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        offsets, logits = self.network(x)
        return offsets * self.scale, logits.sigmoid()
