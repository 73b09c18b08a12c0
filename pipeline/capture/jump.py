"""Going on in the middle of a file without decoding all that lies before, where that is sure to change nothing.

A decoder may leave pictures out (damage) and pictures may depend on earlier ones across key frames, so a jump to
"picture n" is a guess unless it is proven. The proof here, for H.264 and H.265 in MP4 and Matroska:

- Decoded pictures are a rising selection of the timestamps that the packets carry. If the first picture has the first
  timestamp, and picture n - 1 (whose time the caller remembers) the n-th, then nothing in between was left out.
- An IDR picture cuts every dependency. Where, besides, every packet before it is shown before it and every packet
  after it is shown after it, decoding from there gives the same pictures.
- From there on to picture n each timestamp is compared.

Wherever one of these fails there is no jump, and the caller decodes from the beginning.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

_IDR_TYPES = {"h264": frozenset({5}), "hevc": frozenset({19, 20})}
_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")


@dataclass(frozen=True, slots=True)
class Timeline:
    """stamps: when each picture is shown, rising, in the stream's units. cuts: those where decoding may begin."""

    stamps: list[int]
    cuts: list[int]

    def cut_before(self, index: int) -> int:
        """Index of the last picture up to ``index`` where decoding may begin; 0 where there is none."""
        at = bisect_left(self.cuts, self.stamps[index] + 1) - 1 if index < len(self.stamps) else len(self.cuts) - 1
        return bisect_left(self.stamps, self.cuts[at]) if at >= 0 else 0


def scan(container: InputContainer, stream: VideoStream, count: int) -> Timeline | None:
    """Reads packets, without decoding them, until the first ``count`` pictures are known; None where nothing is sure.

    ``container`` is read forward and is of no use afterwards but to be closed.
    """
    codec = stream.codec_context.name
    if codec not in _IDR_TYPES or container.format.name not in _CONTAINERS:
        return None
    length_size = _length_size(codec, stream.codec_context.extradata or b"")
    if length_size is None:
        return None
    stamps: list[int] = []
    cuts: list[int] = []
    highest: int | None = None
    try:
        for packet in container.demux(stream):
            if not packet.size:
                break
            if packet.pts is None or packet.is_corrupt or packet.is_discard:
                return None
            while cuts and packet.pts < cuts[-1]:
                cuts.pop()  # shown before it, although it lies behind it
            later = highest is None or packet.pts > highest
            if later and packet.is_keyframe and _is_idr(bytes(packet), length_size, _IDR_TYPES[codec], codec):
                if len(stamps) > count:
                    break
                cuts.append(packet.pts)
            highest = packet.pts if later else highest
            stamps.append(packet.pts)
    except FFmpegError:
        return None
    stamps.sort()
    distinct = len(set(stamps)) == len(stamps)
    return Timeline(stamps, cuts) if distinct and len(stamps) >= count else None


def _length_size(codec: str, extradata: bytes) -> int | None:
    """How many bytes give each unit's length, as the header in the container says; None where there is no header."""
    at = 4 if codec == "h264" else 21
    return (extradata[at] & 3) + 1 if extradata[:1] == b"\x01" and len(extradata) > at else None


def _is_idr(data: bytes, length_size: int, idr_types: frozenset[int], codec: str) -> bool:
    at = 0
    while at + length_size < len(data):
        length = int.from_bytes(data[at : at + length_size], "big")
        header = data[at + length_size]
        if (header & 31 if codec == "h264" else header >> 1 & 63) in idr_types:
            return True
        at += length_size + length
    return False
