"""Takes the README's picture of the live page: ``python -m tests.page_picture`` writes ``tests/data/page.jpg``.

Two cameras show the demo clip (config/demo/README.md says whose it is), the second mirrored and five seconds ahead.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import tempfile
from pathlib import Path

from tests.browser import browser
from tests.conftest import temporary_base
from tests.runs import Program, free_port, wait_until
from tests.shared_data import ROOT

TARGET = ROOT / "tests/data/page.jpg"
SIZE = {"width": 1200, "height": 620}
PATIENCE_MS = 150_000
SITE = """
name: entrance
version: 1
sources:
  gate: {{kind: lavfi, graph: "movie={clip}:loop=0,setpts=N/(25*TB),realtime"}}
  hall: {{kind: lavfi, graph: "movie={clip}:loop=0,trim=start_frame=125,setpts=N/(25*TB),realtime,hflip"}}
detectors: {{mask: {{model: facemask}}}}
rules: {{no_mask: {{kind: no_mask, confirm_s: 0.5, cooldown_s: 1}}}}
sinks:
  page: {{kind: web, bind: "127.0.0.1:{port}"}}
  evidence: {{kind: clips, directory: "{place}/evidence", pre_s: 1, post_s: 1}}
pipelines: {{entrance: {{sources: [gate, hall], detector: mask, rules: [no_mask], sinks: [page, evidence]}}}}
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, temporary_base() as base, browser() as chromium:
        place, port = Path(folder), free_port()
        (place / "site.yaml").write_text(SITE.format(clip=ROOT / "config/demo/demo.mp4", port=port, place=place))
        with Program(place, base, place / "no-models") as program:
            run = program.start("run", place / "site.yaml")
            wait_until(lambda: _answers(port), "the server")
            page = chromium.new_page(viewport=SIZE)
            page.set_default_timeout(PATIENCE_MS)
            page.goto(f"http://127.0.0.1:{port}/")
            for camera in ("gate", "hall"):
                page.wait_for_selector(f"#camera-{camera}.playing")
            page.wait_for_selector("#list li:nth-child(5) img")
            page.wait_for_selector("#chart rect.mask + rect")
            page.screenshot(path=TARGET, type="jpeg", quality=80)
            run.signal(signal.SIGINT)
            run.finish()
    print(f"{TARGET}: {TARGET.stat().st_size / 1e3:.0f} kB", file=sys.stderr)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


if __name__ == "__main__":
    main()
