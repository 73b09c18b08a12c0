"""What stands behind the video on the live page, in a real browser: a still of the picture's own shape, or nothing."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import yaml

from tests.browser import browser, watched_page
from tests.cameras import site
from tests.numbered import SQUARE
from tests.rtsp_server import RtspServer, film
from tests.runs import PATIENCE_S, Program, free_port, wait_until


def shapes(page: Any) -> list[list[int]]:
    """Width and height of the camera's video and of the still behind it."""
    return page.evaluate(  # type: ignore[no-any-return]
        """() => {
            const [video, still] = ["video", ".still"].map((part) => document.querySelector(`#camera-gate ${part}`));
            return [[video.videoWidth, video.videoHeight], [still.naturalWidth, still.naturalHeight]];
        }"""
    )


def test_a_still_is_of_the_shape_of_the_video_and_asked_for_where_there_is_one(
    bare_program: Program, tmp_path: Path
) -> None:
    """A camera changes its shape while somebody looks; another one never had a picture."""
    wide, square = [640, 360], [352, 288]
    films = [film(tmp_path / f"{w}.mp4", 1, size=(w, h - 2 * SQUARE)) for w, h in (wide, square)]
    port = free_port()
    with RtspServer({"one": films}) as server, browser() as chromium:
        cameras = {"gate": {"url": server.url("one")}, "porch": {"url": f"rtsp://127.0.0.1:{free_port()}/one"}}
        path = site(bare_program.cwd, cameras, record=False)
        values = yaml.safe_load(path.read_text())
        values["sinks"]["page"] = {"kind": "web", "bind": f"127.0.0.1:{port}"}
        values["pipelines"]["all"]["sinks"].append("page")
        path.write_text(yaml.safe_dump(values))
        run = bare_program.start("run", path)
        with run.head("gate") as head:
            wait_until(lambda: head.next_seq > 0, "a picture")
        context = chromium.new_context()
        context.set_default_timeout(PATIENCE_S * 1000)
        page, seen = watched_page(context)
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("#camera-gate.playing")
        wait_until(lambda: shapes(page) == [wide, wide], "a still of the first shape")
        server.show("one", 1)
        wait_until(lambda: shapes(page)[0] == square, "video of the other shape")
        wait_until(lambda: shapes(page)[1] == square, "a still of the other shape")
        assert page.locator("#camera-porch .still").get_attribute("src") is None
        assert seen.complaints == []
        context.close()
        run.signal(signal.SIGINT)
        assert run.finish().code == 0
