"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline import plugins
from pipeline.errors import ConfigError
from pipeline.resources import MODELS_ENV
from pipeline.specs import DEFAULT_MODEL


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


def count(text: str) -> int:
    """An argument from 1 on."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return value


def add_login(parser: Any) -> None:
    """How a camera's password is given so that it stands neither in the process list nor in the shell's history."""
    parser.add_argument("--login-env", metavar="NAME", help="the environment variable that holds user:password")
    parser.add_argument("--login-file", type=Path, metavar="FILE", help="the file that holds user:password")


def source_values(text: str, options: argparse.Namespace, *, realtime: bool = False) -> dict[str, Any]:
    """The ``sources:`` entry that an argument stands for: a file, ``lavfi:GRAPH``, a camera's number, an address."""
    login = {key: str(getattr(options, key)) for key in ("login_env", "login_file") if getattr(options, key)}
    scheme, colon, rest = text.partition(":")
    if colon and rest.startswith("//") and scheme != "file":
        return {"kind": "rtsp", "url": text, **login}
    if login:
        raise ConfigError(f"--{next(iter(login)).replace('_', '-')} goes with an address, such as rtsp://camera/one")
    if colon and scheme == "lavfi":
        return {"kind": "lavfi", "graph": rest}
    if text.isdigit() or text.startswith("/dev/video"):
        return {"kind": "camera", "device": text}
    return {"kind": "file", "path": text, "realtime": realtime}
