"""Starts the stages of a site, watches, restarts and stops them, and owns the run directory.

All stages are started at once, and captures begin when everything behind them runs: nothing waits while a model is
loaded, and a run that is refused has not looked at anything. A run ends by itself: captures end their streams, and
everything behind them drains. Being asked to stop (``signals``) ends the captures, so that what was captured is still
looked at and recorded; asked again, or after a while, everything is terminated, then killed. Which stages there are,
also after a reload, is in the ``roster``.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import zmq

from pipeline import plan
from pipeline.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_MACHINE, PipelineError
from pipeline.notice import Notice
from pipeline.process import StageProcess
from pipeline.report import Report, SourceFigures, shortcomings
from pipeline.roster import Roster
from pipeline.signals import Signals
from pipeline.specs import Site
from pipeline.transport.channel import HealthReceiver
from pipeline.transport.run_directory import RunDirectory

TICK_S = 0.1
OBSERVED_EVERY_S = 0.2
DRAIN_S = 60.0
"""How long a stopped run may take to look at and record what it has captured."""
TERMINATE_S, KILL_S = 12.0, 3.0
OUTAGE_FROM_S = 1.0
"""A camera whose capture is started again sooner is not told as lost."""
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
        self._signals = Signals(can_reload=reload is not None)
        self._asked_to_stop = 0
        self._stop_level = 0
        self._stopped_s = 0.0
        self._code = EXIT_DONE
        self._reason: str | None = None
        self._round_s = clock()

    def run(self) -> Report:
        """Runs until every stage has ended; raises ``PipelineError`` only for what keeps it from starting."""
        plan.check(self._site, self._models_dir)
        with RunDirectory(self._site.name) as directory, ExitStack() as stack:
            self._presence = directory.presence
            self._roster = Roster(self._site, directory.path, self._run_id, self._models_dir, clock=self._clock)
            stack.enter_context(closing(self._roster))
            self._notice = Notice(self._site, directory, self._run_id)
            for head in self._roster.gauges.heads.values():
                head.held = True
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            stack.callback(context.destroy, 0)
            self._health = HealthReceiver(context, directory.path / plan.HEALTH_SOCKET)
            self._serve_metrics(directory.path, stack)
            stack.enter_context(self._signals)
            stack.callback(self._kill_all)
            while not all(process.ended for process in self._roster.processes):
                self._notice.update(self._roster.processes)
                self._tick()
            return self._report()

    def _serve_metrics(self, run_dir: Path, stack: ExitStack) -> None:
        port = self._site.operation.metrics_port
        if port is not None:
            from pipeline.metrics import MetricsServer

            self._notice.update(self._roster.processes)
            server = MetricsServer(run_dir, port, lambda: self._clock() - self._round_s)
            stack.callback(server.close)
            server.open()
            self._notice.metrics = server.address
            log.info("metrics: %s/metrics, /healthz and /readyz", server.address)

    # -- the loop

    def _tick(self) -> None:
        self._round_s = self._clock()
        self._start_due()
        self._wait()
        by_name = {process.spec.name: process for process in self._roster.processes}
        for health in self._health.take():
            if health.stage in by_name:
                by_name[health.stage].heard(health)
        for process in self._roster.processes:
            if process.alive:
                process.listen()
            if process.reap():
                self._after_end(process)
            if process.state == "done":
                self._roster.look_again(process)
        self._release()
        self._end_hung()
        self._reload_if_asked()
        self._stop_if_asked()
        if self._observe and self._clock() >= self._observe_at_s:
            self._observe_at_s = self._clock() + OBSERVED_EVERY_S
            self._observe(self._roster.gauges.read())

    def _release(self) -> None:
        """Lets the captures begin once everything behind them runs."""
        behind = [process for process in self._roster.processes if process.spec.job != plan.CAPTURE]
        if self._stop_level == 0 and all(process.ever_ran or process.ended for process in behind):
            for head in self._roster.gauges.heads.values():
                head.held = False

    def _wait(self) -> None:
        poller = zmq.Poller()
        poller.register(self._health.socket, zmq.POLLIN)
        poller.register(self._signals.descriptor, zmq.POLLIN)
        for process in self._roster.processes:
            if process.alive:
                poller.register(process.error_descriptor, zmq.POLLIN)
                if process.exit_descriptor >= 0:
                    poller.register(process.exit_descriptor, zmq.POLLIN)
        poller.poll(round(TICK_S * 1000))
        self._signals.clear()

    def _start_due(self) -> None:
        for process in self._roster.processes:
            if process.state != "waiting" or self._clock() < process.start_at_s:
                continue
            if process.spec.job == plan.CAPTURE and (self._stop_level or self._roster.is_leaving(process)):
                self._end_stream(process, "stopped")
            elif self._roster.must_wait(process):
                continue
            elif self._stop_level < 2:
                self._roster.start(process, self._presence)
                if not process.alive:
                    self._after_end(process)
            else:
                self._give_up(process, "was not running when the run was ended at once")

    def _end_stream(self, process: StageProcess, reason: str) -> None:
        """Says in a capture's place that no frame will follow."""
        for source in process.spec.sources:
            self._roster.gauges.heads[source].end(reason)
        process.end_well()

    def _end_hung(self) -> None:
        for process in self._roster.processes:
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
        results = [self._roster.gauges.results[source] for source in process.spec.sources]
        return process.spec.job == plan.ANNOTATOR and all(log.finished for log in results)

    # -- failure

    def _after_end(self, process: StageProcess) -> None:
        if process.state == "failed":
            self._after_failure(process)
        elif process.spec.job == plan.CAPTURE and process.start_at_s - self._clock() >= OUTAGE_FROM_S:
            for head in (self._roster.gauges.heads[source] for source in process.spec.sources):
                status = head.status
                if status is not None and (status.state, status.reason) != ("backing_off", "crashed"):
                    # of a camera: nobody else is left to say that it is lost, once
                    head.tell("backing_off", "crashed", now_ns=time.monotonic_ns(), wall_ns=time.time_ns())

    def _after_failure(self, process: StageProcess) -> None:
        """One stage has failed for good; what it held up goes on without it, or the run ends if it never began."""
        begins = not process.late and not process.ever_ran
        # refused is only what never began: a site that was at work is to be started again
        self._fail(process.exit_code if begins else EXIT_FAILED, process.reason or "failed")
        for source in process.spec.sources:
            head, results = self._roster.gauges.heads[source], self._roster.gauges.results[source]
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
        for process in self._roster.processes:
            if process.spec.job == plan.CAPTURE and source in process.spec.sources:
                process.terminate()
                self._end_stream(process, "failed: inference has failed")

    # -- reloading

    def _reload_if_asked(self) -> None:
        """What cannot be taken up is refused as a whole, and everything runs on as before."""
        self._roster.forget_those_that_left()
        if not self._signals.reload or self._reload is None or self._stop_level:
            return
        self._signals.reload = False
        try:
            changed = self._roster.take_up(self._reload())
        except (PipelineError, OSError) as error:
            for line in str(error).splitlines():
                log.error("not taken up: %s", line)
            return
        for process in filter(self._roster.is_leaving, self._roster.processes):
            self._end_capture(process)
        self._notice.take_up(self._roster.site)
        log.info("configuration taken up: %s", changed)

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
        left = [process for process in self._roster.processes if not process.ended]
        return JOINING_MAX_S if all(self._may_be_joining(process) for process in left) else DRAIN_S

    def _stop(self, level: int) -> None:
        self._stop_level, self._stopped_s = level, self._clock()
        for process in self._roster.processes:
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
        for process in self._roster.processes:
            process.kill()
        for process in self._roster.processes:
            process.wait(KILL_S)

    # -- the end

    def _report(self) -> Report:
        figures = self._roster.gauges.read()
        missing = {source: self._roster.gauges.missing(source) for source in figures}
        for shortcoming in shortcomings(figures, missing):
            self._fail(EXIT_FAILED, shortcoming)
        restarts = {process.spec.name: process.restarts for process in self._roster.processes}
        elapsed_s = (time.monotonic_ns() - self._started_ns) / 1e9
        return Report(figures, missing, self._started_ns, elapsed_s, restarts, self._code, self._reason)
