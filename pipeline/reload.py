"""What may change in a configuration while the site runs, and which stages that concerns.

Sources are added, removed and changed, and pipelines come and go with sources of their own. Everything else needs a
restart of the site: a recorder or a rule that changes in the middle of its work would leave half of it undone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError
from pipeline.plan import ANNOTATOR, CAPTURE, INFERENCE, StageSpec, stages
from pipeline.specs import Site

_PARTS = {"detector": "detectors", "rules": "rules", "sinks": "sinks"}
_RESTART = "cannot change while the site runs, as sources can; restart the site to take it up"


@dataclass(frozen=True, slots=True)
class Change:
    """added, removed: sources. started: stages that are new. again: stages that begin again with the new configuration.

    told: inferences that go on with other sources.
    """

    added: list[str]
    removed: list[str]
    started: list[StageSpec]
    again: list[StageSpec]
    told: list[StageSpec]

    def __str__(self) -> str:
        changed = [spec.sources[0] for spec in self.again if spec.job == CAPTURE]
        parts = {"added": self.added, "removed": self.removed, "changed": changed}
        return (
            "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names) or "nothing has changed"
        )


def change(old: Site, new: Site, *, waiting: Collection[str], ending: Collection[str]) -> Change:
    """How to come from ``old`` to ``new``; raises ``ConfigError``, a line a reason, where that is not possible.

    waiting: sources that are read no faster than they are looked at: files. ending: stages of sources that were removed
    and have not come to their end yet.
    """
    before, after = {spec.name: spec for spec in stages(old)}, {spec.name: spec for spec in stages(new)}
    errors = list(dict.fromkeys(_errors(old, new, waiting)))
    errors += [f"{name} is still coming to its end; try again in a moment" for name in after if name in ending]
    if errors:
        raise ConfigError("\n".join(f"{new.origin}: {error}" for error in errors))
    others = old.values.get("sinks") != new.values.get("sinks")

    def begins_again(spec: StageSpec) -> bool:
        if spec.job == CAPTURE:
            return bool(_source(old, spec.sources[0]) != _source(new, spec.sources[0]))
        return spec.job not in (INFERENCE, ANNOTATOR) and (others or spec != before[spec.name])

    common = [spec for name, spec in after.items() if name in before]
    return Change(
        added=[source for source in new.sources if source not in old.sources],
        removed=[source for source in old.sources if source not in new.sources],
        started=[spec for name, spec in after.items() if name not in before],
        again=[spec for spec in common if begins_again(spec)],
        told=[spec for spec in common if spec.job == INFERENCE and spec != before[spec.name]],
    )


def _errors(old: Site, new: Site, waiting: Collection[str]) -> Iterator[str]:
    for section in (*old.values, *new.values):
        if section not in ("sources", "pipelines", *_PARTS.values()) and _at(old, section) != _at(new, section):
            yield f"{section}: {_RESTART}"
    for name in (name for name in new.pipelines if name in old.pipelines):
        was, now = _at(old, "pipelines", name), _at(new, "pipelines", name)
        for key in (*was, *now):
            if key != "sources" and was.get(key) != now.get(key):
                yield f"pipelines.{name}.{key}: {_RESTART}"
        for key, section in _PARTS.items():
            for part in [now[key]] if key == "detector" else now.get(key) or ():
                if _at(old, section, part) != _at(new, section, part):
                    yield f"{section}.{part}: {_RESTART}"
    for source in (source for source in new.sources if source in old.sources):
        if old.pipeline_of(source) != new.pipeline_of(source):
            yield f"sources.{source}: goes to another pipeline, which it can only when it has been removed before"
        if source in waiting and _source(old, source) != _source(new, source):
            yield f"sources.{source}: is a file that is being read, and {_RESTART}"


def _at(site: Site, *path: str) -> Any:
    value: Any = site.values
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _source(site: Site, source: str) -> Any:
    return _at(site, "sources", source)
