"""Playlists of HTTP Live Streaming (RFC 8216)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """One finished file. header: its initialisation segment. anew: it does not go on where the one before ended."""

    name: str
    header: str
    duration_s: float
    anew: bool


def playlist(segments: Sequence[Segment], *, first: int, breaks: int, ended: bool) -> str:
    """first: the number of the first segment. breaks: how many segments began anew up to it."""
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        f"#EXT-X-TARGETDURATION:{max([1, *(round(segment.duration_s) for segment in segments)])}",
        f"#EXT-X-MEDIA-SEQUENCE:{first}",
        f"#EXT-X-DISCONTINUITY-SEQUENCE:{breaks}",
    ]
    header = ""
    for segment in segments:
        if segment.anew and header:
            lines.append("#EXT-X-DISCONTINUITY")
        if segment.header != header:
            header = segment.header
            lines.append(f'#EXT-X-MAP:URI="{header}"')
        lines += [f"#EXTINF:{segment.duration_s:.5f},", segment.name]
    if ended:
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"
