"""Third-party pictures, videos and weights that the repository may not hold."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent


def shared(path: str) -> Path:
    """A file or folder under ``FACEMASK_SHARED`` (default: ``../shared`` of the repository); skips without it."""
    found = Path(os.environ.get("FACEMASK_SHARED", ROOT.parent / "shared")) / path
    if not found.exists():
        pytest.skip(f"needs the third-party file {found}; set FACEMASK_SHARED to the folder that holds it")
    return found


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 RGB."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None, path
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
