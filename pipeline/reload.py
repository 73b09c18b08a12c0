"""What may change in a configuration while the site runs, and which stages that concerns.

Sources are added, removed and changed, and pipelines come and go with sources of their own. Everything else needs a
restart of the site: a recorder or a rule that changes in the middle of its work would leave half of it undone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigError
from pipeline.plan import ANNOTATOR, CAPTURE, INFERENCE, StageSpec, is_logged, stages
from pipeline.specs import Site

_PARTS = {"detector": "detectors", "rules": "rules", "sinks": "sinks"}
_FIXED = "cannot change while the site runs, as sources can; nothing of this file is taken up before a restart"


@dataclass(frozen=True, slots=True)
class Change:
    """added, removed: sources. started: stages that are new. again: stages that begin again with the new configuration.

    told: inferences that go on with other sources. back: sources that were here in this run and had ended, which begin
    anew behind their newest frame: they come back, or have changed.
    """

    added: list[str]
    removed: list[str]
    started: list[StageSpec]
    again: list[StageSpec]
    told: list[StageSpec]
    back: list[str]

    def __str__(self) -> str:
        changed = [spec.sources[0] for spec in self.again if spec.job == CAPTURE]
        parts = {"added": self.added, "removed": self.removed, "changed": changed}
        return (
            "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names) or "nothing has changed"
        )


def change(
    old: Site,
    new: Site,
    *,
    waiting: Collection[str],
    ending: Collection[str],
    ended: Collection[str] = (),
    seen: Mapping[str, Site] | None = None,
) -> Change:
    """How to come from ``old`` to ``new``; raises ``ConfigError``, a line a reason, where that is not possible.

    waiting: sources that are read no faster than they are looked at, files, which can change when they have ended.
    ending: stages that have nothing more to come and have not come to their end yet. ended: sources of which no frame
    will come. seen: every source that has been here in this run → the site in which it was last.
    """
    before, after = {spec.name: spec for spec in stages(old)}, {spec.name: spec for spec in stages(new)}
    seen = seen or {}
    added = [source for source in new.sources if source not in old.sources]
    changed = [s for s in new.sources if s in old.sources and _source(old, s) != _source(new, s)]
    back = [source for source in added if source in seen] + [source for source in changed if source in ended]
    fixed = ", ".join(dict.fromkeys(_fixed(old, new)))
    errors = [f"{fixed}: {_FIXED}"] if fixed else []
    errors += _errors(old, new, set(waiting).difference(ended))
    errors += [
        f"sources.{source}: was in this run before, under other rules, zones or sinks; give it another name, or "
        "restart the site"
        for source in added
        if source in seen and _treatment(seen[source], source) != _treatment(new, source)
    ]
    errors += [
        f"{name} is still coming to its end; try again in a moment"
        for name, spec in after.items()
        if name in ending and (name not in before or not set(spec.sources).isdisjoint(back))
    ]
    if errors:
        raise ConfigError("\n".join(f"{new.origin}: {error}" for error in errors))
    others = old.values.get("sinks") != new.values.get("sinks")

    def begins_again(spec: StageSpec) -> bool:
        if spec.job == CAPTURE:
            return spec.sources[0] in changed
        if spec.job == INFERENCE:
            return False
        if not set(spec.sources).isdisjoint(back):
            return True
        return spec.job != ANNOTATOR and (others or spec != before[spec.name])

    def is_told(spec: StageSpec) -> bool:
        return spec.job == INFERENCE and (spec != before[spec.name] or not set(spec.sources).isdisjoint(back))

    common = [spec for name, spec in after.items() if name in before]
    return Change(
        added=added,
        removed=[source for source in old.sources if source not in new.sources],
        started=[spec for name, spec in after.items() if name not in before],
        again=[spec for spec in common if begins_again(spec)],
        told=[spec for spec in common if is_told(spec)],
        back=back,
    )


def _treatment(site: Site, source: str) -> Any:
    """What becomes of a source's pictures: its state and files in the run directory are made for that."""
    pipeline = {
        key: value for key, value in _at(site, "pipelines", site.pipeline_of(source)).items() if key != "sources"
    }
    parts = [
        _at(site, section, part)
        for key, section in _PARTS.items()
        for part in ([pipeline[key]] if key == "detector" else pipeline.get(key) or ())
    ]
    return pipeline, parts, is_logged(site, source)


def _fixed(old: Site, new: Site) -> Iterator[str]:
    """What has changed and cannot."""
    for section in (*old.values, *new.values):
        if section not in ("sources", "pipelines", *_PARTS.values()) and _at(old, section) != _at(new, section):
            yield section
    for name in (name for name in new.pipelines if name in old.pipelines):
        was, now = _at(old, "pipelines", name), _at(new, "pipelines", name)
        for key in (*was, *now):
            if key != "sources" and was.get(key) != now.get(key):
                yield f"pipelines.{name}.{key}"
        for key, section in _PARTS.items():
            for part in [now[key]] if key == "detector" else now.get(key) or ():
                if _at(old, section, part) != _at(new, section, part):
                    yield f"{section}.{part}"


def _errors(old: Site, new: Site, reading: Collection[str]) -> Iterator[str]:
    """Sources that cannot change in the way they have."""
    for source in (source for source in new.sources if source in old.sources):
        if old.pipeline_of(source) != new.pipeline_of(source):
            yield f"sources.{source}: goes to another pipeline, which it can only when it has been removed before"
        if source in reading and _source(old, source) != _source(new, source):
            yield f"sources.{source}: is a file that is being read, and cannot change before it has ended"


def _at(site: Site, *path: str) -> Any:
    value: Any = site.values
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _source(site: Site, source: str) -> Any:
    return _at(site, "sources", source)
