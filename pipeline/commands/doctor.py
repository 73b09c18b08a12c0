"""``doctor``: what this machine has and lacks."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline import resources
from pipeline.commands import options as shared
from pipeline.config import DEFAULT_MODEL
from pipeline.errors import EXIT_DONE, EXIT_MACHINE, PipelineError
from pipeline.wiring import processors

State = Literal["ok", "missing", "optional"]

FRAMEWORKS = {
    "onnxruntime": "onnxruntime",
    "opencv_dnn": "opencv-python",
    "torch": "torch",
    "tensorflow": "tensorflow-cpu",
    "tflite": "ai-edge-litert",
    "keras": "keras",
    "mxnet": "mxnet",
    "openvino": "openvino",
}
SHARED_MEMORY_MIN = 128 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. state: ``missing`` things are needed, ``optional`` ones are not."""

    name: str
    state: State
    text: str


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="what this machine has and lacks",
        description="Looks at processors, shared memory, libraries, runtimes and weights. Exit code 3: something that "
        "is needed is missing.",
    )
    shared.add_models_dir(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    findings = examine(options.models_dir)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{finding.state:<9}{finding.name:<16}{finding.text}")
    return EXIT_MACHINE if any(finding.state == "missing" for finding in findings) else EXIT_DONE


def examine(models_dir: Path | None = None) -> list[Finding]:
    """Everything that is looked at, in the order in which people want to know it."""
    looks: list[Callable[[], Finding]] = [_system, _shared_memory, _encoder, _sockets]
    findings = [look() for look in looks]
    findings += [_framework(kind, package) for kind, package in FRAMEWORKS.items()]
    findings += [_weights(name, models_dir) for name in resources.model_names(models_dir)]
    return findings


def _system() -> Finding:
    text = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {processors()} processors"
    return Finding("machine", "ok", text)


def _shared_memory() -> Finding:
    from pipeline.transport.run_directory import base_directory

    try:
        base = base_directory()
    except PipelineError as error:
        return Finding("shared memory", "missing", str(error))
    free = shutil.disk_usage(base).free
    text = f"{free / 1e6:.0f} MB free at {base}"
    if free < SHARED_MEMORY_MIN:
        return Finding("shared memory", "missing", f"{text}; a 1080p source needs about 70: enlarge /dev/shm")
    return Finding("shared memory", "ok", text)


def _encoder() -> Finding:
    import av

    found = "libx264" in av.codecs_available
    return Finding(
        "video", "ok" if found else "missing", f"PyAV {av.__version__}, x264 {'found' if found else 'missing'}"
    )


def _sockets() -> Finding:
    import zmq

    text = f"ZeroMQ {zmq.zmq_version()}, keys (CURVE) {'possible' if zmq.has('curve') else 'not possible'}"
    return Finding("messages", "ok", text)


def _framework(kind: str, package: str) -> Finding:
    from pipeline import plugins

    default = kind == "onnxruntime"
    if kind == "tensorflow" and not list(importlib.metadata.distributions(name=package)):
        package = "tensorflow"  # the same module with a GPU's libraries
    try:
        text = f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return Finding(f"backend {kind}", "missing" if default else "optional", f"{package} is not installed")
    if kind not in plugins.kinds("backend"):
        return Finding(f"backend {kind}", "optional", f"{text}; this version has no such backend yet")
    return Finding(f"backend {kind}", "ok", text)


def _weights(name: str, models_dir: Path | None) -> Finding:
    from pipeline.inference.model_card import read_card
    from pipeline.inference.weights import find

    needed = name == DEFAULT_MODEL
    path = resources.card_path(name, models_dir)
    card = read_card(path)
    folders = resources.weight_dirs(path, card.name, models_dir)
    here = [file for file in card.file_names() if find(file, folders)]
    text = f"{len(here)} of {len(card.file_names())} weight files"
    if here:
        return Finding(f"model {name}", "ok", text)
    how = f"{text}; get them with: run_pipeline.py models fetch {name}"
    return Finding(f"model {name}", "missing" if needed else "optional", how)
