"""``detect``: faces in pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.commands import options as shared
from pipeline.errors import EXIT_DONE, ConfigError, PipelineError, RuntimeFailure
from pipeline.inference.picture import read_rgb
from pipeline.specs import DetectorSpec
from pipeline.types import PICTURE_SUFFIXES, Detections

_NO_COLOURS = (".pgm",)
"""Suffixes of pictures that cannot hold the colour of a box: those are written as PNG."""

Rgb = NDArray[np.uint8]


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "detect",
        help="find faces in pictures",
        description="Finds faces in pictures and says who wears a mask. A picture that cannot be read is named on "
        "standard error; the others are still looked at, and the exit code is then 2.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PICTURE", help="pictures, or folders of pictures")
    parser.add_argument("--annotated", type=Path, metavar="DIR", help="write the pictures with boxes into this folder")
    shared.add_detector(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    from pipeline.inference.detector import build_detector

    spec = DetectorSpec.model_validate(shared.detector_values(options))
    detector = build_detector(
        spec.model,
        spec.backend["kind"],
        confidence_min=spec.confidence_min,
        iou_max=spec.iou_max,
        nms=spec.nms,
        models_dir=options.models_dir,
    )
    if options.annotated:
        _make_folder(options.annotated)
    code, found = EXIT_DONE, []
    written: set[Path] = set()
    for path, problem in _pictures(options.paths):
        try:
            if problem:
                raise problem
            image = read_rgb(path)
            detections = detector.detect_rgb(image)
            found.append(described(path, image, detections, detector.labels))
            if options.annotated:
                target = _free_name(options.annotated, path, written)
                write_annotated(target, image, detections, detector.labels)
        except PipelineError as error:
            print(f"error: {error}", file=sys.stderr)
            code = code or error.exit_code
            continue
        if not options.json:
            print(_line(found[-1]))
    if options.json:
        print(json.dumps(found))
    detector.close()
    return code


def _pictures(paths: list[Path]) -> Iterator[tuple[Path, ConfigError | None]]:
    """Every picture that the arguments stand for; an argument that cannot be looked up comes with what is wrong."""
    for path in paths:
        try:
            found = _pictures_in(path) if path.is_dir() else [path]
        except OSError as error:
            yield path, ConfigError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}")
        else:
            yield from ((picture, None) for picture in found)


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)


def _free_name(folder: Path, picture: Path, taken: set[Path]) -> Path:
    """Where the annotated picture goes; pictures of one name from several folders get numbers. Adds to ``taken``."""
    own = picture.suffix.lower()
    suffix = picture.suffix if own in PICTURE_SUFFIXES and own not in _NO_COLOURS else ".png"
    names = (f"{picture.stem}{number}.annotated{suffix}" for number in chain([""], map("-{}".format, count(2))))
    target = next(folder / name for name in names if folder / name not in taken)
    taken.add(target)
    return target


def described(path: Path, image: Rgb, detections: Detections, labels: tuple[str, ...]) -> dict[str, Any]:
    """The documented JSON form of one picture."""
    faces = [
        {"label": labels[class_id], "confidence": round(confidence, 4), "xyxy": [round(v, 1) for v in xyxy]}
        for xyxy, confidence, class_id in zip(
            detections.xyxy.tolist(), detections.confidence.tolist(), detections.class_id.tolist(), strict=True
        )
    ]
    return {"path": str(path), "width": image.shape[1], "height": image.shape[0], "faces": faces}


def write_annotated(path: Path, image: Rgb, detections: Detections, labels: tuple[str, ...]) -> None:
    """Writes the picture with a box and a label a face; raises ``RuntimeFailure`` where that is not possible."""
    import cv2

    from pipeline.sinks.still import annotate_rgb

    height, width = image.shape[:2]
    cv2.setLogLevel(0)  # what OpenCV would print is said below
    try:
        bgr = cv2.cvtColor(annotate_rgb(image, detections, labels), cv2.COLOR_RGB2BGR)
        done, encoded = cv2.imencode(path.suffix, bgr)
    except (ValueError, cv2.error) as error:  # too large to be drawn on
        raise RuntimeFailure(f"{path}: cannot be made: {error}") from error
    if not done:
        raise RuntimeFailure(f"{path}: {path.suffix} pictures cannot hold {width}x{height} pixels")
    try:
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise RuntimeFailure(f"{path}: cannot be written: {error.strerror}") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--annotated {folder}: cannot be made: {error.strerror}") from error


def _line(picture: dict[str, Any]) -> str:
    faces = [f"{f['label']} {f['confidence']:.2f} at {[round(v) for v in f['xyxy']]}" for f in picture["faces"]]
    return f"{picture['path']}: {'; '.join(faces) or 'no face'}"
