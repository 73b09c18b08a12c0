"""python -m models.training: take frames, train, evaluate, export, cost."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import cv2
import torch

from . import cost, data, export, frames, train
from .evaluate import calibrate, score, truths_in, truths_of, with_onnx, with_torch
from .network import Architecture

TOWARDS = {"train_kaggle": 0.5, "train_ilc": 0.5, "train_aditya": 1.0}
"""How far the boxes of each set are moved towards AIZOO's convention (README.md, Boxes)."""


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    arguments = parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    # OpenCV's thread pool does not survive the fork of the loader's workers
    cv2.setNumThreads(0)
    arguments.run(arguments)
    return 0


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python -m models.training", description=__doc__)
    root.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1)")
    commands = root.add_subparsers(required=True)

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    sub = command("train", run_train, "train a network; goes on where an interrupted run stopped")
    sub.add_argument("--data", type=Path, required=True, help="folder of the COCO sets")
    sub.add_argument("--out", type=Path, required=True, help="folder for checkpoints")
    sub.add_argument("--cache", type=Path, help="folder for decoded pictures (default OUT/cache)")
    sub.add_argument("--teacher", type=Path, help="model360_state.npz: what only it sees is ignored")
    sub.add_argument("--sets", nargs="+", default=list(data.SETS))
    sub.add_argument("--apart-from", type=Path, nargs="*", default=[], help="COCO sets to hold no near-duplicate of")
    sub.add_argument("--share", type=float, default=1.0, help="of every set's pictures, for a learning curve")
    sub.add_argument("--start", type=Path, help="checkpoint to begin with")
    plan = train.Plan()
    sub.add_argument("--steps", type=int, default=plan.steps)
    sub.add_argument("--batch", type=int, default=plan.batch)
    sub.add_argument("--rate", type=float, default=plan.rate)
    sub.add_argument("--seed", type=int, default=plan.seed)
    sub.add_argument("--calm", type=float, default=plan.calm, help="share of the run, at its end, without mosaics")
    sub.add_argument("--workers", type=int, default=plan.workers)
    sub.add_argument("--width", type=int, default=Architecture().width)
    sub.add_argument("--height", type=int, default=Architecture().height)

    sub = command("frames", run_frames, "add frames of videos, with the teacher's boxes, to a COCO set")
    sub.add_argument("videos", type=Path, nargs="+")
    sub.add_argument("--label", choices=["mask", "no_mask"], help="of every face in them; without it no face counts")
    sub.add_argument("--every", type=int, default=10, help="take each so many-th frame (default 10)")
    sub.add_argument("--teacher", type=Path, required=True, help="model360_state.npz")
    sub.add_argument("--out", type=Path, required=True, help="the set's folder, as DATA/train_video")

    sub = command("export", run_export, "write a checkpoint in every framework's format, its threshold at 0.5")
    sub.add_argument("model", type=Path, help="*.pt")
    sub.add_argument("folder", type=Path, help="a model's folder: its model.yaml is told the files' sha256")
    sub.add_argument("--cache", type=Path, help="decoded pictures of the training: its held-out ones set the scores")

    sub = command("cost", run_cost, "CPU-ms of models by their cards, decode and suppression included")
    sub.add_argument("folders", type=Path, nargs="+", help="models' folders; ratios are to the first one")
    sub.add_argument("--pictures", type=Path, required=True, help="folder of pictures")

    sub = command("evaluate", run_evaluate, "average precision of a checkpoint or an exported network")
    sub.add_argument("model", type=Path, help="*.pt, or *.onnx of the usual architecture")
    sub.add_argument("folders", type=Path, nargs="+", help="COCO sets")
    return root


def run_train(arguments: argparse.Namespace) -> None:
    cache = arguments.cache or arguments.out / "cache"
    if not (cache / "index.json").exists():
        data.prepare(arguments.data, cache, tuple(arguments.sets), arguments.teacher)
    samples = [s for s in data.load(cache) if s.set in arguments.sets]
    everything = len(samples)
    samples = data.apart(samples, arguments.apart_from)
    logging.info("%d pictures, %d left out as near-duplicates", len(samples), everything - len(samples))
    data.refine(samples, TOWARDS)
    kept, held = data.split(samples)
    kept = data.share(kept, arguments.share)
    plan = train.Plan(steps=arguments.steps, batch=arguments.batch, rate=arguments.rate, seed=arguments.seed,
                      calm=arguments.calm, workers=arguments.workers)  # fmt: skip
    architecture = Architecture(width=arguments.width, height=arguments.height)
    print(train.train(kept, held, architecture, plan, arguments.out, arguments.start))


def run_frames(arguments: argparse.Namespace) -> None:
    label = None if arguments.label is None else int(arguments.label == "no_mask")
    faces = frames.write_set(arguments.videos, label, arguments.every, arguments.teacher, arguments.out)
    print(f"{arguments.out}: {faces} faces in all")


def run_evaluate(arguments: argparse.Namespace) -> None:
    if arguments.model.suffix == ".onnx":
        infer, architecture = with_onnx(arguments.model), Architecture()
    else:
        network = train.load_network(arguments.model)
        infer, architecture = with_torch(network), network.architecture
    for folder in arguments.folders:
        figures = score(infer, architecture, *truths_of(folder))
        print(folder.name, " ".join(f"{name} {value:.4f}" for name, value in figures.items()))


def run_export(arguments: argparse.Namespace) -> None:
    from . import formats

    network, folder = train.load_network(arguments.model), arguments.folder
    if arguments.cache:
        samples = data.load(arguments.cache)
        data.refine(samples, TOWARDS)
        print("thresholds were", calibrate(network, *truths_in(data.split(samples)[1])))
    made = folder / f"{folder.resolve().name}.onnx"
    export.write_onnx(network, made)
    files = formats.write_formats(made)
    formats.note_in_card(folder / "model.yaml", files)
    print(*(path.name for path in files.values()), sum(path.stat().st_size for path in files.values()), "bytes")


def run_cost(arguments: argparse.Namespace) -> None:
    pictures = [data.read_rgb(path) for path in sorted(arguments.pictures.iterdir())[:40]]
    candidates = {folder.name: cost.Candidate.of(folder) for folder in arguments.folders}
    for name, (median, ratio) in cost.compare(candidates, pictures).items():
        print(f"{name}: {median:.2f} CPU-ms, ratio {ratio:.3f}")


if __name__ == "__main__":
    sys.exit(main())
