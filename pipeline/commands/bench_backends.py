"""``bench backends``: what one picture costs in each runtime."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.commands import options as shared
from pipeline.errors import EXIT_DONE
from pipeline.specs import DetectorSpec

ROUNDS = 7

log = logging.getLogger(__name__)


def main(options: argparse.Namespace) -> int:
    from pipeline.benchmarks import backends

    values = shared.detector_values(options)
    chosen = [values["backend"]["kind"]] if "backend" in values else []
    if chosen and chosen[0] != backends.REFERENCE:
        chosen.append(backends.REFERENCE)
    figures = backends.measure(
        DetectorSpec.model_validate(values).model,
        chosen,
        options.models_dir,
        rounds=options.rounds or (1 if options.quick else ROUNDS),
        tell=log.info,
    )
    if options.json:
        print(json.dumps(figures))
    else:
        show(figures, Console(file=sys.stdout))
    return EXIT_DONE


def show(figures: dict[str, Any], console: Console) -> None:
    """The figures for people."""
    table = Table(title=f"{figures['model']}: one picture, one thread; medians of {figures['rounds']} turns")
    table.add_column("runtime", no_wrap=True)
    for title in ("CPU-ms", "wall", "ratio", "load s", "first ms", "MB", "added"):
        table.add_column(title, justify="right")
    for row in figures["backends"]:
        ratio = "–" if row["cpu_ratio"] is None else f"{row['cpu_ratio']:.2f}"
        table.add_row(
            row["backend"], f"{row['cpu_ms']:.2f}", f"{row['wall_ms']:.2f}", ratio, f"{row['load_s']:.2f}",
            f"{row['first_ms']:.0f}", f"{row['resident_mb']:.0f}", f"{row['resident_added_mb']:.0f}",
        )  # fmt: skip
    console.print(table)
    for row in figures["skipped"]:
        console.print(f"skipped: {row['backend']}: {row['reason']}", soft_wrap=True)
