"""Whom a sink believes that sends to somebody over TLS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def _holds_certificates(path: Path) -> Path:
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"{path} holds no certificates that can be read") from error
    return path


CaFile = Annotated[Path, AfterValidator(_holds_certificates)]
"""A file of certificates of authorities, checked where the configuration is read."""
