"""Where a stage runs: which run, its directory, and the ways to the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zmq

from pipeline.transport.channel import Bell, BellListener

Context = zmq.Context[zmq.Socket[bytes]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stage runs. told: the stage's sources, each time they have changed since; else None."""

    run_id: str
    run_dir: Path
    context: Context
    restarted: bool = False
    models_dir: Path | None = None
    told: Callable[[], list[str] | None] = lambda: None

    def state_dir(self, *names: str) -> Path:
        """A directory of its own for a part, which outlives the part's process but not the run."""
        path = self.run_dir.joinpath("state", *names)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def bell_path(self, source: str, what: str) -> Path:
        return self.run_dir / f"{source}.{what}-bell"

    def bell(self, source: str, what: str) -> Bell:
        return Bell(self.context, self.bell_path(source, what))

    def listener(self, source: str, what: str) -> BellListener:
        return BellListener(self.context, self.bell_path(source, what))
