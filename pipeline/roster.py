"""Which stages a run has, and by which configuration each of them runs: both change when the site does.

A stage that the new configuration does not have leaves: it goes on by the one that it had until it has come to its end.
A source that has changed is captured anew, on the same clock; everybody else takes no notice (``reload`` says what may
change).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from pipeline import plan
from pipeline.child import Task
from pipeline.directories import HeldDirectories
from pipeline.errors import PipelineError
from pipeline.process import StageProcess
from pipeline.reload import Change, change
from pipeline.report import Gauges
from pipeline.specs import Site


class Roster:
    """The stages of one run. site: the newest that was taken up. gauges: of every source that was in this run."""

    def __init__(
        self,
        site: Site,
        run_dir: Path,
        run_id: str,
        models_dir: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes what the stages share; raises ``StartupError`` where shared memory is too small, ``ConfigError`` where
        another run keeps its files in one of the site's directories.
        """
        self._directories = HeldDirectories()
        self._directories.take(site)
        plan.prepare(site, run_dir)
        self.site = site
        self.gauges = Gauges(site.sources, run_dir)
        self.processes = [StageProcess(spec, clock=clock) for spec in plan.stages(site)]
        self._run_dir = run_dir
        self._run_id = run_id
        self._models_dir = models_dir
        self._clock = clock
        self._leaving: dict[str, Site] = {}  # stages → the site that they belong to
        self._anew: set[str] = set()  # sources whose next frame is the first of another film or camera
        self._seen = dict.fromkeys(site.sources, site)  # sources → the site in which they were last
        self._removed: set[str] = set()  # sources whose pixels are still there

    # -- at work

    def start(self, process: StageProcess, inherited: int) -> None:
        """Starts it, or starts it again, by its own configuration. inherited: as in ``StageProcess.start``."""
        if process.spec.job == plan.CAPTURE and process.spec.sources[0] in self._anew:
            self._anew.remove(process.spec.sources[0])
            self.gauges.heads[process.spec.sources[0]].begin()
        process.start(self._task(process), inherited)
        if process.spec.job == plan.INFERENCE and self._leaving:
            process.tell(process.spec)

    def _task(self, process: StageProcess) -> Task:
        site = self._leaving.get(process.spec.name, self.site)
        if process.spec.job == plan.INFERENCE:  # sources that are leaving have frames that want their results
            name = process.spec.name.partition("/")[2]
            site = next((before for before in self._leaving.values() if name in before.pipelines), site)
        return Task(
            stage=process.spec.name,
            run_id=self._run_id,
            run_dir=str(self._run_dir),
            origin=site.origin,
            values=dict(site.values),
            restarted=process.lives > 0,
            parent=os.getpid(),
            models_dir=str(self._models_dir) if self._models_dir else None,
            log_level=logging.getLogger().level,
        )

    def is_leaving(self, process: StageProcess) -> bool:
        """Whether it only has to come to its end."""
        return process.spec.name in self._leaving

    def must_wait(self, process: StageProcess) -> bool:
        """Whether it may not start yet, because its source has come back and inference has not yet taken that up: all
        would seem to be over."""
        results = self.gauges.results
        return process.spec.job == plan.ANNOTATOR and any(
            results[source].finished and self._is_open(source) for source in process.spec.sources
        )

    def look_again(self, process: StageProcess) -> None:
        """Lets an inference begin again that ended while it was told of a source that has come."""
        may_look = process.spec.job == plan.INFERENCE and not self.is_leaving(process)
        if may_look and any(map(self._is_open, process.spec.sources)):
            process.begin_again(process.spec)

    def forget_those_that_left(self) -> None:
        for process in [process for process in self.processes if process.ended and self.is_leaving(process)]:
            self.processes.remove(process)
            del self._leaving[process.spec.name]
        for source in [source for source in self._removed if self._has_left(source)]:
            self._removed.remove(source)
            for pixels in self._run_dir.glob(f"{source}.g[0-9]*"):
                pixels.unlink(missing_ok=True)

    def _has_left(self, source: str) -> bool:
        """Whether nobody has anything more to do with what came of it."""
        return self.gauges.results[source].finished and not any(source in p.spec.sources for p in self.processes)

    def _is_open(self, source: str) -> bool:
        return self.gauges.heads[source].end_seq is None

    # -- another site

    def take_up(self, site: Site) -> Change:
        """Goes over to ``site``; the captures that are leaving are still to be ended.

        Raises ``PipelineError``, a line a reason, or ``OSError`` where that is not possible; then all is as before.
        """
        plan.check(site, self._models_dir)
        changed = self._change_to(site)
        self._directories.take(site)
        self._prepare(site, [source for source in changed.added if source not in self.gauges.heads], changed.back)
        for source in changed.back:
            plan.reopen_source(site, source, self.gauges.heads[source])
        staying = {spec.name for spec in plan.stages(site)}
        self._leaving |= {p.spec.name: self.site for p in self.processes if p.spec.name not in staying}
        self.site = site
        self._seen |= dict.fromkeys(site.sources, site)
        self._removed = (self._removed | set(changed.removed)) - set(changed.added)
        self._regroup(changed)
        return changed

    def _change_to(self, site: Site) -> Change:
        """How to come there; raises ``ConfigError`` where that is not possible now."""
        ended = [source for source in self.gauges.heads if not self._is_open(source)]
        to_end = {f"{plan.ANNOTATOR}/{source}" for source in ended} | set(self._leaving)
        return change(
            self.site,
            site,
            waiting=[source for source, head in self.gauges.heads.items() if head.waits],
            ending=[p.spec.name for p in self.processes if not p.ended and p.spec.name in to_end],
            ended=ended,
            seen=self._seen,
        )

    def _prepare(self, site: Site, sources: list[str], back: list[str]) -> None:
        """Makes what is shared for sources that were never here, and takes back the ends of those that come back, for
        all of them or none: everything of a change that may be refused by the system.
        """
        ends = [path for path in (plan.end_path(self._run_dir, source) for source in back) if path.exists()]
        try:
            for source in sources:
                plan.prepare_source(site, source, self._run_dir)
            for source in sources:
                self.gauges.add(source)
            for path in ends:
                path.unlink()
        except (PipelineError, OSError):
            for source in sources:
                self.gauges.drop(source)
                plan.discard_source(source, self._run_dir)
            for path in ends:
                path.touch()
            raise

    def _regroup(self, changed: Change) -> None:
        by_name = {process.spec.name: process for process in self.processes}
        for spec in plan.stages(self.site):
            if spec.name in by_name:
                by_name[spec.name].spec = spec
        for spec in changed.again:
            by_name[spec.name].begin_again(spec)
            if spec.job == plan.CAPTURE:
                self._anew.add(spec.sources[0])
        for spec in changed.told:
            if by_name[spec.name].ended:
                by_name[spec.name].begin_again(spec)
            else:
                by_name[spec.name].tell(spec)
        self.processes += [StageProcess(spec, late=True, clock=self._clock) for spec in changed.started]

    def close(self) -> None:
        self._directories.close()
        self.gauges.close()
