"""Pictures from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 RGB, turned as its EXIF data says; raises ``ConfigError`` for what is no picture."""
    import cv2

    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    try:
        image = cv2.imdecode(raw, cv2.IMREAD_COLOR) if raw.size else None
    except cv2.error as error:  # it declares more pixels than OpenCV takes, or than there is memory for
        raise ConfigError(f"{path}: is a picture that cannot be read: {error.err}") from error
    if image is None:
        raise ConfigError(f"{path}: is not a picture that can be read ({raw.size} bytes)")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
