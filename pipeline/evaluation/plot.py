"""The plot of precision over recall, a curve a class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import RuntimeFailure, StartupError
from pipeline.evaluation.matching import Looked, curve

SUFFIXES = (".png", ".svg", ".pdf")


def write_plot(path: Path, pictures: Sequence[Looked], labels: Sequence[str], title: str) -> None:
    """Raises ``StartupError`` without matplotlib, ``RuntimeFailure`` where ``path`` cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise StartupError("the plot needs matplotlib, which is not installed: pip install matplotlib") from error
    figure = Figure(figsize=(6, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for class_id, label in enumerate(labels):
        of_class = curve(pictures, class_id)
        ap = of_class.average_precision()
        if ap is not None:
            axes.plot(of_class.recall, of_class.precision, label=f"{label}, AP {ap:.3f} ({of_class.faces} faces)")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    try:
        figure.savefig(path)
    except OSError as error:
        raise RuntimeFailure(f"{path}: cannot be written: {error.strerror}") from error
