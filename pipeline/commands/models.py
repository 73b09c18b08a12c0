"""``models``: which models there are, whether their weights are here and right, and how to get them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import resources
from pipeline.commands import quantize
from pipeline.commands.options import add_models_dir
from pipeline.errors import EXIT_DONE, EXIT_FAILED, EXIT_MACHINE, PipelineError
from pipeline.inference.backend import is_available
from pipeline.inference.model_card import ModelCard, read_card
from pipeline.inference.weights import find

_DESCRIPTION = """\
Weights are looked for beside the model's card, then in --models-dir (or the environment variable FACEMASK_MODELS),
then in the user's cache (XDG_CACHE_HOME/facemask-pipeline/models). Every file is checked by its sha256 before use.
"""

_EPILOG = """\
examples:
  run_pipeline.py models list
  run_pipeline.py models fetch aizoo-260
  run_pipeline.py models import aizoo-260 aizoo-360 --from FaceMaskDetection/
  run_pipeline.py models verify
  run_pipeline.py models quantize aizoo-260 --calibrate train/ --evaluate val/

exit codes: 0 done · 1 it failed, or runtimes disagree · 2 a wrong argument, card or file · 3 weights are not here
"""


def add_parser(commands: Any) -> None:
    """Adds ``models`` and its actions; each sets ``main``, a function of the options that returns the exit code."""
    parser = commands.add_parser(
        "models",
        help="list, verify, fetch, import or quantize models",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = _add(actions, "list", list_models, "which models there are, and where their weights are")
    listing.add_argument("--json", action="store_true", help="print one JSON list")
    verify = _add(actions, "verify", verify_models, "check the files found, and run all runtimes against each other")
    verify.add_argument("names", nargs="*", metavar="NAME", help="models; all by default")
    verify.add_argument("--json", action="store_true", help="print one JSON list")
    fetch = _add(actions, "fetch", fetch_models, "download original files and make the runtimes' files from them")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="models with third-party weights")
    fetch.add_argument("--url", metavar="URL", help="folder to download from, instead of the card's")
    bring = _add(actions, "import", import_models, "make the runtimes' files from original files on this machine")
    bring.add_argument("names", nargs="+", metavar="NAME", help="models with third-party weights")
    bring.add_argument(
        "--from",
        dest="source",
        required=True,
        type=Path,
        metavar="DIR",
        help="a clone of the original repository, or its models folder",
    )
    quantize.add_arguments(_add(actions, "quantize", quantize.main, "make an 8-bit model, kept only if it is as good"))


def _add(actions: Any, name: str, main: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    add_models_dir(parser)
    parser.set_defaults(main=main)
    return parser


def list_models(options: argparse.Namespace) -> int:
    """Prints each model; a card that is wrong is an error, but the others are still listed."""
    rows, code = [], EXIT_DONE
    for name in resources.model_names(options.models_dir):
        try:
            path = resources.card_path(name, options.models_dir)
            rows.append(_described(read_card(path), path, options.models_dir))
        except PipelineError as error:
            print(f"error: {error}", file=sys.stderr)
            code = error.exit_code
    if options.json:
        print(json.dumps(rows))
        return code
    for row in rows:
        print(f"{row['name']}  {row['summary']}")
        print(f"  licence   {row['licence']}")
        for kind, runtime in row["runtimes"].items():
            places = ", ".join(sorted({str(Path(f["path"]).parent) for f in runtime["files"] if f["path"]}))
            print(f"  {kind:<16}{places if runtime['here'] else 'weights are missing'}")
        if row["get"]:
            print(f"  get them  {row['get']}")
    return code


def _described(card: ModelCard, card_path: Path, models_dir: Path | None) -> dict[str, Any]:
    folders = resources.weight_dirs(card_path, card.name, models_dir)
    runtimes: dict[str, Any] = {}
    for kind, runtime in card.runtimes.items():
        found = [(entry, find(entry.file, folders)) for entry in runtime.files.values()]
        runtimes[kind] = {
            "here": all(path for _, path in found),
            "files": [{"file": e.file, "sha256": e.sha256, "path": str(p) if p else None} for e, p in found],
        }
    complete = all(runtime["here"] for kind, runtime in runtimes.items() if is_available(kind))
    return {
        "name": card.name,
        "summary": card.summary,
        "licence": card.licence,
        "card": str(card_path),
        "input": [card.input.width, card.input.height],
        "runtimes": runtimes,
        "get": f"run_pipeline.py models fetch {card.name}" if card.original and not complete else None,
    }


def verify_models(options: argparse.Namespace) -> int:
    """Checks files and parity. A model that was not named may lack its weights."""
    reports, code = [], EXIT_DONE
    for name in options.names or resources.model_names(options.models_dir):
        path = resources.card_path(name, options.models_dir)
        report, its_code = _verify(read_card(path), path, options.models_dir, named=bool(options.names))
        reports.append(report)
        code = max(code, its_code)
        if not options.json:
            _print_report(report)
    if options.json:
        print(json.dumps(reports))
    return code


def _verify(card: ModelCard, card_path: Path, models_dir: Path | None, *, named: bool) -> tuple[dict[str, Any], int]:
    """The report on one model, and the exit code that it asks for."""
    from pipeline.inference.verify import check_files, compare

    files = check_files(card, card_path, models_dir)
    parity = list(compare(card, card_path, models_dir)) if any(check.state == "ok" for check in files) else []
    code = EXIT_FAILED if any(not row.agrees for row in parity if row.error is None) else EXIT_DONE
    if named or any(check.state == "wrong" for check in files):
        code = max([code, *(check.error.exit_code for check in files if check.error)])
        code = max([code, *(row.error.exit_code for row in parity if row.error and row.installed)])
    if named and any(check.state == "missing" for check in files):
        code = EXIT_MACHINE
    report = {
        "name": card.name,
        "files": [
            {"file": c.file, "state": c.state, "path": _text(c.path), "error": _text(c.error)} for c in files
        ],
        "parity": [
            {
                "runtime": r.runtime, "installed": r.installed, "boxes": r.boxes, "scores": r.scores,
                "agrees": r.agrees, "error": _text(r.error),
            }
            for r in parity
        ],
    }  # fmt: skip
    return report, code


def _print_report(report: dict[str, Any]) -> None:
    print(report["name"])
    for file in report["files"]:
        print(f"  {file['state']:<9}{file['error'] or file['path'] or file['file']}")
    if report["parity"]:
        print(f"  {'runtime':<16}{'boxes':>10}{'scores':>10}   greatest difference of raw outputs")
    for row in report["parity"]:
        if row["error"]:
            print(f"  {row['runtime']:<16}{'-':>10}{'-':>10}   did not run: {row['error']}")
        else:
            verdict = "agrees" if row["agrees"] else "DISAGREES"
            print(f"  {row['runtime']:<16}{row['boxes']:>10.1e}{row['scores']:>10.1e}   {verdict}")


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def fetch_models(options: argparse.Namespace) -> int:
    """Downloads and imports; what came before a failure is kept, and the same command goes on from there."""
    from pipeline.inference.importing.download import fetch_model

    for name in options.names:
        path = resources.card_path(name, options.models_dir)
        card = read_card(path)
        target = resources.install_dir(card.name, options.models_dir)
        line = _ProgressLine()
        try:
            files = fetch_model(card, path, target, options.url, line.update)
        finally:
            line.end()
        for file in files:
            print(file)
    return EXIT_DONE


def import_models(options: argparse.Namespace) -> int:
    from pipeline.inference.importing.install import import_model

    for name in options.names:
        path = resources.card_path(name, options.models_dir)
        card = read_card(path)
        for file in import_model(card, path, options.source, resources.install_dir(card.name, options.models_dir)):
            print(file)
    return EXIT_DONE


class _ProgressLine:
    """How far a download is, on standard error: one line that is written over, or one line per file elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = ""

    def update(self, file: str, done_bytes: int, total_bytes: int) -> None:
        if self._terminal:
            self._shown = f"{file}  {done_bytes / 1e6:.1f} of {total_bytes / 1e6:.1f} MB"
            print(f"\r\x1b[K{self._shown}", end="", file=sys.stderr, flush=True)
        elif done_bytes == total_bytes:
            print(f"{file}  {total_bytes / 1e6:.1f} MB", file=sys.stderr)

    def end(self) -> None:
        if self._terminal and self._shown:
            print(file=sys.stderr)
