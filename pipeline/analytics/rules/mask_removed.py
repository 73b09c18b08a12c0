"""Somebody who wore a mask no longer does: as ``no_mask``, but only of faces seen with a mask for ``worn_s`` before."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from pipeline.analytics.bare_faces import BareFaces, FaceRuleConfig
from pipeline.ulid import IdFactory

KIND = "mask_removed"


class Config(FaceRuleConfig):
    """worn_s: how long a mask must have been seen before it can be said to be removed."""

    worn_s: float = Field(default=1.0, gt=0)


def create(config: Config, source_id: str, labels: Sequence[str], id_factory: IdFactory) -> BareFaces:
    """The rule for one source whose detector gives ``labels``; raises ``ConfigError`` where it lacks the label."""
    return BareFaces(KIND, config, source_id, labels, id_factory, worn_s=config.worn_s)
