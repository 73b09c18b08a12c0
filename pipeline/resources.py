"""Where cards, configurations and weights lie.

What ships with the program (``models/``, ``config/``) lies beside the package in a checkout and in ``pipeline/data`` in
an installed wheel. Weights that may not ship are looked for beside their card, then in the folder that the user names
(``--models-dir``, else the environment variable ``FACEMASK_MODELS``), then in a cache of the user's own; so are the
cards of models that the user made.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigError

CARD_FILE = "model.yaml"
MODELS_ENV = "FACEMASK_MODELS"

_PACKAGE = Path(__file__).resolve().parent
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def data_dir(kind: Literal["models", "config"]) -> Path:
    """The folder of what ships with the program; it may be missing in a damaged installation."""
    inside = _PACKAGE / "data" / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def user_models_dir() -> Path:
    """The user's own cache of weights (XDG base directory specification); not made here."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    # The specification: a relative path is invalid and must be ignored.
    base = Path(cache) if cache.startswith("/") else Path.home() / ".cache"
    return base / "facemask-pipeline" / "models"


def user_state_dir() -> Path:
    """Where what outlives a run is kept by default, a folder a site (XDG base directories); not made here."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "facemask-pipeline"


def named_models_dir(models_dir: Path | None = None) -> Path | None:
    """The folder that the user names for weights: ``models_dir``, else the environment's, else ``None``."""
    if models_dir is not None:
        return models_dir
    named = os.environ.get(MODELS_ENV, "")
    return Path(named) if named else None


def install_dir(name: str, models_dir: Path | None = None) -> Path:
    """Where ``models fetch`` and ``models import`` put the weights of the model ``name``; not made here."""
    return (named_models_dir(models_dir) or user_models_dir()) / name


def weight_dirs(card_path: Path, name: str, models_dir: Path | None = None) -> list[Path]:
    """Folders that may hold the weights of the model ``name``, in the order in which they are tried."""
    named = named_models_dir(models_dir)
    folders = [card_path.parent, *([named / name] if named else []), user_models_dir() / name]
    return list(dict.fromkeys(folders))


def model_names(models_dir: Path | None = None) -> list[str]:
    """The models that have a card here, sorted."""
    return sorted({card.parent.name for root in _card_roots(models_dir) for card in root.glob(f"*/{CARD_FILE}")})


def card_path(model: str, models_dir: Path | None = None) -> Path:
    """The card of ``model``: a model's name, a folder that holds a card, or a card's path.

    Raises ``ConfigError`` with the names that exist where there is no such card.
    """
    if _NAME.fullmatch(model):
        for root in _card_roots(models_dir):
            if (root / model / CARD_FILE).is_file():
                return root / model / CARD_FILE
    path = Path(model)
    for candidate in (path / CARD_FILE, path):
        if candidate.is_file() and candidate.suffix in (".yaml", ".yml"):
            return candidate
    names = ", ".join(model_names(models_dir)) or "none"
    raise ConfigError(f"{model!r} is not a model here; there are: {names}; or give a folder with a {CARD_FILE}")


def _card_roots(models_dir: Path | None) -> list[Path]:
    """What ships comes first: no folder of a user's can put another card in its place."""
    named = named_models_dir(models_dir)
    return [data_dir("models"), *([named] if named else []), user_models_dir()]
