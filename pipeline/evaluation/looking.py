"""Runs the product's own detector over labelled pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.capture.convert import Converter
from pipeline.evaluation.dataset import Sample
from pipeline.evaluation.matching import Looked
from pipeline.inference.detector import Detector
from pipeline.inference.picture import read_rgb
from pipeline.types import I420

Through = Literal["rgb", "i420"]

SCORES_FROM = 0.05
"""Detections from here on are part of the curves, as in the reference figures.

Lower down lies the score that AIZOO's networks give to most of their anchors on any background, 0.048: a curve with
those has hits by chance (0.07 more AP), and a hundred times the detections.
"""


def look(
    detector: Detector,
    samples: Sequence[Sample],
    through: Sequence[Through] = ("rgb",),
    in_flight: int = 1,
    done: Callable[[], None] = lambda: None,
) -> list[list[Looked]]:
    """What the detector finds: a list of pictures, in order, for each way in ``through``.

    rgb: pictures as they are, as ``detect`` reads them. i420: as frames of a video would come. in_flight: pictures
    that are looked at side by side. done: called after each. Raises ``ConfigError`` for a picture that cannot be read
    or has another size than its labels say, ``RuntimeFailure`` where the runtime fails.
    """

    def one(sample: Sample) -> list[Looked]:
        image = read_rgb(sample.path)
        height, width = image.shape[:2]
        truth = sample.in_pixels(width, height)
        ways = {"rgb": lambda: detector.detect_rgb(image), "i420": lambda: detector.detect_i420(as_video(image))}
        return [Looked(truth, ways[way](), width, height) for way in through]

    ways: list[list[Looked]] = [[] for _ in through]
    for looked in _in_order(one, samples, in_flight):
        for way, picture in zip(ways, looked, strict=True):
            way.append(picture)
        done()
    return ways


def as_video(image: NDArray[np.uint8]) -> I420:
    """(h, w, 3) uint8 RGB as a decoder's frame would come: 4:2:0 in limited range."""
    return Converter().convert(av.VideoFrame.from_ndarray(image, "rgb24"), None)


def _in_order(
    work: Callable[[Sample], list[Looked]], samples: Sequence[Sample], in_flight: int
) -> Iterator[list[Looked]]:
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="look")
    try:
        yield from pool.map(work, samples)
    finally:
        pool.shutdown(cancel_futures=True)
