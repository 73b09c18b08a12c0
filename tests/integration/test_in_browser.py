"""The page without a server: it must find what Python finds, on the same pixels."""

from __future__ import annotations

import base64
import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from models.in_browser.build import MODEL, build
from pipeline.errors import StartupError
from pipeline.inference.detector import build_detector
from tests.browser import NPM, accessibility_errors, axe_script, browser, watched_page
from tests.shared_data import shared

PICTURES = ("aizoo_demo.png", "aizoo_demo2.jpg", "aizoo_face.png")
DETECT = """async ([pixels, width, height]) => {
    const bytes = Uint8ClampedArray.from(atob(pixels), (c) => c.charCodeAt(0));
    return await window.detector.detect(new ImageData(bytes, width, height));
}"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Any server of files will do."""
    if not (NPM / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is missing: tests/run gets it from npm")
    page = build(tmp_path_factory.mktemp("page"), NPM)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(page)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


def test_it_finds_what_python_finds(address: str, chromium: Any) -> None:
    context = chromium.new_context()
    page, seen = watched_page(context)
    page.goto(address)
    page.wait_for_selector("#camera:not([disabled])", timeout=60_000)
    detector = build_detector(MODEL)
    found_any = 0
    for name in PICTURES:
        bgr = cv2.imread(str(shared(f"images/{name}")))
        assert bgr is not None
        rgba = np.ascontiguousarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA))
        height, width = rgba.shape[:2]
        faces = page.evaluate(DETECT, [base64.b64encode(rgba.tobytes()).decode(), width, height])
        expected = detector.detect_rgb(np.ascontiguousarray(rgba[..., :3]))
        assert [face["label"] for face in faces] == [detector.labels[c] for c in expected.class_id]
        np.testing.assert_allclose([face["confidence"] for face in faces], expected.confidence, atol=0.01)
        np.testing.assert_allclose(np.reshape([face["box"] for face in faces], (-1, 4)), expected.xyxy, atol=1.0)
        found_any += len(faces)
    assert found_any >= 4
    detector.close()
    assert seen.complaints == []
    assert seen.hosts <= {address.removeprefix("http://"), "here"}
    context.close()


def test_people_choose_a_picture_and_see_boxes(address: str, chromium: Any) -> None:
    context = chromium.new_context()
    page, seen = watched_page(context)
    page.goto(address)
    page.wait_for_selector("#picture:not([disabled])", timeout=60_000)
    page.set_input_files("#picture", shared("images/aizoo_demo2.jpg"))
    page.wait_for_selector("#said:has-text('without')", timeout=60_000)
    page.set_input_files("#picture", {"name": "no.png", "mimeType": "image/png", "buffer": b"nothing"})
    page.wait_for_selector("#said:has-text('not a picture')", timeout=60_000)
    assert accessibility_errors(page, axe_script()) == []
    assert seen.complaints == []
    context.close()


def test_a_folder_without_the_runtime_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"ort\.wasm\.min\.mjs is missing"):
        build(tmp_path / "page", tmp_path)
