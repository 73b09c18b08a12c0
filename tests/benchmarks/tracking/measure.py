"""Measures trackers on scenes with known identities; prints a Markdown table (README.md has the commands).

coverage: share of the looks at a person in which a track lay on the person. switches: looks in which that track is
another than at the look before. mixed: tracks that lay on people who are in the picture at the same time. ids: tracks
reported in two or more looks. The second table has CPU time an update at 5 and at 30 faces, and time and
memory of the import and a first update.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from itertools import permutations
from pathlib import Path

from candidates import CANDIDATES
from scenes import Frame, Scene, detections, recorded, walkers

from pipeline.analytics.association import iou
from pipeline.types import Detections

WEAK_MIN = 0.3
ON_FACE_IOU = 0.3


def looks(scene: Scene, fps: float) -> list[Frame]:
    """The frames of ``scene`` that ``fps`` looks a second would take."""
    taken: list[Frame] = []
    for frame in scene.frames:
        if not taken or frame.time_s - taken[-1].time_s >= 1 / fps - 0.005:
            taken.append(frame)
    return taken


def judge(scene: Scene, name: str, fps: float) -> tuple[int, int, int, int, int]:
    """(looks at people, of them covered, switches, mixed tracks, tracks) of one tracker in one scene."""
    update = CANDIDATES[name](scene.frame_wh, fps)
    total = covered = switches = 0
    last: dict[int, int] = {}
    people_of: dict[int, set[int]] = {}
    together: set[tuple[int, int]] = set()
    seen: dict[int, int] = {}
    for frame in looks(scene, fps):
        tracks = update(frame.time_s, detections(frame.rows, WEAK_MIN))
        for track_id, _ in tracks:
            seen[track_id] = seen.get(track_id, 0) + 1
        together.update(permutations(frame.truth, 2))
        for person, box in frame.truth.items():
            total += 1
            overlap, track_id = max(((iou(box, theirs), i) for i, theirs in tracks), default=(0.0, 0))
            if overlap < ON_FACE_IOU:
                continue
            covered += 1
            switches += last.get(person, track_id) != track_id
            last[person] = track_id
            people_of.setdefault(track_id, set()).add(person)
    mixed = sum(any(pair in together for pair in permutations(people, 2)) for people in people_of.values())
    return total, covered, switches, mixed, sum(count > 1 for count in seen.values())


def cpu_ms(name: str, people: int) -> float:
    """CPU-ms an update: the best of three runs over a made-up scene."""
    scene = walkers(7, people=people, duration_s=8.0)
    given: list[tuple[float, Detections]] = [(f.time_s, detections(f.rows, WEAK_MIN)) for f in scene.frames]
    best = float("inf")
    for _ in range(3):
        update = CANDIDATES[name](scene.frame_wh, 25.0)
        update(-1.0, given[0][1])
        began = time.process_time()
        for time_s, found in given:
            update(time_s, found)
        best = min(best, (time.process_time() - began) * 1000 / len(given))
    return best


_START = """
import time, sys; sys.path[:0] = {path!r}
import numpy
def rss(): return int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6
from pipeline.types import Detections
before, began = rss(), time.perf_counter()
from candidates import CANDIDATES
CANDIDATES[{name!r}]((1280, 720), 25.0)(0.0, Detections.none())
print(time.perf_counter() - began, rss() - before)
"""


def start_cost(name: str) -> tuple[float, float]:
    """(seconds, MB of resident memory) of a first update in a fresh process that has numpy and our types already."""
    code = _START.format(path=[str(Path(__file__).parent), *sys.path], name=name)
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    seconds, megabytes = out.stdout.split()[-2:]
    return float(seconds), float(megabytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recorded", nargs="*", type=Path, help="files made by detect.py")
    parser.add_argument("--only", nargs="*", default=list(CANDIDATES), help="candidates to measure")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    real = [recorded(path) for path in arguments.recorded]
    sets = {"videos": [scene for scene in real if any(frame.truth for frame in scene.frames)]}
    # other seeds than those that the constants of motion.py were chosen on (0 to 7)
    sets["walkers"] = [walkers(seed) for seed in range(100, 108)]
    print("| tracker | scenes | looks/s | coverage | switches | mixed | ids |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.only:
        for label, scenes in sets.items():
            for fps in (25.0, 5.0):
                rows = [judge(scene, name, fps) for scene in scenes]
                total, covered, switches, mixed, ids = (sum(column) for column in zip(*rows, strict=True))
                print(
                    f"| {name} | {label} | {fps:.0f} | {covered / max(total, 1):.3f} | {switches} | {mixed} | {ids} |",
                    flush=True,
                )
    print("\n| tracker | CPU-ms, 5 faces | CPU-ms, 30 faces | first update, s | memory, MB |\n|---|---|---|---|---|")
    for name in arguments.only:
        seconds, megabytes = start_cost(name)
        print(
            f"| {name} | {cpu_ms(name, 5):.3f} | {cpu_ms(name, 30):.3f} | {seconds:.2f} | {megabytes:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
