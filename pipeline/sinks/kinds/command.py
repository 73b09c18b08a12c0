"""``kind: command``: runs a program for every event, with the event as JSON on its standard input."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from typing import IO, Annotated, Any, ClassVar

import msgspec
from pydantic import Field

from pipeline.errors import Disconnected, StartupError
from pipeline.sinks.sink import Accepts, SinkConfig, SinkContext

_SAID_BYTES = 200


class Config(SinkConfig):
    """command: the program and its arguments as a list; no shell looks at them. timeout_s: then it is killed.

    Whatever does not end with 0 is run again for the same event.
    """

    accepts: ClassVar[Accepts] = "events"

    command: Annotated[tuple[str, ...], Field(min_length=1)]
    timeout_s: float = Field(default=30, gt=0, le=3600)


class Command:
    """One program at a time, in a session of its own, so that a time-out ends all that it has started."""

    accepts: ClassVar[Accepts] = "events"

    def __init__(self, config: Config, context: SinkContext) -> None:
        self._config = config
        self._name = context.name

    def open(self, log_id: str) -> None:  # noqa: ARG002  a program does not tell what it has had
        """Raises ``StartupError`` where there is no such program."""
        if shutil.which(self._config.command[0]) is None:
            raise StartupError(f"sink {self._name}: {self._config.command[0]!r} is not a program that can be run here")

    def write(self, event: dict[str, Any]) -> None:
        with self._temporary_file() as said:
            code = self._run(msgspec.json.encode(event), said)
            if code:
                said.seek(max(0, said.tell() - _SAID_BYTES))
                told = said.read().decode(errors="replace").strip().rpartition("\n")[2]
                how = f"ended with {code}" if code > 0 else "was killed"
                raise Disconnected(f"{self._config.command[0]} {how}" + (f": {told}" if told else ""))

    def _temporary_file(self) -> IO[bytes]:
        try:
            return tempfile.TemporaryFile()
        except OSError as error:
            raise Disconnected(
                f"{self._config.command[0]} cannot be run: no temporary file: {error.strerror}"
            ) from error

    def _run(self, event: bytes, said: IO[bytes]) -> int:
        try:
            process = subprocess.Popen(
                self._config.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
        except OSError as error:
            raise Disconnected(f"{self._config.command[0]} cannot be run: {error.strerror}") from error
        try:
            process.communicate(event, self._config.timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise Disconnected(
                f"{self._config.command[0]} took longer than {self._config.timeout_s:g} s and was killed"
            ) from None
        finally:
            if process.stdin is not None:
                process.stdin.close()
        said.seek(0, os.SEEK_END)
        return process.returncode

    def beat(self, seq: int) -> None: ...

    def close(self) -> None: ...


def create(config: Config, context: SinkContext) -> Command:
    return Command(config, context)
