"""One feed for many viewers: whoever is too slow misses frames, and nobody else does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from pipeline.sinks import live
from pipeline.sinks.encoder import Encoder
from pipeline.sinks.live import LivePackets
from pipeline.sinks.sink import Wish
from pipeline.sinks.web.feed import BEHIND_MAX, FRAGMENTS_MAX, Feed, Fragment
from pipeline.types import FrameRef, Layout
from tests.conftest import temporary_base

PATIENCE_S = 30.0


class Annotator:
    """Encodes as the annotator does: what is wanted, a keyframe where one is wanted."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.sink = LivePackets(context, address)
        self.sink.open()
        self._encoder = Encoder(Layout(64, 48))
        self.sink.start(self._encoder.stream)
        self.number = self.encoded = 0

    def frame(self, time_s: float | None = None) -> bool:
        """Returns whether anybody wanted it."""
        at_s = self.number / 25 if time_s is None else time_s
        wish = self.sink.wish(at_s)
        self.number += 1
        if wish is not Wish.NOTHING:
            ref = FrameRef("gate", self.number - 1, 0, at_s, self.number, self.number)
            for packet in self._encoder.encode(ref, keyframe=wish is Wish.KEYFRAME):
                self.sink.write(packet)
                self.encoded += 1
        return wish is not Wish.NOTHING

    async def frames(self, count: int) -> None:
        for _ in range(count):
            self.frame()
            await asyncio.sleep(0.001)

    async def until(self, wanted: bool) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.frame() is not wanted:
                await asyncio.sleep(0.001)


@contextlib.contextmanager
def connected(base: Path) -> Iterator[tuple[Annotator, Feed]]:
    address = live.address(base, "gate")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    messages = zmq.asyncio.Context()
    annotator, feed = Annotator(context, address), Feed(messages, address)
    try:
        yield annotator, feed
    finally:
        feed.close()
        annotator.sink.close()
        messages.destroy(0)
        context.destroy(0)


async def take(fragments: AsyncGenerator[Fragment], annotator: Annotator, count: int) -> list[Fragment]:
    """The next ones, while frames go on."""
    found: list[Fragment] = []

    async def collect() -> None:
        while len(found) < count:
            found.append(await anext(fragments))

    async with asyncio.timeout(PATIENCE_S):
        collecting = asyncio.ensure_future(collect())
        while not collecting.done():
            await annotator.frames(1)
        await collecting
    return found


@pytest.fixture
def base() -> Iterator[Path]:
    with temporary_base() as base:
        yield base


def test_the_first_viewer_starts_the_encoder_and_the_last_one_stops_it(base: Path) -> None:
    async def play() -> None:
        with connected(base) as (annotator, feed):
            await annotator.frames(20)
            assert annotator.encoded == 0
            async with contextlib.aclosing(feed.follow()) as one, contextlib.aclosing(feed.follow()) as other:
                first = await take(one, annotator, 5)
                assert first[0].keyframe
                assert [f.number for f in first] == list(range(first[0].number, first[0].number + 5))
                assert (await take(other, annotator, 1))[0].keyframe
                assert feed.viewers == 2
            await annotator.until(wanted=False)
            encoded = annotator.encoded
            await annotator.frames(20)
            assert annotator.encoded == encoded

    asyncio.run(play())


def test_who_is_too_slow_goes_on_at_a_keyframe_and_memory_has_an_end(base: Path) -> None:
    async def play() -> None:
        with connected(base) as (annotator, feed):
            async with contextlib.aclosing(feed.follow()) as slow, contextlib.aclosing(feed.follow()) as quick:
                before = (await take(slow, annotator, 3))[-1]
                seen = await take(quick, annotator, 2 * FRAGMENTS_MAX)
                assert [f.number for f in seen] == list(range(seen[0].number, seen[0].number + len(seen)))
                assert len(feed._kept) <= FRAGMENTS_MAX
                [after] = await take(slow, annotator, 1)
                assert after.keyframe
                assert after.number > before.number + BEHIND_MAX

    asyncio.run(play())


def test_a_new_annotator_and_a_gap_in_time_leave_no_hole_on_the_players_clock(base: Path) -> None:
    async def play() -> None:
        with connected(base) as (annotator, feed):
            async with contextlib.aclosing(feed.follow()) as fragments:
                seen = await take(fragments, annotator, 5)
                annotator.number += 25 * 3600  # the camera was away for an hour
                seen += await take(fragments, annotator, 5)
                steps = [b.time_s - a.time_s for a, b in pairwise(seen)]
                assert all(0 < step <= 1 for step in steps)

    asyncio.run(play())
