"""Training: seeded, resumable, with a moving average of the weights and mixed precision where the machine has it."""

from __future__ import annotations

import copy
import logging
import math
import os
import signal
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .augment import Augmenter, Mix, Stream
from .data import Sample
from .evaluate import score, truths_in, with_torch
from .loss import multibox_loss
from .network import Architecture, FaceMaskNet, anchor_points

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train. A resumed run may have another number of steps; its learning rate follows the new course."""

    steps: int = 12000
    batch: int = 8
    rate: float = 1.5e-3
    weight_decay: float = 0.02
    warmup: int = 300
    ema: float = 0.9995
    seed: int = 7
    calm: float = 0.25
    workers: int = 1
    bfloat16: bool = True
    checkpoint_s: float = 180.0
    evaluate_s: float = 600.0

    def rate_at(self, step: int) -> float:
        """A linear rise, then half a cosine down to a fiftieth."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.rate * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)


class Average:
    """An exponential moving average of weights and batch statistics, quick to follow at first."""

    def __init__(self, network: FaceMaskNet, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, network: FaceMaskNet) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for kept, new in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new.float(), 1 - decay)
            else:
                kept.copy_(new)


def groups(network: FaceMaskNet, decay: float) -> list[dict[str, Any]]:
    """Weight decay is for kernels alone."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def save(path: Path, **values: Any) -> None:
    """Whole or not at all: a run that is killed while it writes keeps its previous checkpoint."""
    part = path.with_suffix(".part")
    torch.save(values, part)
    part.replace(path)


def load_network(path: Path) -> FaceMaskNet:
    """The averaged weights of a checkpoint."""
    kept = torch.load(path, map_location="cpu", weights_only=True)
    network = FaceMaskNet(Architecture.from_dict(kept["architecture"]))
    network.load_state_dict(kept["average"])
    return network.eval()


def train(samples: list[Sample], held: list[Sample], architecture: Architecture, plan: Plan, out: Path,
          start: Path | None = None) -> Path:  # fmt: skip
    """Trains to ``plan.steps``, from ``out/last.pt`` on where that exists; returns the checkpoint's path.

    start: a checkpoint whose averaged weights a fresh run begins with.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "train.pid").write_text(f"{os.getpid()}\n")
    torch.manual_seed(plan.seed)
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = FaceMaskNet(architecture) if start is None else load_network(start).requires_grad_(True)
    network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = Average(network, plan.ema)
    optimizer = torch.optim.AdamW(groups(network, plan.weight_decay), lr=plan.rate, betas=(0.9, 0.99))
    last, step = out / "last.pt", 0
    if last.exists():
        kept = torch.load(last, map_location=device, weights_only=True)
        network.load_state_dict(kept["network"])
        average.network.load_state_dict(kept["average"])
        average.updates = step = kept["step"]
        optimizer.load_state_dict(kept["optimizer"])
        log.info("going on from step %d", step)

    def keep() -> None:
        save(last, architecture=architecture.to_dict(), plan=asdict(plan), step=step, network=network.state_dict(),
             average=average.network.state_dict(), optimizer=optimizer.state_dict())  # fmt: skip

    stop = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    anchors = anchor_points(architecture, device)
    sums, seen, since = torch.zeros(4), 0, time.monotonic()
    next_save, next_look = since + plan.checkpoint_s, since + plan.evaluate_s
    for pixels, faces, labels in batches(samples, architecture, plan, step):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate_at(step)
        loss = advance(network, optimizer, plan, anchors, pixels.to(device), faces.to(device), labels.to(device))
        average.update(network)
        step += 1
        sums += torch.tensor([float(loss.total.detach()), loss.scores, loss.boxes, loss.positives])
        seen += 1
        now = time.monotonic()
        if seen == 100 or step == plan.steps:
            mean = (sums / seen).tolist()
            log.info("step %d loss %.3f scores %.3f boxes %.3f positives %.0f, %.1f pictures/s",
                     step, *mean, seen * plan.batch / (now - since))  # fmt: skip
            sums, seen, since = torch.zeros(4), 0, now
        if now > next_save or step == plan.steps or stop.is_set():
            keep()
            next_save = now + plan.checkpoint_s
        if stop.is_set():
            log.info("stopped after step %d; the same command goes on from here", step)
            break
        if held and (now > next_look or step == plan.steps):
            log.info("step %d held out %s", step, look(average.network, architecture, held))
            next_look = time.monotonic() + plan.evaluate_s
    signal.signal(signal.SIGTERM, previous)
    return last


def batches(samples: list[Sample], architecture: Architecture, plan: Plan, first: int) -> Any:
    """The batches from step ``first`` on; the last share ``plan.calm`` of the run is without mosaics."""
    turn = plan.steps - int(plan.steps * plan.calm)
    for begin, end, mix in ((first, turn, Mix()), (max(first, turn), plan.steps, Mix(mosaic=0.1, exact=0.5))):
        if begin >= end:
            continue
        augmenter = Augmenter(samples, architecture.width, architecture.height, mix)
        stream = Stream(augmenter, plan.seed, plan.batch, begin, end)
        yield from DataLoader(stream, batch_size=None, num_workers=plan.workers,
                              prefetch_factor=4 if plan.workers else None)  # fmt: skip


def advance(network: FaceMaskNet, optimizer: torch.optim.Optimizer, plan: Plan, anchors: Tensor,
            pixels: Tensor, faces: Tensor, labels: Tensor) -> Any:  # fmt: skip
    """One step."""
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=plan.bfloat16):
        offsets, logits = network(pixels.float().div_(255))
    loss = multibox_loss(offsets, logits, anchors, faces, labels)
    optimizer.zero_grad(set_to_none=True)
    loss.total.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
    optimizer.step()
    return loss


def look(network: FaceMaskNet, architecture: Architecture, held: list[Sample]) -> str:
    """Average precision by set, in one line."""
    parts = []
    for name in sorted({s.set for s in held}):
        truths, pictures = truths_in([s for s in held if s.set == name])
        figures = score(with_torch(copy.deepcopy(network).cpu()), architecture, truths, pictures)
        parts.append(f"{name.removeprefix('train_')} {figures['mAP']:.3f} (>=5% {figures['mAP >=5%']:.3f})")
    return ", ".join(parts)
