"""A backend whose parser takes the whole process down, as native ones may."""

from __future__ import annotations

import os
import signal

from pipeline.inference.backend import Backend, BackendConfig
from pipeline.inference.model_card import ModelCard
from pipeline.inference.weights import RuntimeFiles


class Config(BackendConfig):
    """Reads any role, and does not survive it."""


def create(_config: Config, _card: ModelCard, _files: RuntimeFiles) -> Backend:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("it survived")
