"""``doctor``: what this machine has and lacks; with a source, how far one gets with it."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline import config, resources
from pipeline.commands import options as shared
from pipeline.errors import EXIT_DONE, EXIT_FAILED, EXIT_MACHINE, ConfigError, PipelineError
from pipeline.plan import processors
from pipeline.specs import DEFAULT_MODEL, DetectSpec
from pipeline.types import Layout

if TYPE_CHECKING:
    from pipeline.capture.live import LiveFeed
    from pipeline.capture.trial import Step

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
        help="what this machine has and lacks; what is wrong with a camera",
        description="Looks at processors, shared memory, libraries, runtimes and weights. Exit code 3: something that "
        "is needed is missing. With a camera it is tried step by step instead; exit code 1: it does not work.",
    )
    parser.add_argument(
        "source", nargs="?", metavar="SOURCE", help="try this camera: 0, /dev/video0, rtsp://camera/one"
    )
    shared.add_login(parser)
    shared.add_models_dir(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    if options.source:
        return _try(options)
    findings = examine(options.models_dir)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        width = max(len(finding.name) for finding in findings) + 2
        for finding in findings:
            print(f"{finding.state:<9}{finding.name:<{width}}{finding.text}")
    return EXIT_MACHINE if any(finding.state == "missing" for finding in findings) else EXIT_DONE


def _try(options: argparse.Namespace) -> int:
    """Prints each step as it is made; the first that fails is the last."""
    from pipeline.capture.live import LiveFeed

    values = shared.source_values(options.source, options)
    part = config.source(values, "command line")
    source = part.plugin.create(part.config, "trial")
    if not isinstance(source, LiveFeed):
        raise ConfigError(f"{options.source} is no camera: give its number, its device or its address")
    steps = []
    for step in _steps(source, values.get("url"), options.models_dir):
        steps.append(step)
        if not options.json:
            print(f"{'ok' if step.done else 'failed':<9}{step.name:<16}{step.text}", flush=True)
    if options.json:
        print(json.dumps([{"name": step.name, "done": step.done, "text": step.text} for step in steps]))
    return EXIT_DONE if all(step.done for step in steps) else EXIT_FAILED


def _steps(source: LiveFeed, url: str | None, models_dir: Path | None) -> Iterator[Step]:
    from pipeline.capture.trial import try_source

    for step in try_source(source, url):
        yield step
        if step.layout is not None:
            yield _smallest_face(step.layout, models_dir)


def _smallest_face(layout: Layout, models_dir: Path | None) -> Step:
    """What the default model can find in pictures of that size, whole and cut into tiles."""
    from pipeline.capture.trial import Step
    from pipeline.inference import views
    from pipeline.inference.model_card import read_card

    card = read_card(resources.card_path(DEFAULT_MODEL, models_dir))
    overlap = DetectSpec().overlap
    whole = views.whole(layout.width, layout.height, (0, 0, 1, 1))
    width, height = views.smallest_face(card, whole)
    text = f"{width}x{height} pixels with {card.name}"
    columns, rows = views.auto_grid(card, whole, overlap)
    if columns * rows > 1:
        width, height = views.smallest_face(card, views.tiles(whole, columns, rows, overlap)[0])
        text += f"; with tiles: {columns}x{rows}, {width}x{height}"
    return Step("smallest face", True, text)


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
