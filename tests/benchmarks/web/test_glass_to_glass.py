"""How old a picture is when the browser has it on a canvas: ``pytest -m benchmark -s tests/benchmarks/web``."""

from __future__ import annotations

import signal
import statistics
import time
import urllib.request
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.browser import browser
from tests.numbered import pictures_of, write_numbered
from tests.runs import Program, free_port, wait_until
from tests.shared_data import shared

pytestmark = pytest.mark.benchmark

COUNT = 250
OVER_S = 8
SITE = """
name: glass
version: 1
sources: {{gate: {{kind: lavfi, graph: "movie={video}:loop=0,setpts=N/(25*TB),realtime"}}}}
detectors: {{mask: {{model: facemask}}}}
sinks: {{page: {{kind: web, bind: "127.0.0.1:{port}"}}}}
pipelines: {{entrance: {{sources: [gate], detector: mask, detect: {{max_fps: 5}}, sinks: [page]}}}}
"""
WATCH = """async ([selector, seconds]) => {
    const shown = document.querySelector(selector);
    const canvas = document.createElement("canvas");
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const seen = [];
    let last = -1;
    const look = () => {
        canvas.width = shown.videoWidth || shown.naturalWidth;
        canvas.height = shown.videoHeight || shown.naturalHeight;
        context.drawImage(shown, 0, 0);
        const strip = context.getImageData(0, canvas.height - 16, 12 * 16, 1).data;
        let number = 0;
        for (let bit = 0; bit < 12; bit += 1) if (strip[(bit * 16 + 8) * 4] > 128) number += 2 ** bit;
        if (number !== last) seen.push([number, performance.timeOrigin + performance.now()]);
        last = number;
    };
    const end = performance.now() + seconds * 1000;
    while (performance.now() < end) {
        await new Promise(requestAnimationFrame);
        look();
    }
    return seen;
}"""


def test_glass_to_glass(program: Program, tmp_path: Path) -> None:
    pictures = islice(pictures_of(shared("videos/nomask_man_1280x720.mp4"), 1280, 720), COUNT)
    video, port = write_numbered(tmp_path / "numbered.mp4", COUNT, pictures), free_port()
    (program.cwd / "site.yaml").write_text(SITE.format(video=video, port=port))
    run = program.start("run", program.cwd / "site.yaml")
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: _answers(url), "the page")
    with browser() as chromium, run.head("gate") as head:
        for name, selector in (("fMP4", "#camera-gate video"), ("MJPEG", "#mjpeg")):
            page = chromium.new_page()
            page.goto(url if name == "fMP4" else f"{url}/api")
            if name == "fMP4":
                page.wait_for_selector("#camera-gate.playing")
            else:
                page.evaluate("""() => { const image = new Image(); image.id = "mjpeg";
                    image.src = "/api/v1/sources/gate/live.mjpg"; document.body.append(image); }""")
            page.wait_for_timeout(2000)
            seen = page.evaluate(WATCH, [selector, OVER_S])
            print(f"{name}: {_figures(seen, _captured(head))}")
            page.close()
    run.signal(signal.SIGINT)
    assert run.finish().code == 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/api/v1/sources/gate/picture.jpg", timeout=30):
            return True
    except OSError:
        return False


def _captured(head: Any) -> dict[int, float]:
    """Number in the picture → wall clock in milliseconds at which its newest frame was captured."""
    offset_ns = time.time_ns() - time.monotonic_ns()
    newest = head.next_seq
    seqs = range(max(0, newest - COUNT + 10), newest)
    return {seq % COUNT: (head.ref(seq).captured_ns + offset_ns) / 1e6 for seq in seqs}


def _figures(seen: list[tuple[int, float]], captured: dict[int, float]) -> str:
    ages_ms = sorted(at - captured[number] for number, at in seen if number in captured)
    p95 = ages_ms[int(0.95 * len(ages_ms))]
    return f"p50 {statistics.median(ages_ms):.0f} ms, p95 {p95:.0f} ms, {len(ages_ms) / OVER_S:.1f} pictures a second"
