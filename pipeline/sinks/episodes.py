"""Which evidence is being made: the part of the ``clips`` sink that must outlive its process."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pipeline.types import Event


class Episode(msgspec.Struct, kw_only=True):
    """One event whose evidence is not complete, as it was told last. began_s: when, on the source's clock; ends_s: the
    clip's last moment, once known.

    snapshot, crop, clip: whether this process has handed that over to be stored; the next one looks what is there.
    """

    event: Event
    began_s: float
    limit_s: float
    ends_s: float | None = None
    snapshot: bool = False
    crop: bool = False
    clip: bool = False

    @property
    def last_s(self) -> float:
        return self.limit_s if self.ends_s is None else min(self.limit_s, self.ends_s)


class _State(msgspec.Struct):
    heard: int = 0
    episodes: list[Episode] = []


class Episodes:
    """The open ones, in a file that is replaced whole at every change (``state_dir`` is in memory)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = _State()

    def load(self) -> None:
        try:
            self._state = msgspec.json.decode(self._path.read_bytes(), type=_State)
            for episode in self.open:
                episode.snapshot = episode.crop = episode.clip = False
        except FileNotFoundError:
            self._state = _State()

    def save(self) -> None:
        new = self._path.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(self._state))
        new.replace(self._path)

    @property
    def heard(self) -> int:
        return self._state.heard

    def hear(self, heard: int) -> None:
        self._state.heard = heard
        self.save()

    @property
    def open(self) -> list[Episode]:
        return self._state.episodes

    def find(self, event_id: str) -> Episode | None:
        return next((episode for episode in self.open if episode.event.id == event_id), None)

    def forget(self, episode: Episode) -> None:
        self._state.episodes.remove(episode)
        self.save()
