"""Debian's Chromium without a window, watched: what it says on its console and whom it asks."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.shared_data import ROOT

NPM = ROOT / ".venv/npm/node_modules"
"""Where ``tests/run`` puts what the tests need from npm."""


@dataclass
class Seen:
    """complaints: errors and warnings of the page. hosts: that were asked for anything."""

    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A Playwright browser; skips the test where there is none."""
    pytest.importorskip("playwright", reason="playwright is not installed: tests/run does it")
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        found = playwright.chromium.launch(executable_path=chromium, args=options)
        yield found
        found.close()


def watched_page(context: Any) -> tuple[Any, Seen]:
    """A new page of that browser context, and what is seen of it."""
    page, seen = context.new_page(), Seen()
    page.on("console", lambda m: seen.complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("request", lambda request: seen.hosts.add(_host(request.url)))
    page.on("websocket", lambda socket: seen.hosts.add(_host(socket.url)))
    return page, seen


def _host(url: str) -> str:
    match = re.match(r"(?:https?|wss?)://([^/]+)", url)
    return match[1] if match else "here"


def axe_script() -> Path:
    """The accessibility checker; skips the test where it is missing."""
    script = NPM / "axe-core/axe.min.js"
    if not script.is_file():
        pytest.skip("axe-core is missing: tests/run gets it from npm")
    return script


def accessibility_errors(page: Any, script: Path) -> list[str]:
    """What axe finds wrong, by the rules of WCAG 2.2 A and AA and its best practices."""
    # evaluated, not added as an element: the page's own policy allows no other script
    page.evaluate(script.read_text())
    found = page.evaluate("async () => (await axe.run(document)).violations")
    return [f"{v['id']}: {v['help']}: {[n['target'] for n in v['nodes']][:3]}" for v in found]
