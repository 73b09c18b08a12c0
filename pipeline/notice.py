"""What other shells may know of a run, in its directory; nothing in it is a secret."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import msgspec

from pipeline import plan
from pipeline.process import StageProcess
from pipeline.specs import Site
from pipeline.transport.run_directory import RunDirectory

log = logging.getLogger(__name__)


class Notice:
    """The description of one run. metrics: where they are to be had."""

    def __init__(self, site: Site, directory: RunDirectory, run_id: str) -> None:
        self.metrics: str | None = None
        self._directory = directory
        self._run_id = run_id
        self._written: dict[str, object] = {}
        self._behind = False
        self.take_up(site)

    def take_up(self, site: Site) -> None:
        """What only another site changes, so that no round works it out again."""
        event_log = plan.shown_event_log(site, self._directory.path)
        self._of_site = {"name": site.name, "publishes": site.publishes, "event_log": event_log}

    def update(self, processes: Sequence[StageProcess]) -> None:
        """Writes it where it has changed."""
        description: dict[str, object] = {
            **self._of_site,
            "pid": os.getpid(),
            "run_id": self._run_id,
            "stages": [process.spec.name for process in processes],
            "processes": [msgspec.to_builtins(process.entry) for process in processes],
            "metrics": self.metrics,
        }
        if description == self._written:
            return
        try:
            self._directory.describe(description)
        except OSError as error:  # a full /dev/shm; the next round tries again
            if not self._behind:
                log.error("other shells are told of this run what was: %s", error)
            self._behind = True
        else:
            self._written, self._behind = description, False
