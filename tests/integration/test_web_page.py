"""The live page in a real browser, in front of a real site with two looped cameras."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.browser import Seen, accessibility_errors, axe_script, browser, watched_page
from tests.conftest import MODEL, temporary_base
from tests.media import moving
from tests.numbered import PICTURE_HEIGHT, WIDTH, pictures_of, write_numbered
from tests.runs import Program, Run, free_port, processes_with, wait_until
from tests.shared_data import shared

MS = 30_000
GREY_WITHIN_S = 6.0
SITE = """
name: looped
version: 1
sources:
  gate: {{kind: lavfi, graph: "movie={face}:loop=0,setpts=N/(25*TB),realtime"}}
  yard: {{kind: lavfi, graph: "movie={plain}:loop=0,setpts=N/(25*TB),realtime"}}
detectors: {{mask: {{model: {model}}}}}
rules: {{no_mask: {{kind: no_mask, confirm_s: 0.2, cooldown_s: 1}}}}
sinks:
  page: {{kind: web, bind: "127.0.0.1:{port}"}}
  evidence: {{kind: clips, directory: "{place}/evidence", pre_s: 1, post_s: 1}}
pipelines: {{entrance: {{sources: [gate, yard], detector: mask, rules: [no_mask], sinks: [page, evidence]}}}}
"""


class Watched:
    """A running site and its page's address."""

    def __init__(self, run: Run, base: Path, port: int) -> None:
        self.run = run
        self._base = base
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1{path}", timeout=30) as answer:
            return json.load(answer)

    def stage(self, name: str) -> int:
        """The process of that stage."""
        return next(pid for pid, its in processes_with(self._base).items() if its == name)

    def up(self) -> bool:
        assert not self.run.over, self.run.finish()
        try:
            return bool(self.get("/health")["healthy"])
        except OSError:
            return False


@pytest.fixture(scope="module")
def visitor_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbered frames: a man without a mask for two seconds, then nobody for three."""
    there = islice(pictures_of(shared("videos/nomask_man_1280x720.mp4")), 50)
    gone = (moving(i, WIDTH, PICTURE_HEIGHT) for i in range(75))
    return write_numbered(tmp_path_factory.mktemp("videos") / "visitor.mp4", 125, chain(there, gone))


@pytest.fixture(scope="module")
def site(
    visitor_video: Path, plain_video: Path, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    place, port = tmp_path_factory.mktemp("site"), free_port()
    config = place / "site.yaml"
    config.write_text(SITE.format(place=place, face=visitor_video, plain=plain_video, model=MODEL, port=port))
    with temporary_base() as base, Program(place, base, models_dir) as program:
        watched = Watched(program.start("run", config), base, port)
        wait_until(watched.up, "the page with both cameras live")
        yield watched
        watched.run.signal(signal.SIGINT)
        outcome = watched.run.finish()
        assert outcome.code == 0, outcome.stderr
        assert outcome.errors == []


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture
def page(chromium: Any, site: Watched) -> Iterator[tuple[Any, Seen]]:
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(MS)
    page, seen = watched_page(context)
    yield page, seen
    context.close()


def number_at(page: Any, camera: str) -> int | None:
    """The frame's number as it stands in the pixels of the camera's video (tests/numbered.py)."""
    return page.evaluate(  # type: ignore[no-any-return]
        """([camera]) => {
            const video = document.querySelector(`#camera-${camera} video`);
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
            const context = canvas.getContext("2d", { willReadFrequently: true });
            context.drawImage(video, 0, 0);
            let number = 0;
            for (let bit = 0; bit < 12; bit += 1) {
                const [level] = context.getImageData(bit * 16 + 8, canvas.height - 16, 1, 1).data;
                if (level > 128) number += 2 ** bit;
            }
            return number;
        }""",
        [camera],
    )


def opened(page: Any, site: Watched, path: str = "/") -> None:
    page.goto(f"{site.url}{path}")
    page.wait_for_selector("#camera-gate.playing")


def test_pictures_come_within_a_second_and_move(page: tuple[Any, Seen], site: Watched) -> None:
    view, seen = page
    started_s = time.monotonic()
    opened(view, site)
    took_s = time.monotonic() - started_s
    view.wait_for_selector("#camera-yard.playing")
    numbers: set[int | None] = set()

    def many() -> bool:
        numbers.add(number_at(view, "yard"))
        return len(numbers) > 5

    wait_until(many, "pictures that move")
    assert view.locator("#camera-gate .word").text_content() == "Live"
    wait_until(lambda: "behind" in view.locator("#camera-gate .figures").text_content(), "its latency")
    assert seen.complaints == []
    assert seen.hosts <= {site.url.removeprefix("http://"), "here"}
    assert took_s < 10  # a second where nothing else runs


def test_nothing_is_encoded_while_nobody_looks(page: tuple[Any, Seen], site: Watched) -> None:
    view, _ = page
    opened(view, site)
    wait_until(lambda: site.get("/health")["viewers"] == {"gate": 1, "yard": 1}, "two viewers")
    view.goto("about:blank")
    wait_until(lambda: site.get("/health")["viewers"] == {"gate": 0, "yard": 0}, "no viewer")


def test_a_camera_alone_by_click_and_by_address(page: tuple[Any, Seen], site: Watched) -> None:
    view, seen = page
    opened(view, site)
    view.click("#camera-gate .stage")
    view.wait_for_selector("#camera-yard", state="hidden")
    assert view.url.endswith("#/camera/gate")
    view.keyboard.press("ArrowRight")
    view.wait_for_selector("#camera-yard.playing")
    view.wait_for_selector("#camera-gate", state="hidden")
    wait_until(lambda: site.get("/health")["viewers"]["gate"] == 0, "that the hidden one is not sent")
    view.keyboard.press("Escape")
    view.wait_for_selector("#camera-gate.playing")
    view.goto(f"{site.url}/#/camera/nobody")
    view.wait_for_selector("#none:not([hidden])")
    assert seen.complaints == []


def test_events_come_by_themselves_and_filters_sort_them_out(page: tuple[Any, Seen], site: Watched) -> None:
    view, _ = page
    opened(view, site)
    view.wait_for_selector(".event")
    newest = site.get("/events?limit=1")[0]["seq"]
    wait_until(lambda: site.get("/events?limit=1")[0]["seq"] > newest, "another event")
    came_s = time.monotonic()
    episode = site.get("/events?limit=1")[0]["id"]
    view.wait_for_selector(f'.event[data-id="{episode}"]', state="attached")
    assert time.monotonic() - came_s < 5  # a second where nothing else runs
    assert view.locator(".event .title").first.text_content() == "No mask"
    view.select_option('[name="source"]', "yard")
    view.wait_for_selector("#no-events:not([hidden])")
    view.select_option('[name="source"]', "gate")
    view.select_option('[name="kind"]', "no_mask")
    view.select_option('[name="period"]', "3600")
    view.wait_for_selector(".event")
    view.locator(".event").first.click()
    view.wait_for_selector("#details[open]")
    assert "gate" in (view.locator("#details").text_content() or "")
    view.keyboard.press("Escape")
    view.wait_for_selector("#details", state="hidden")


def test_an_event_shows_its_clip(page: tuple[Any, Seen], site: Watched) -> None:
    view, seen = page
    opened(view, site)
    wait_until(lambda: any(item["kind"] == "clip" for item in site.get("/clips")), "a clip")
    view.locator(".event", has_text="clip").first.click()
    video = view.locator("#evidence video")
    wait_until(lambda: video.evaluate("video => video.currentTime > 0.3 && video.videoWidth"), "a clip that plays")
    assert video.evaluate("video => video.duration") > 2  # what came before and behind is in it
    assert view.locator("#face img").evaluate("image => image.naturalWidth") > 0
    assert seen.complaints == []


def test_a_camera_that_is_held_greys_and_comes_back(page: tuple[Any, Seen], site: Watched) -> None:
    view, seen = page
    opened(view, site)
    pid = site.stage("capture/gate")
    os.kill(pid, signal.SIGSTOP)
    held_s = time.monotonic()
    try:
        view.wait_for_selector("#camera-gate.down")
        greyed_s = time.monotonic() - held_s
        assert view.locator("#camera-gate .reason").text_content() == "No picture comes"
        assert view.locator("#camera-yard.down").count() == 0
    finally:
        os.kill(pid, signal.SIGCONT)
    view.wait_for_selector("#camera-gate:not(.down)")
    first = number_at(view, "gate")
    wait_until(lambda: number_at(view, "gate") != first, "pictures that move again")
    assert greyed_s < 2 * GREY_WITHIN_S  # within GREY_WITHIN_S where nothing else runs
    assert seen.complaints == []


def test_the_page_survives_a_restart_of_the_server(page: tuple[Any, Seen], site: Watched) -> None:
    view, _ = page
    opened(view, site)
    shown = view.locator(".event").count()
    pid = site.stage("viewer/page")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: (site.run.stage_pid("viewer") or pid) != pid, "another server")
    wait_until(site.up, "its answer")
    wait_until(lambda: site.get("/health")["viewers"]["gate"] == 1, "the page's return")
    view.wait_for_selector("#lost", state="hidden")
    first = number_at(view, "gate")
    wait_until(lambda: number_at(view, "gate") != first, "pictures that move again")
    assert view.locator(".event").count() >= shown


@pytest.mark.parametrize("path", ["/", "/#/camera/gate", "/api"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width_px", [390, 1280])
def test_everybody_can_use_it(chromium: Any, site: Watched, path: str, scheme: str, width_px: int) -> None:
    script = axe_script()
    context = chromium.new_context(viewport={"width": width_px, "height": 800}, color_scheme=scheme)
    context.set_default_timeout(MS)
    view, seen = watched_page(context)
    view.goto(f"{site.url}{path}")
    view.wait_for_selector(".card h2" if path == "/api" else ".event")
    assert accessibility_errors(view, script) == []
    assert view.evaluate("document.documentElement.scrollWidth") <= width_px
    context.close()
    assert seen.complaints == []


def test_the_page_is_small(site: Watched) -> None:
    from pipeline.sinks.web.app import PAGE

    assert sum(path.stat().st_size for path in PAGE.rglob("*") if path.is_file()) < 200_000


def test_a_browser_without_media_source_gets_pictures(chromium: Any, site: Watched) -> None:
    context = chromium.new_context()
    context.set_default_timeout(MS)
    context.add_init_script("delete window.MediaSource; delete window.ManagedMediaSource;")
    view, seen = watched_page(context)
    opened(view, site)
    source = view.locator("#camera-gate .still").get_attribute("src")
    wait_until(lambda: view.locator("#camera-gate .still").get_attribute("src") != source, "another picture")
    view.goto(f"{site.url}/#/camera/gate")
    wait_until(lambda: "live.mjpg" in view.locator("#camera-gate .still").get_attribute("src"), "a stream of pictures")
    context.close()
    assert seen.complaints == []


def test_the_api_answers_as_its_description_says(site: Watched) -> None:
    described = site.get("/openapi.json")
    wait_until(lambda: bool(site.get("/clips")), "evidence")
    lists = {"/sources": "Source", "/events": "Event", "/clips": "Clip"}
    for path, name in {**lists, "/health": "Health", "/counts": "Counts", "/sources/gate": "Source"}.items():
        answer = site.get(path)
        assert answer
        for one in answer if path in lists else [answer]:
            jsonschema.validate(
                one, {**described["components"]["schemas"][name], "components": described["components"]}
            )
    assert site.get("/recordings") == []


def test_every_address_is_described(site: Watched) -> None:
    from pipeline.sinks.web.app import Pages

    described = {f"/api/v1{path}" for path in site.get("/openapi.json")["paths"]}
    routes = {str(getattr(route, "path", "")) for route in Pages.routes(_Anything())}  # type: ignore[arg-type]
    assert {path for path in routes if path.startswith("/api/v1")} == described


class _Anything:
    """Has every handler."""

    def __getattr__(self, name: str) -> Any:
        async def handler(_: Any) -> None: ...

        return handler
