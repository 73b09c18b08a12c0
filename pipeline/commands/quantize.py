"""``models quantize``: a network in 8 bits, kept only if it is as good."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import resources
from pipeline.commands.evaluate import progress
from pipeline.errors import EXIT_DONE, ConfigError, RuntimeFailure

if TYPE_CHECKING:
    from pipeline.evaluation.dataset import Sample
    from pipeline.inference.detector import Detector

LOSS_MAX = 0.01
PICTURES = 120
_TURNS, _CALLS = 9, 10


@dataclass(frozen=True, slots=True)
class Held:
    """mAP on one set of labelled pictures, before and after."""

    name: str
    before: float
    after: float

    @property
    def loss(self) -> float:
        return self.before - self.after


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="MODEL", help="a model with weights for onnxruntime")
    parser.add_argument(
        "--calibrate",
        required=True,
        nargs="+",
        type=Path,
        metavar="DIR",
        help=f"pictures that tell how large its activations get ({PICTURES} of them are used)",
    )
    parser.add_argument(
        "--evaluate",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help=f"labelled pictures, others than those: mAP may fall by {LOSS_MAX:g} at most on each set (default: those "
        "of --calibrate that calibration does not use)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(options: argparse.Namespace) -> int:
    from pipeline.evaluation import quantize
    from pipeline.evaluation.looking import SCORES_FROM
    from pipeline.inference import weights
    from pipeline.inference.detector import build_detector
    from pipeline.inference.model_card import read_card

    card_path = resources.card_path(options.name, options.models_dir)
    card = read_card(card_path)
    runtime = weights.runtime_of(card, card_path, quantize.RUNTIME)
    content = weights.locate(card, card_path, runtime, options.models_dir).read(quantize.ROLE)
    each = -(-PICTURES // len(options.calibrate))
    calibration = [path for folder in options.calibrate for path in _calibration(folder, each, bool(options.evaluate))]
    sets = _sets(options.evaluate or options.calibrate, card.labels, calibration, apart=bool(options.evaluate))
    target = resources.install_dir(card.name + quantize.SUFFIX, options.models_dir)

    def detector(model: str) -> Detector:
        return build_detector(
            model, quantize.RUNTIME, confidence_min=SCORES_FROM, models_dir=options.models_dir, cross_class_iou_max=1.0
        )

    original = detector(str(card_path))
    before = [_map50(original, samples, name) for name, samples in sets.items()]
    tried: list[str] = []
    for how in quantize.RECIPES:
        print(f"quantising {how.name}, with {len(calibration)} pictures", file=sys.stderr)
        made = quantize.quantized(content, runtime.tensors.input, calibration, original.preprocessor, how)
        with quantize.draft(card, made, how) as draft:
            candidate = detector(str(draft))
            held = [
                Held(name, was, _map50(candidate, samples, name))
                for (name, samples), was in zip(sets.items(), before, strict=True)
            ]
            ratio = _cpu_ratio(candidate, original)
            candidate.close()
        tried.append(f"{how.name}: " + ", ".join(f"{h.loss:.4f} on {h.name}" for h in held))
        if all(h.loss <= LOSS_MAX for h in held):
            break
    else:
        raise RuntimeFailure(f"{card.name} loses more than {LOSS_MAX:g} mAP in 8 bits ({'; '.join(tried)}): not kept")
    original.close()
    written = quantize.write_model(card, made, _measured(held, card.name), how, target)
    _tell(options, target.name, written, how.name, held, ratio, len(calibration), len(made) / len(content))
    return EXIT_DONE


def _calibration(folder: Path, count: int, all_of_it: bool) -> list[Path]:
    """Pictures to calibrate with; at most half of them where the others are to be evaluated on."""
    from pipeline.evaluation import quantize

    there = quantize.pictures_in(folder)
    return quantize.spread(there, count if all_of_it else max(1, min(count, len(there) // 2)))


def _sets(
    folders: list[Path], labels: tuple[str, ...], calibration: list[Path], *, apart: bool
) -> dict[str, list[Sample]]:
    """Labelled pictures by the name of their set, none of which is used for calibration."""
    from pipeline.evaluation.dataset import read_dataset
    from pipeline.evaluation.quantize import check_apart

    sets: dict[str, list[Sample]] = {}
    used = {path.resolve() for path in calibration}
    for folder in folders:
        samples = [sample for sample in read_dataset(folder, labels) if apart or sample.path.resolve() not in used]
        if not any(len(sample.truth.class_id) for sample in samples):
            raise ConfigError(f"{folder}: there is no labelled face in the {len(samples)} pictures to evaluate on")
        check_apart(calibration, samples)
        name = folder.resolve().name
        sets[name if name not in sets else f"{name} ({len(sets) + 1})"] = samples
    return sets


def _map50(detector: Detector, samples: list[Sample], name: str) -> float:
    from pipeline.evaluation.figures import average_precisions, mean
    from pipeline.evaluation.looking import look
    from pipeline.plan import processors

    with progress(len(samples), name) as done:
        (pictures,) = look(detector, samples, in_flight=processors(), done=done)
    found = mean(average_precisions(pictures, detector.labels).values())
    if found is None:
        raise ConfigError(f"{name}: every labelled face is ignored")
    return found


def _cpu_ratio(candidate: Detector, original: Detector) -> float:
    """Processor time of the candidate's network to the original's, taking turns."""
    from pipeline.inference.verify import picture

    tensor = picture(original.card.input, 1)

    def cpu_s(detector: Detector) -> float:
        started = time.process_time()
        for _ in range(_CALLS):
            detector.backend.infer(tensor)
        return time.process_time() - started

    return statistics.median(cpu_s(candidate) / cpu_s(original) for _ in range(_TURNS))


def _measured(held: list[Held], name: str) -> str:
    rows = "; ".join(f"{h.after:.3f} on {h.name} ({name}: {h.before:.3f})" for h in held)
    return f"mAP at IoU 0.5, area resize, one suppression per class at IoU 0.4, scores from 0.05: {rows}"


def _tell(
    options: argparse.Namespace, name: str, card: Path, how: str, held: list[Held], ratio: float, pictures: int,
    size: float,
) -> None:  # fmt: skip
    found: dict[str, Any] = {
        "model": name,
        "card": str(card),
        "quantised": how,
        "calibration_pictures": pictures,
        "evaluated": [{"dataset": h.name, "map50_before": h.before, "map50": h.after, "loss": h.loss} for h in held],
        "cpu_ratio": round(ratio, 3),
        "size_ratio": round(size, 3),
    }
    if options.json:
        print(json.dumps(found))
        return
    for h in held:
        print(f"{h.name}: mAP {h.after:.4f}, {h.before:.4f} before")
    print(f"{ratio:.2f} of the processor time, {size:.2f} of the size; quantised: {how}")
    print(f"{card}\nuse it with: --model {name}")
