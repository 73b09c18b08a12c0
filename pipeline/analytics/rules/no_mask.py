"""Somebody is without a mask: one episode a person, from confirmed to masked, gone or the end (``bare_faces``)."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.analytics.bare_faces import BareFaces, FaceRuleConfig
from pipeline.ulid import IdFactory

KIND = "no_mask"


class Config(FaceRuleConfig):
    """Nothing of its own."""


def create(config: Config, source_id: str, labels: Sequence[str], id_factory: IdFactory) -> BareFaces:
    """The rule for one source whose detector gives ``labels``; raises ``ConfigError`` where it lacks the label."""
    return BareFaces(KIND, config, source_id, labels, id_factory)
