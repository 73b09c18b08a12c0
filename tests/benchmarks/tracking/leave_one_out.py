"""How much of the figures of episodes.py is tuning: each video judged with the settings that are best on all others.

Settings: the confidence that confirms, the memory for a face's class, how far a face may be from where it was lost. The
present ones come first and win ties. Prints what was chosen for each video, and the sum of what they gave.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import NamedTuple

from episodes import Clip, Counts, judge, recorded, row

from pipeline.analytics import bare_faces, tracking


class Setting(NamedTuple):
    confidence_min: float
    class_memory_s: float
    return_distance: float


PRESENT = Setting(0.5, tracking.CLASS_MEMORY_S, bare_faces.RETURN_DISTANCE)
SETTINGS = list(
    dict.fromkeys([PRESENT, *(Setting(*values) for values in product((0.5, 0.4, 0.6), (0.3, 0.5), (1, 2)))])
)


@contextmanager
def applied(setting: Setting) -> Iterator[dict[str, float]]:
    """The constants set; yields what the rule is configured with."""
    before = tracking.CLASS_MEMORY_S, bare_faces.RETURN_DISTANCE
    tracking.CLASS_MEMORY_S, bare_faces.RETURN_DISTANCE = setting.class_memory_s, setting.return_distance
    try:
        yield {"confidence_min": setting.confidence_min}
    finally:
        tracking.CLASS_MEMORY_S, bare_faces.RETURN_DISTANCE = before


def errors(counts: Counts) -> int:
    return counts.false + counts.missed + counts.twice


def judged(clip: Clip, fps: float) -> dict[Setting, Counts]:
    found = {}
    for setting in SETTINGS:
        with applied(setting) as config:
            found[setting] = judge(clip, fps, config=config)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recorded", nargs="+", type=Path, help="files made by detect.py")
    parser.add_argument("--fps", nargs="*", type=float, default=[25.0, 5.0], help="looks a second")
    arguments = parser.parse_args()
    clips = [clip for clip in recorded(arguments.recorded) if ", " not in clip.labels.video]
    for fps in arguments.fps:
        tables = [judged(clip, fps) for clip in clips]
        total, chosen = Counts(), Counter[Setting]()
        for i, table in enumerate(tables):
            others = [other for j, other in enumerate(tables) if j != i]
            best = min(SETTINGS, key=lambda setting: sum(errors(other[setting]) for other in others))
            chosen[best] += 1
            total = total + table[best]
        print(row(f"precision {total.precision:.3f}, recall {total.recall:.3f}", fps, total))
        for setting, times in chosen.items():
            print(f"  {times} times {setting}")


if __name__ == "__main__":
    main()
