"""Starts the stages of a site, watches, restarts and stops them, and owns the run directory.

All stages are started at once, and captures begin when everything behind them runs: nothing waits while a model is
loaded, and a run that is refused has not looked at anything. A run ends by itself: captures end their streams, and
everything behind them drains. Being asked to stop (``signals``) ends the captures, so that what was captured is still
looked at and recorded; asked again, or after a while, everything is terminated, then killed. Asked to reload, it takes
up sources that are new, ends those that are gone and begins changed ones again; the others take no notice.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import zmq

from pipeline import plan
from pipeline.child import Task
from pipeline.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_MACHINE, PipelineError
from pipeline.process import StageProcess
from pipeline.reload import Change, change
from pipeline.report import Gauges, Report, SourceFigures
from pipeline.signals import Signals
from pipeline.specs import Site
from pipeline.transport.channel import HealthReceiver
from pipeline.transport.run_directory import RunDirectory

TICK_S = 0.1
OBSERVED_EVERY_S = 0.2
DRAIN_S = 60.0
"""How long a stopped run may take to look at and record what it has captured."""
TERMINATE_S, KILL_S = 12.0, 3.0
STARTING_MAX_S, SILENT_MAX_S, JOINING_MAX_S = 600.0, 20.0, 1800.0
"""Without a sign of life for so long, a stage is taken for hung: while it opens, while it runs, while it makes the
final file."""

Observer = Callable[[Mapping[str, SourceFigures]], None]

log = logging.getLogger(__name__)


class Supervisor:
    """One run of one site."""

    def __init__(
        self,
        site: Site,
        *,
        models_dir: Path | None = None,
        observe: Observer | None = None,
        reload: Callable[[], Site] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._site = site
        self._models_dir = models_dir
        self._observe = observe
        self._observe_at_s = 0.0
        self._reload = reload
        self._clock = clock
        self._started_ns = time.monotonic_ns()
        self._run_id = f"{time.time_ns():x}{secrets.token_hex(4)}"
        self._processes = [StageProcess(spec, clock=clock) for spec in plan.stages(site)]
        self._signals = Signals(can_reload=reload is not None)
        self._late: set[str] = set()
        self._leaving: dict[str, Site] = {}
        self._seen = dict.fromkeys(site.sources, site)
        self._removed: set[str] = set()
        self._anew: set[str] = set()
        self._asked_to_stop = 0
        self._stop_level = 0
        self._stopped_s = 0.0
        self._code = EXIT_DONE
        self._reason: str | None = None
        self._described: dict[str, object] = {}
        self._behind = False
        self._metrics: str | None = None
        self._publishes = site.publishes
        self._event_log: str | None = None
        self._round_s = clock()

    def run(self) -> Report:
        """Runs until every stage has ended; raises ``PipelineError`` only for what keeps it from starting."""
        plan.check(self._site, self._models_dir)
        with RunDirectory(self._site.name) as directory, ExitStack() as stack:
            self._run_dir, self._presence = directory.path, directory.presence
            plan.prepare(self._site, directory.path)
            self._directory = directory
            self._note_site()
            self._gauges = stack.enter_context(closing(Gauges(self._site.sources, directory.path)))
            for head in self._gauges.heads.values():
                head.held = True
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            stack.callback(context.destroy, 0)
            self._health = HealthReceiver(context, directory.path / plan.HEALTH_SOCKET)
            self._serve_metrics(stack)
            stack.enter_context(self._signals)
            stack.callback(self._kill_all)
            while not all(process.ended for process in self._processes):
                self._describe()
                self._tick()
            return self._report()

    def _serve_metrics(self, stack: ExitStack) -> None:
        port = self._site.operation.metrics_port
        if port is not None:
            from pipeline.metrics import MetricsServer

            self._describe()
            server = MetricsServer(self._run_dir, port, lambda: self._clock() - self._round_s)
            stack.callback(server.close)
            server.open()
            self._metrics = server.address
            log.info("metrics: %s/metrics, /healthz and /readyz", server.address)

    def _note_site(self) -> None:
        """What only another site changes, so that no round works it out again."""
        self._publishes = self._site.publishes
        self._event_log = plan.shown_event_log(self._site, self._run_dir)

    def _describe(self) -> None:
        """What other shells may know of this run, written whenever it has changed; nothing in it is a secret."""
        description = {
            "name": self._site.name,
            "pid": os.getpid(),
            "run_id": self._run_id,
            "stages": [process.spec.name for process in self._processes],
            "processes": [msgspec.to_builtins(process.entry) for process in self._processes],
            "publishes": self._publishes,
            "metrics": self._metrics,
            "event_log": self._event_log,
        }
        if description != self._described:
            try:
                self._directory.describe(description)
            except OSError as error:  # a full /dev/shm; the next round tries again
                if not self._behind:
                    log.error("other shells are told of this run what was: %s", error)
                self._behind = True
            else:
                self._described, self._behind = description, False

    # -- the loop

    def _tick(self) -> None:
        self._round_s = self._clock()
        self._start_due()
        self._wait()
        by_name = {process.spec.name: process for process in self._processes}
        for health in self._health.take():
            if health.stage in by_name:
                by_name[health.stage].heard(health)
        for process in self._processes:
            if process.alive:
                process.listen()
            if process.reap() and process.state == "failed":
                self._after_failure(process)
            elif process.state == "done" and process.spec.job == plan.INFERENCE:
                self._look_again(process)
        self._release()
        self._end_hung()
        self._reload_if_asked()
        self._stop_if_asked()
        if self._observe and self._clock() >= self._observe_at_s:
            self._observe_at_s = self._clock() + OBSERVED_EVERY_S
            self._observe(self._gauges.read())

    def _release(self) -> None:
        """Lets the captures begin once everything behind them runs."""
        behind = [process for process in self._processes if process.spec.job != plan.CAPTURE]
        if self._stop_level == 0 and all(process.ever_ran or process.ended for process in behind):
            for head in self._gauges.heads.values():
                head.held = False

    def _wait(self) -> None:
        poller = zmq.Poller()
        poller.register(self._health.socket, zmq.POLLIN)
        poller.register(self._signals.descriptor, zmq.POLLIN)
        for process in self._processes:
            if process.alive:
                poller.register(process.error_descriptor, zmq.POLLIN)
                if process.exit_descriptor >= 0:
                    poller.register(process.exit_descriptor, zmq.POLLIN)
        poller.poll(round(TICK_S * 1000))
        self._signals.clear()

    def _start_due(self) -> None:
        for process in self._processes:
            if process.state != "waiting" or self._clock() < process.start_at_s:
                continue
            ending = self._stop_level or process.spec.name in self._leaving
            if ending and process.spec.job == plan.CAPTURE:
                self._end_stream(process, "stopped")
            elif process.spec.job == plan.ANNOTATOR and self._is_between(process):
                continue
            elif self._stop_level < 2:
                if process.spec.name in self._anew:
                    self._anew.remove(process.spec.name)
                    self._gauges.heads[process.spec.sources[0]].begin()
                process.start(self._task(process), self._presence)
                if process.ended:
                    self._after_failure(process)
                elif process.spec.job == plan.INFERENCE and self._leaving:
                    process.tell(process.spec)
            else:
                self._give_up(process, "was not running when the run was ended at once")

    def _is_between(self, process: StageProcess) -> bool:
        """Whether its source has come back and inference has not yet taken it up: all would seem to be over."""
        return any(self._gauges.results[s].finished and self._is_open(s) for s in process.spec.sources)

    def _is_open(self, source: str) -> bool:
        return self._gauges.heads[source].end_seq is None

    def _task(self, process: StageProcess) -> Task:
        site = self._leaving.get(process.spec.name, self._site)
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

    def _end_stream(self, process: StageProcess, reason: str) -> None:
        """Says in a capture's place that no frame will follow."""
        for source in process.spec.sources:
            self._gauges.heads[source].end(reason)
        process.end_well()

    def _end_hung(self) -> None:
        for process in self._processes:
            if process.alive and process.silent_s > self._patience_s(process):
                silence = f"no sign of life for {process.silent_s:.0f} s"
                log.error("%s has shown %s", process.spec.name, silence)
                process.kill(hung=silence)

    def _patience_s(self, process: StageProcess) -> float:
        if process.state == "starting":
            return STARTING_MAX_S
        return JOINING_MAX_S if self._may_be_joining(process) else SILENT_MAX_S

    def _may_be_joining(self, process: StageProcess) -> bool:
        """Whether it is an annotator that has been given everything: its final file may take minutes."""
        results = [self._gauges.results[source] for source in process.spec.sources]
        return process.spec.job == plan.ANNOTATOR and all(log.finished for log in results)

    # -- failure

    def _after_failure(self, process: StageProcess) -> None:
        """One stage has failed for good; what it held up goes on without it, or the run ends if it never began."""
        begins = process.spec.name not in self._late and not process.ever_ran
        # refused is only what never began: a site that was at work is to be started again
        self._fail(process.exit_code if begins else EXIT_FAILED, process.reason or "failed")
        for source in process.spec.sources:
            head, results = self._gauges.heads[source], self._gauges.results[source]
            match process.spec.job:
                case plan.CAPTURE:
                    head.end(f"failed: {process.reason}")
                case plan.INFERENCE:
                    head.detach(plan.INFERENCE)
                    results.abandon()
                    self._stop_capture(source)
                case plan.ANNOTATOR:
                    head.detach(plan.ANNOTATOR)
                case "events":
                    results.detach_events()
        if process.exit_code in (EXIT_CONFIG, EXIT_MACHINE) and begins:
            self._asked_to_stop = max(self._asked_to_stop, 1)

    def _give_up(self, process: StageProcess, reason: str) -> None:
        """Whether anything is lost by that depends on whether it had begun."""
        process.give_up(reason)
        if process.ever_ran:
            self._fail(EXIT_FAILED, f"{process.spec.name} {reason}")

    def _fail(self, code: int, reason: str) -> None:
        """The first failure gives the run its exit code and reason."""
        if self._code == EXIT_DONE:
            self._code, self._reason = code, reason

    def _stop_capture(self, source: str) -> None:
        for process in self._processes:
            if process.spec.job == plan.CAPTURE and source in process.spec.sources:
                process.terminate()
                self._gauges.heads[source].end("failed: inference has failed")
                process.end_well()

    # -- reloading

    def _reload_if_asked(self) -> None:
        """What cannot be taken up is refused as a whole, and everything runs on as before."""
        self._forget_those_that_left()
        if not self._signals.reload or self._reload is None or self._stop_level:
            return
        self._signals.reload = False
        fresh: list[str] = []
        try:
            site = self._reload()
            plan.check(site, self._models_dir)
            changed = self._change_to(site)
            fresh += [source for source in changed.added if source not in self._gauges.heads]
            for source in fresh:
                plan.prepare_source(site, source, self._run_dir)
            for source in fresh:
                self._gauges.add(source)
        except (PipelineError, OSError) as error:
            for source in fresh:
                self._gauges.drop(source)
                plan.discard_source(source, self._run_dir)
            for line in str(error).splitlines():
                log.error("not taken up: %s", line)
            return
        for source in changed.back:
            plan.reopen_source(site, source, self._run_dir, self._gauges.heads[source])
        staying = {spec.name for spec in plan.stages(site)}
        self._leaving |= {p.spec.name: self._site for p in self._processes if p.spec.name not in staying}
        self._site = site
        self._note_site()
        self._seen |= dict.fromkeys(site.sources, site)
        self._removed = (self._removed | set(changed.removed)) - set(changed.added)
        self._take_up(changed)
        log.info("configuration taken up: %s", changed)

    def _change_to(self, site: Site) -> Change:
        """How to come there; raises ``ConfigError`` where that is not possible now."""
        ended = [source for source in self._gauges.heads if not self._is_open(source)]
        annotated = {f"{plan.ANNOTATOR}/{source}" for source in ended}
        return change(
            self._site,
            site,
            waiting=[source for source, head in self._gauges.heads.items() if head.waits],
            ending=[
                p.spec.name for p in self._processes if not p.ended and p.spec.name in annotated | set(self._leaving)
            ],
            ended=ended,
            seen=self._seen,
        )

    def _take_up(self, changed: Change) -> None:
        by_name = {process.spec.name: process for process in self._processes}
        for process in [process for name, process in by_name.items() if name in self._leaving]:
            self._end_capture(process)
        for spec in changed.again:
            by_name[spec.name].begin_again(spec)
            if spec.job == plan.CAPTURE:
                self._anew.add(spec.name)
        for spec in changed.told:
            if by_name[spec.name].ended:
                by_name[spec.name].begin_again(spec)
            else:
                by_name[spec.name].tell(spec)
        self._late |= {spec.name for spec in changed.started}
        self._processes += [StageProcess(spec, clock=self._clock) for spec in changed.started]

    def _look_again(self, process: StageProcess) -> None:
        """One that ended while it was told of a source that has come."""
        if process.spec.name not in self._leaving and any(map(self._is_open, process.spec.sources)):
            process.begin_again(process.spec)

    def _forget_those_that_left(self) -> None:
        for process in [p for p in self._processes if p.ended and p.spec.name in self._leaving]:
            self._processes.remove(process)
            del self._leaving[process.spec.name]
        for source in [source for source in self._removed if self._has_left(source)]:
            self._removed.remove(source)
            for pixels in self._run_dir.glob(f"{source}.g[0-9]*"):
                pixels.unlink(missing_ok=True)

    def _has_left(self, source: str) -> bool:
        """Whether nobody has anything more to do with what came of it."""
        return self._gauges.results[source].finished and not any(source in p.spec.sources for p in self._processes)

    # -- stopping

    def _stop_if_asked(self) -> None:
        if max(self._asked_to_stop, self._signals.stop) > self._stop_level:
            self._stop(self._stop_level + 1)
        elif self._stop_level == 1 and self._clock() - self._stopped_s > self._drain_s():
            log.warning("not everything has been recorded within %.0f s", DRAIN_S)
            self._stop(2)
        elif self._stop_level == 2 and self._clock() - self._stopped_s > TERMINATE_S:
            self._stop(3)

    def _drain_s(self) -> float:
        """More time where all that is left to do is to make the final files."""
        left = [process for process in self._processes if not process.ended]
        return JOINING_MAX_S if all(self._may_be_joining(process) for process in left) else DRAIN_S

    def _stop(self, level: int) -> None:
        self._stop_level, self._stopped_s = level, self._clock()
        for process in self._processes:
            if process.ended:
                continue
            process.hurry()
            if level >= 3:
                self._give_up(process, "was killed, because it did not end when asked to")
            elif level == 2 and process.spec.job != plan.CAPTURE:
                process.terminate()
            else:
                self._end_capture(process)
        if level == 1 and self._code == EXIT_DONE:
            log.info("stopping: what has been captured is still looked at and recorded; stop again to end at once")

    def _end_capture(self, process: StageProcess) -> None:
        if process.spec.job == plan.CAPTURE:
            process.terminate()
            if not process.alive:
                self._end_stream(process, "stopped")

    def _kill_all(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait(KILL_S)

    # -- the end

    def _report(self) -> Report:
        figures = self._gauges.read()
        missing = {source: self._gauges.missing(source) for source in figures}
        for source, f in figures.items():
            if f.end_reason.startswith(("broken", "failed")):
                self._fail(EXIT_FAILED, f"{source}: {f.end_reason.partition(': ')[2]}")
            if f.lossless and missing[source]:
                self._fail(EXIT_FAILED, f"{source}: frames {', '.join(missing[source])} are missing in the recording")
            if f.lossless and f.events_lost:
                self._fail(EXIT_FAILED, f"{source}: {f.events_lost} events were lost")
        restarts = {process.spec.name: process.restarts for process in self._processes}
        elapsed_s = (time.monotonic_ns() - self._started_ns) / 1e9
        return Report(figures, missing, self._started_ns, elapsed_s, restarts, self._code, self._reason)
