"""``detect``: faces in pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.commands import options as shared
from pipeline.config import DetectorSpec
from pipeline.errors import EXIT_DONE, ConfigError, PipelineError, RuntimeFailure
from pipeline.inference.picture import read_rgb
from pipeline.types import Detections

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

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
    for path in _pictures(options.paths):
        try:
            image = read_rgb(path)
            detections = detector.detect_rgb(image)
            found.append(described(path, image, detections, detector.labels))
            if options.annotated:
                write_annotated(
                    options.annotated / f"{path.stem}.annotated{path.suffix}", image, detections, detector.labels
                )
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


def _pictures(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        else:
            yield path


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

    bgr = cv2.cvtColor(annotate_rgb(image, detections, labels), cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(path.suffix if path.suffix.lower() in SUFFIXES else ".png", bgr)
    try:
        assert done
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
