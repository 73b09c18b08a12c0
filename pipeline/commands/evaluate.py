"""``evaluate``: how good a model is on labelled pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pipeline.commands import options as shared
from pipeline.errors import EXIT_DONE, ConfigError, StartupError
from pipeline.specs import DetectorSpec

I420_DIFFERENCE_MAX = 0.01
"""Of mAP: as video the same pictures lose half their colour resolution, no more."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure a model on labelled pictures",
        description="Runs the detector over labelled pictures and tells its average precision and what follows from "
        "it. Labels may be COCO JSON, PASCAL VOC or YOLO; faces marked as ignored or difficult count neither way.",
    )
    parser.add_argument("--dataset", type=Path, required=True, metavar="DIR", help="the pictures and their labels")
    parser.add_argument("--limit", type=shared.count, metavar="N", help="only the first N pictures")
    parser.add_argument("--resize", choices=["area", "bilinear"], default="area", help="to the model's input (area)")
    parser.add_argument("--through", choices=["rgb", "i420"], default="rgb", help="i420: as frames of a video come")
    parser.add_argument("--scores-from", type=shared.share, metavar="0..1", help="lowest of the curves (0.05)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write precision over recall as .png, .svg or .pdf")
    shared.add_detector(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    from pipeline.evaluation import plot
    from pipeline.evaluation.looking import SCORES_FROM, Through, look
    from pipeline.inference.detector import build_detector
    from pipeline.plan import processors

    spec = DetectorSpec.model_validate(shared.detector_values(options))
    if options.plot:
        _check_plot(options.plot, plot.SUFFIXES)
    scores_from = min(SCORES_FROM, spec.confidence_min) if options.scores_from is None else options.scores_from
    if scores_from > spec.confidence_min:
        raise ConfigError(f"--scores-from {scores_from:g} is above the threshold in use, {spec.confidence_min:g}")
    detector = build_detector(
        spec.model,
        spec.backend["kind"],
        confidence_min=scores_from,
        iou_max=spec.iou_max,
        nms=spec.nms,
        models_dir=options.models_dir,
        cross_class_iou_max=1.0,  # the other class's weaker boxes belong to its curve
        resize=options.resize,
    )
    try:
        samples = _samples(options.dataset, detector.labels, options.limit)
        # always as pictures: what video costs is told beside it
        through: tuple[Through, ...] = ("rgb",) if options.through == "rgb" else ("rgb", "i420")
        with progress(len(samples)) as done:
            ways = look(detector, samples, through, spec.in_flight or processors(), done)
    finally:
        detector.close()
    found = {
        "model": detector.card.name,
        "backend": spec.backend["kind"],
        "dataset": str(options.dataset),
        "nms": spec.nms,
        "iou_max": spec.iou_max,
        "scores_from": scores_from,
        "resize": options.resize,
        "through": options.through,
        **_figures(
            ways, detector.labels, spec.confidence_min, options.plot, f"{detector.card.name}, {options.dataset.name}"
        ),
    }
    if options.json:
        print(json.dumps(found))
    else:
        show(found, Console(file=sys.stdout))
    return EXIT_DONE


def _samples(dataset: Path, labels: tuple[str, ...], limit: int | None) -> list[Any]:
    from pipeline.evaluation.dataset import read_dataset

    samples = read_dataset(dataset, labels)[:limit]
    if not any(len(sample.truth.class_id) for sample in samples):
        raise ConfigError(f"{dataset}: there is no labelled face in its {len(samples)} pictures")
    return samples


def _figures(
    ways: list[list[Any]], labels: tuple[str, ...], confidence_min: float, plot_path: Path | None, title: str
) -> dict[str, Any]:
    """Of the last way; notes: what could not be told, and why."""
    from pipeline.evaluation import plot
    from pipeline.evaluation.coco_ap import map50_95
    from pipeline.evaluation.figures import average_precisions, figures, mean

    pictures = ways[-1]
    found = figures(pictures, labels, confidence_min)
    notes: list[str] = []
    found["map50_95"], found["plot"], found["through_rgb"] = None, None, None
    try:
        found["map50_95"] = map50_95(pictures, len(labels))
    except StartupError as error:
        notes.append(f"no map50_95: {error}")
    if plot_path:
        try:
            plot.write_plot(plot_path, pictures, labels, title)
            found["plot"] = str(plot_path)
        except StartupError as error:
            notes.append(f"no plot: {error}")
    if len(ways) > 1:
        as_pictures = mean(average_precisions(ways[0], labels).values())
        difference = None if as_pictures is None else found["map50"] - as_pictures
        found["through_rgb"] = {"map50": as_pictures, "difference": difference}
        if difference is not None and abs(difference) > I420_DIFFERENCE_MAX:
            notes.append(f"as video, mAP differs by {difference:+.4f}; {I420_DIFFERENCE_MAX:g} was expected at most")
    return {**found, "notes": notes}


@contextmanager
def progress(total: int, what: str = "pictures") -> Iterator[Callable[[], None]]:
    """A bar on standard error where that is a terminal; the callable moves it on by one."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def show(found: dict[str, Any], console: Console) -> None:
    """The figures for people."""
    labels = list(found["ap50"])
    faces = ", ".join(f"{found['faces'][label]} {label}" for label in labels)
    console.print(
        f"{found['model']} by {found['backend']} on {found['images']} pictures of {found['dataset']}: {faces}, "
        f"{found['faces']['ignored']} ignored; {found['resize']} resize, suppression {found['nms']}, "
        f"through {found['through']}",
        soft_wrap=True,
    )
    table = Table("average precision", "mean", *labels)
    for title, total, by_class in (
        ("IoU 0.5", "map50", "ap50"),
        ("IoU 0.5, faces of 5 % and more", "map50_min5", "ap50_min5"),
        ("IoU 0.4", "map40", "ap40"),
    ):
        table.add_row(title, _text(found[total]), *(_text(found[by_class][label]) for label in labels))
    for size in found["by_size"]:
        upper = f" to {size['side_to']:.0%}" if size["side_to"] else " on"
        title = f"IoU 0.5, faces from {size['side_from']:.0%}{upper} ({sum(size['faces'].values())})"
        table.add_row(title, _text(size["map50"]), *(_text(size["ap50"][label]) for label in labels))
    table.add_row("IoU 0.50 to 0.95 (COCO)", _text(found["map50_95"]), *("" for _ in labels))
    table.add_row("face of any class, IoU 0.5", _text(found["face_ap50"]), *("" for _ in labels))
    console.print(table)
    at, best = found["at_threshold"], found["best_threshold"]
    table = Table(f"at {at['confidence_min']:g}", "precision", "recall", "found as", "best threshold", "F1 there")
    for label in labels:
        said = ", ".join(f"{count} {name}" for name, count in found["confusion"][label].items())
        of_class = best[label] or {"confidence_min": None, "f1": None}
        table.add_row(
            label, _text(at[label]["precision"]), _text(at[label]["recall"]), said,
            _text(of_class["confidence_min"]), _text(of_class["f1"]),
        )  # fmt: skip
    console.print(table)
    if found["through_rgb"]:
        console.print(
            f"as pictures mAP is {_text(found['through_rgb']['map50'])}: as video it differs by "
            f"{found['through_rgb']['difference']:+.4f}"
        )
    for note in found["notes"]:
        console.print(f"note: {note}", soft_wrap=True)


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _check_plot(path: Path, suffixes: tuple[str, ...]) -> None:
    if path.suffix.lower() not in suffixes:
        raise ConfigError(f"--plot {path}: it must end in {', '.join(suffixes)}")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--plot {path}: its folder is not there")
