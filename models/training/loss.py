"""Task-aligned assignment (Feng et al. 2021) and its loss: quality-aware scores and complete-IoU boxes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .data import IGNORE
from .network import decode


class Loss(NamedTuple):
    total: Tensor
    scores: float
    boxes: float
    positives: int


def complete_iou(a: Tensor, b: Tensor, complete: bool = True) -> Tensor:
    """(n, 4), (n, 4) xyxy -> (n,): IoU, less the distance and shape penalties of Zheng et al. 2020 where asked for."""
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    sides_a, sides_b = (a[:, 2:] - a[:, :2]).clamp(min=1e-3), (b[:, 2:] - b[:, :2]).clamp(min=1e-3)
    iou = shared / (sides_a.prod(1) + sides_b.prod(1) - shared + 1e-6)
    if not complete:
        return iou
    hull = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    apart = ((a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]) ** 2).sum(1) / 4
    shape = (4 / math.pi**2) * (
        torch.atan(sides_b[:, 0] / sides_b[:, 1]) - torch.atan(sides_a[:, 0] / sides_a[:, 1])
    ) ** 2
    with torch.no_grad():
        weight = shape / (1 - iou + shape + 1e-6)
    return iou - apart / (hull.square().sum(1) + 1e-6) - weight * shape


class Assignment(NamedTuple):
    """Indices of positives (picture, anchor) and of their faces, and their target scores."""

    picture: Tensor
    anchor: Tensor
    face: Tensor
    quality: Tensor


@torch.no_grad()
def assign(probabilities: Tensor, corners: Tensor, anchors: Tensor, faces: Tensor, labels: Tensor,
           top: int = 10, alpha: float = 0.5, beta: float = 6.0) -> Assignment:  # fmt: skip
    """Picks for each face the ``top`` anchors of the best score^alpha * IoU^beta among those whose centre lies in it.

    probabilities (n, a, c), corners (n, a, 4); faces (g, 5) picture and xyxy; labels (g,), no ``IGNORE`` among them.
    A face smaller than a cell reaches to the nearest centres.
    """
    picture, box = faces[:, 0].long(), faces[:, 1:]
    centre, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2
    away = (anchors[None, :, :2] - centre[:, None]).abs()
    reach = torch.maximum(half[:, None], 0.75 * anchors[None, :, 3:4])
    face, anchor = torch.nonzero((away < reach).all(-1), as_tuple=True)
    iou = complete_iou(corners[picture[face], anchor], box[face], complete=False).clamp(0, 1)
    metric = probabilities[picture[face], anchor, labels[face]].clamp(min=1e-6) ** alpha * iou**beta + 1e-12
    table = torch.zeros(len(faces), len(anchors))
    table[face, anchor] = metric
    best, where = table.topk(min(top, len(anchors)), 1)
    rows = torch.arange(len(faces))[:, None].expand_as(where)
    chosen = best > 1e-10
    face, anchor = rows[chosen], where[chosen]
    iou = complete_iou(corners[picture[face], anchor], box[face], complete=False).clamp(0, 1)
    metric = table[face, anchor]
    # an anchor that several faces want goes to the one it overlaps most
    key = picture[face] * len(anchors) + anchor
    order = torch.argsort(iou, descending=True, stable=True)
    order = order[torch.argsort(key[order], stable=True)]
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = key[order][1:] != key[order][:-1]
    kept = order[first]
    face, anchor, iou, metric = face[kept], anchor[kept], iou[kept], metric[kept]
    peak = torch.zeros(len(faces)).scatter_reduce(0, face, metric, "amax")
    peak_iou = torch.zeros(len(faces)).scatter_reduce(0, face, iou, "amax")
    quality = metric / peak[face].clamp(min=1e-12) * peak_iou[face]
    return Assignment(picture[face], anchor, face, quality)


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Sum over everything; weights (n, a) are the anchors'."""
    return (functional.binary_cross_entropy_with_logits(logits, targets, reduction="none") * weights[..., None]).sum()


def multibox_loss(offsets: Tensor, logits: Tensor, anchors: Tensor, faces: Tensor, labels: Tensor,
                  box_weight: float = 5.0) -> Loss:  # fmt: skip
    """offsets (n, a, 4), logits (n, a, c), anchors (a, 4); faces (g, 5) picture and xyxy, labels (g,)."""
    offsets, logits = offsets.float(), logits.float()
    corners = decode(offsets, anchors)
    ignored, faces, labels = faces[labels == IGNORE], faces[labels != IGNORE], labels[labels != IGNORE]
    weights = torch.ones(logits.shape[:2])
    if len(ignored):
        centre, corner = anchors[None, :, :2], ignored[:, None]
        inside = (centre > corner[..., 1:3]) & (centre < corner[..., 3:])
        row, anchor = torch.nonzero(inside.all(-1), as_tuple=True)
        weights[ignored[row, 0].long(), anchor] = 0
    targets = torch.zeros_like(logits)
    if not len(faces):
        scores = cross_entropy(logits, targets, weights) / len(logits)
        return Loss(scores, float(scores.detach()), 0.0, 0)
    found = assign(logits.detach().sigmoid(), corners.detach(), anchors, faces, labels)
    targets[found.picture, found.anchor, labels[found.face]] = found.quality
    weights[found.picture, found.anchor] = 1
    total = found.quality.sum().clamp(min=1.0)
    boxes = 1 - complete_iou(corners[found.picture, found.anchor], faces[found.face, 1:])
    scores, place = cross_entropy(logits, targets, weights) / total, (boxes * found.quality).sum() / total
    return Loss(scores + box_weight * place, float(scores.detach()), float(place.detach()), len(found.face))
