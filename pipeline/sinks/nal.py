"""NAL units of H.264 and H.265, and what a file says of them to decoders (ISO/IEC 14496-15)."""

from __future__ import annotations

_HIGH_PROFILES = {100, 110, 122, 244}
_HEVC_SETS = (32, 33, 34)
"""VPS, SPS, PPS."""


def nal_units(annex_b: bytes) -> list[bytes]:
    """What stands between the start codes (H.264 Annex B); a NAL unit holds no start code and ends in no zero byte."""
    return [unit.rstrip(b"\0") for unit in annex_b.split(b"\0\0\1")[1:]]


def avc_configuration(extradata: bytes) -> bytes:
    """Annex B parameter sets as an AVCDecoderConfigurationRecord (14496-15, 5.3.3.1) with four-byte lengths."""
    units = nal_units(extradata)
    sequence = [unit for unit in units if unit[0] & 31 == 7]
    picture = [unit for unit in units if unit[0] & 31 == 8]
    profile = sequence[0][1:4]
    record = [b"\1", profile, b"\xff", bytes([0xE0 | len(sequence)])]
    record += [len(unit).to_bytes(2, "big") + unit for unit in sequence]
    record += [bytes([len(picture)]), *(len(unit).to_bytes(2, "big") + unit for unit in picture)]
    if profile[0] in _HIGH_PROFILES:
        record.append(b"\xfd\xf8\xf8\0")  # 4:2:0, eight bits
    return b"".join(record)


def hevc_configuration(extradata: bytes) -> bytes:
    """Annex B parameter sets as an HEVCDecoderConfigurationRecord (14496-15, 8.3.3.1) with four-byte lengths."""
    units = nal_units(extradata)
    sets = [[unit for unit in units if unit[0] >> 1 & 63 == kind] for kind in _HEVC_SETS]
    # behind the unit's header and one more byte: profile, tier, level (H.265, 7.3.3)
    profile = sets[1][0].replace(b"\0\0\3", b"\0\0")[3:15]
    # no segmentation, parallelism unknown, 4:2:0, eight bits (decoders look into the SPS), rate unknown, one layer
    record = [b"\1", profile, b"\xf0\0\xfc\xfd\xf8\xf8\0\0\x0f", bytes([len(_HEVC_SETS)])]
    for kind, found in zip(_HEVC_SETS, sets, strict=True):
        record.append(bytes([0x80 | kind]) + len(found).to_bytes(2, "big"))
        record += [len(unit).to_bytes(2, "big") + unit for unit in found]
    return b"".join(record)
