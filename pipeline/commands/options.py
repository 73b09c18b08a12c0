"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline import plugins
from pipeline.config import DEFAULT_MODEL
from pipeline.resources import MODELS_ENV


def add_detector(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("detector")
    group.add_argument("--model", metavar="NAME|DIR", help=f"which model looks (default: {DEFAULT_MODEL})")
    group.add_argument("--backend", metavar="KIND", help=f"in which runtime: {', '.join(plugins.kinds('backend'))}")
    group.add_argument("--confidence-min", type=share, metavar="0..1", help="what it is sure enough of (default: 0.5)")
    group.add_argument("--iou-max", type=share, metavar="0..1", help="overlap above which two boxes are one face")
    group.add_argument(
        "--nms",
        type=lambda text: text.replace("-", "_"),
        choices=["per_class", "agnostic"],
        help="suppress overlaps per class, or over classes",
    )
    add_models_dir(group)


def add_models_dir(parser: Any) -> None:
    parser.add_argument(
        "--models-dir",
        type=Path,
        metavar="DIR",
        help=f"look for weights here, before the user's cache (default: ${MODELS_ENV})",
    )


def detector_values(options: argparse.Namespace) -> dict[str, Any]:
    """The options above in the form of a ``detectors:`` entry; what was not given is left out."""
    values = {key: getattr(options, key) for key in ("model", "confidence_min", "iou_max", "nms")}
    if options.backend:
        values["backend"] = {"kind": options.backend}
    return {key: value for key, value in values.items() if value is not None}


def share(text: str) -> float:
    """An argument from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value
