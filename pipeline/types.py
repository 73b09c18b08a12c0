"""What flows through the pipeline.

Messages (``FrameRef``, ``Track``, ``Result``, ``Event``, ``Health``) are frozen msgspec structs: one definition serves
the code, the bytes and the validation of what comes off the wire. Arrays live in frozen dataclasses that check
themselves at birth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Matrix = Literal["bt601", "bt709", "bt2020"]
Phase = Literal["new", "update", "end"]
EvidenceKind = Literal["crop", "snapshot", "clip"]

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""What is taken for a picture in a folder: FFmpeg and OpenCV read them all."""
SourceState = Literal["connecting", "live", "stalled", "backing_off", "ended"]
"""How a live source stands. stalled: connected, but nothing has come for the read deadline. backing_off: lost, and
waiting for the next attempt. ended: asked to stop. Files have no state."""
SourceReason = Literal[
    "", "refused", "unreachable", "unauthorised", "no such stream", "timeout", "decode", "ended", "no device",
    "packet_loss", "not video", "failed", "crashed",
]  # fmt: skip
"""Why a source is in its state, in words that people understand; ``packet_loss`` also while it is live."""
SKIP_CAUSES = ("overload", "expired", "corrupt", "rate", "failed", "still")
"""Why a frame was not looked at, in the order in which they are counted in shared memory."""
EVIDENCE_NUMBERS = 1 << 16
"""Updates of an episode that tell of its evidence are numbered from here on, those of the rules below."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a picture's pixels are to be read: size in pixels, colour matrix and range, sample aspect ratio.

    Rotation is already applied. Chroma planes are ``ceil(width / 2)`` by ``ceil(height / 2)``.
    """

    width: int
    height: int
    matrix: Matrix = "bt601"
    full_range: bool = False
    sample_aspect: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        if not (0 < self.width <= 16384 and 0 < self.height <= 16384):
            raise ValueError(f"a picture of {self.width}x{self.height} pixels is not possible here (1 to 16384 each)")

    @property
    def chroma_width(self) -> int:
        return (self.width + 1) // 2

    @property
    def chroma_height(self) -> int:
        return (self.height + 1) // 2

    @property
    def nbytes(self) -> int:
        """Bytes of one I420 picture without padding."""
        return self.width * self.height + 2 * self.chroma_width * self.chroma_height


@dataclass(frozen=True, slots=True)
class I420:
    """One 8-bit 4:2:0 picture as three planes; the planes may be strided views into memory owned by somebody else.

    y: (height, width) uint8; u, v: (ceil(height / 2), ceil(width / 2)) uint8.
    """

    y: NDArray[np.uint8]
    u: NDArray[np.uint8]
    v: NDArray[np.uint8]
    layout: Layout

    def __post_init__(self) -> None:
        luma = (self.layout.height, self.layout.width)
        chroma = (self.layout.chroma_height, self.layout.chroma_width)
        if self.y.shape != luma or self.u.shape != chroma or self.v.shape != chroma:
            raise ValueError(f"planes {self.y.shape} {self.u.shape} {self.v.shape} do not fit {luma} with {chroma}")

    @classmethod
    def view(cls, buffer: NDArray[np.uint8], layout: Layout) -> I420:
        """The three planes lying one behind the other in a flat uint8 ``buffer`` of at least ``layout.nbytes``."""
        luma, chroma = layout.width * layout.height, layout.chroma_width * layout.chroma_height
        shape = (layout.chroma_height, layout.chroma_width)
        return cls(
            buffer[:luma].reshape(layout.height, layout.width),
            buffer[luma : luma + chroma].reshape(shape),
            buffer[luma + chroma : luma + 2 * chroma].reshape(shape),
            layout,
        )

    @classmethod
    def empty(cls, layout: Layout) -> I420:
        return cls.view(np.empty(layout.nbytes, np.uint8), layout)

    def copy_to(self, target: I420) -> None:
        """Copies the pixels into ``target``, which has the same size."""
        target.y[:] = self.y
        target.u[:] = self.u
        target.v[:] = self.v


@dataclass(frozen=True, slots=True)
class Picture:
    """What a source hands out: one decoded picture and its place on the source's own clock.

    image: views into the decoder's memory, good until the next ``read``.
    time_s: seconds, strictly increasing within a source.
    corrupt: the decoder knows that the picture is damaged.
    """

    image: I420
    time_s: float
    corrupt: bool = False


@dataclass(frozen=True, slots=True)
class Detections:
    """Faces found in one frame, as a struct of arrays.

    xyxy: (n, 4) float32, pixels of the source frame. confidence: (n,) float32 in 0..1. class_id: (n,) int32.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int32]

    def __post_init__(self) -> None:
        n = len(self.xyxy)
        if self.xyxy.shape != (n, 4) or self.confidence.shape != (n,) or self.class_id.shape != (n,):
            raise ValueError(
                f"detections need (n, 4), (n,), (n,), not "
                f"{self.xyxy.shape}, {self.confidence.shape}, {self.class_id.shape}"
            )

    def __len__(self) -> int:
        return len(self.xyxy)

    @classmethod
    def none(cls) -> Detections:
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))


class FrameRef(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Names one frame; the pixels are in the source's ring.

    time_s: the source's analytic clock, strictly increasing, also across reconnects.
    captured_ns: monotonic clock, for ages and latencies. wall_ns: wall clock, for people and file names.
    """

    source_id: str
    seq: int
    generation: int
    time_s: float
    captured_ns: int
    wall_ns: int


class Track(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One face followed over time, as it stands in one frame.

    id: never reused within a run. class_id: smoothed over the track. confidence: of its newest detection.
    xyxy: pixels of the source frame. detected: found in this very frame, not carried forward.
    """

    id: int
    class_id: int
    confidence: float
    xyxy: tuple[float, float, float, float]
    detected: bool


class Result(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What inference says of one frame; there is one for every frame, in order.

    detected: the detector looked at this frame. reason: one of ``SKIP_CAUSES`` where it did not.
    """

    frame: FrameRef
    tracks: tuple[Track, ...]
    detected: bool
    reason: str | None = None


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file that shows an episode, whole and closed. path: absolute. sha256: of its bytes, hexadecimal."""

    kind: EvidenceKind
    path: str
    bytes: int
    sha256: str


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One phase in the life of an episode, as a rule says it.

    id: a ULID, the same for every phase of one episode. t_start, t_end: UTC, RFC 3339.
    stream_s: the source's clock at this phase, t_update: the same moment in UTC.
    confidence: of the newest sure look, confidence_best: the highest of the episode.
    reason: why the episode ended; of a lost source, why it was lost.
    number: tells the updates of one episode apart (1, 2, …); those about evidence count from ``EVIDENCE_NUMBERS``.
    zone: in which the rule looked. faces: found there at this phase. share: of them without a mask, where a rule
    looks at many. model, model_sha256: which network in which file said so. evidence: what is ready by this update.
    lost: of kind ``events_lost``, how many events there was no room for.
    """

    id: str
    phase: Phase
    kind: str
    source: str
    track: int | None
    t_start: str
    t_end: str | None
    stream_s: float
    confidence: float
    reason: str | None = None
    number: int = 0
    t_update: str | None = None
    confidence_best: float | None = None
    zone: str | None = None
    faces: int | None = None
    share: float | None = None
    model: str | None = None
    model_sha256: str | None = None
    evidence: tuple[Evidence, ...] = ()
    lost: int | None = None


class Health(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a stage tells the supervisor once a second.

    state: ``starting``, ``running``, ``draining`` or ``done``. counters: since this process began.
    """

    stage: str
    pid: int
    state: str
    beat: int
    counters: dict[str, float]
