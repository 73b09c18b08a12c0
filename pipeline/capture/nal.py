"""NAL units of H.264 and H.265 as sources send them, and the parameter sets that a container holds."""

from __future__ import annotations

import struct
from collections.abc import Iterator

PARAMETER_SETS = {"h264": (7, 8), "hevc": (32, 33, 34)}
"""The types of NAL units that a decoder needs before the first picture."""


def annex_b(data: bytes) -> Iterator[bytes]:
    """Between start codes."""
    units = (unit.rstrip(b"\0") for unit in data.split(b"\0\0\1")[1:])
    return (unit for unit in units if unit)


def prefixed(data: bytes, size: int) -> Iterator[bytes]:
    """Behind their lengths, of ``size`` bytes each."""
    position = 0
    while position + size < len(data):
        length = int.from_bytes(data[position : position + size], "big")
        if length:
            yield data[position + size : position + size + length]
        position += size + length


def read_avc_configuration(record: bytes) -> tuple[int, tuple[bytes, ...]]:
    """An AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1): size of the lengths, parameter sets."""
    sets: list[bytes] = []
    position = 5
    for mask in (31, 255):
        number = record[position] & mask
        position += 1
        for _ in range(number):
            (length,) = struct.unpack_from(">H", record, position)
            sets.append(record[position + 2 : position + 2 + length])
            position += 2 + length
    return (record[4] & 3) + 1, tuple(sets)


def read_hevc_configuration(record: bytes) -> tuple[int, tuple[bytes, ...]]:
    """An HEVCDecoderConfigurationRecord (8.3.3.1), likewise."""
    sets: list[bytes] = []
    position = 23
    for _ in range(record[22]):
        kind, number = struct.unpack_from(">BH", record, position)
        position += 3
        for _ in range(number):
            (length,) = struct.unpack_from(">H", record, position)
            if kind & 63 in PARAMETER_SETS["hevc"]:
                sets.append(record[position + 2 : position + 2 + length])
            position += 2 + length
    return (record[21] & 3) + 1, tuple(sets)
