"""A sender of MPEG-TS in datagrams, a process of its own: its clock is not the reader's.

``python -m tests.datagrams FILM PORT [--rtp] [--lossy NUMBER …]``, until it is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av

from tests.runs import ROOT


@contextlib.contextmanager
def sending(path: Path, port: int, *, rtp: bool = False, lossy: Collection[int] = ()) -> Iterator[None]:
    """A film round and round at its own speed, to whoever listens there; of each packet of video whose number in the
    film is in ``lossy`` the first datagram gets lost.
    """
    how = [*(["--rtp"] if rtp else []), *(["--lossy", *map(str, lossy)] if lossy else [])]
    command = [sys.executable, "-m", "tests.datagrams", str(path), str(port), *how]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield
            assert process.poll() is None, "the sender has ended by itself"
        finally:
            process.kill()


def free_datagram_port() -> int:
    """A UDP port that nobody uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Datagrams:
    """Sends what is written to it in datagrams of seven TS packets, for ``rtp`` with RTP's header; the next
    ``lose_next`` of them get lost on the way.
    """

    def __init__(self, port: int, *, rtp: bool) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._where = ("127.0.0.1", port)
        self._rtp = rtp
        self._number = 0
        self.lose_next = 0

    def write(self, data: bytes) -> int:
        for start in range(0, len(data), 7 * 188):
            self._number += 1
            if self.lose_next:
                self.lose_next -= 1
                continue
            ticks = round(time.monotonic() * 90_000) & 0xFFFFFFFF
            header = struct.pack(">BBHII", 0x80, 33, self._number & 0xFFFF, ticks, 1) if self._rtp else b""
            self._socket.sendto(header + data[start : start + 7 * 188], self._where)
        return len(data)


def send(path: Path, out: Datagrams, lossy: Collection[int]) -> None:
    """Does not return."""
    began_s = time.monotonic()
    with av.open(str(path)) as given:
        packets = [packet for packet in given.demux(video=0) if packet.dts is not None]
        options = {"flush_packets": "1", "pat_period": "0.2"}
        with av.open(cast("Any", out), "w", format="mpegts", options=options) as made:
            stream = made.add_stream_from_template(given.streams.video[0])
            sent = 0
            while True:
                packet, number = packets[sent % len(packets)], sent % len(packets)
                time.sleep(max(0.0, began_s + sent / 25 - time.monotonic()))
                out.lose_next = int(number in lossy)
                copy = av.Packet(bytes(packet))
                copy.stream, copy.time_base, copy.is_keyframe = stream, Fraction(1, 25), packet.is_keyframe
                copy.pts = copy.dts = sent
                made.mux(copy)
                sent += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("film", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--rtp", action="store_true")
    parser.add_argument("--lossy", type=int, nargs="*", default=[])
    options = parser.parse_args()
    send(options.film, Datagrams(options.port, rtp=options.rtp), options.lossy)
