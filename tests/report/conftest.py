"""Fixtures that open the page in the machine's Chromium with Playwright. Tests skip if either is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparsing.cli import main

from .page_results import save_comparison, save_evaluation, save_law, save_measurements, save_study


@pytest.fixture(scope="session")
def whole_report(tmp_path_factory) -> Path:
    """A page with all parts: measures, checkpoints, rules, a law, two studies of neurons, an evaluation."""
    folder = tmp_path_factory.mktemp("report")
    save_measurements(folder / "measured")
    save_comparison(folder / "compared")
    save_law(folder / "law")
    save_study(folder / "neurons" / "one")
    save_study(folder / "neurons" / "two", seed=5)
    save_evaluation(folder / "evaluated")
    runs = [str(folder / name) for name in ("measured", "compared", "law", "neurons", "evaluated")]
    assert main(["report", *runs, "-o", str(folder / "report.html")]) == 0
    return folder / "report.html"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium; `SPARSING_CHROMIUM` names another binary."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install 'sparsing[dev]'"
    )
    binary = (
        os.environ.get("SPARSING_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    if not binary:
        pytest.skip("needs Chromium, e.g. Debian's package chromium, or SPARSING_CHROMIUM=/path/to/it")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield started
        started.close()


class OpenPage:
    """A page in a browser window, with a record of its console messages, dialogs and requests."""

    def __init__(self, browser: Any, path: Path, *, width: int = 1280, dark: bool = False):
        scheme = "dark" if dark else "light"
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, has_touch=width < 600
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)  # a busy machine takes long to draw
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.complaints.append("a dialog"), dialog.dismiss()))
        self.page.on("request", self._request)
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(".plot .main-svg", state="attached")

    def _request(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.complaints.append(f"asked for {request.url}")

    def scroll_through(self) -> None:
        """Brings every part near the screen once, so that parts that wait for it are drawn."""
        height = self.page.evaluate("document.body.scrollHeight")
        for top in range(0, height, 600):
            self.page.evaluate(f"scrollTo({{top: {top}, behavior: 'instant'}})")
            self.page.wait_for_timeout(30)

    def close(self) -> None:
        """Closes the window and checks that there were no complaints."""
        self.context.close()
        assert self.complaints == []


@pytest.fixture(scope="module")
def _window(browser, whole_report) -> Iterator[OpenPage]:
    window = OpenPage(browser, whole_report)
    window.scroll_through()
    yield window
    window.close()


@pytest.fixture
def opened(_window) -> Iterator[OpenPage]:
    """The whole report on a desktop in light colours, scrolled through. Opening takes seconds, so tests share it."""
    yield _window
    assert _window.complaints == []
