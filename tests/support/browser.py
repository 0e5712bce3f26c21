"""A real Chromium that visits the page and records errors and foreign requests."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

_CHROMIUM = shutil.which("chromium")
_PATIENCE_MS = 60_000
# Switches off the requests that Chromium sends to the internet by itself, and the imitation of a
# graphics card, which takes more processor time than drawing without one.
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium without a window."""
    expect.set_options(timeout=_PATIENCE_MS)
    assert _CHROMIUM, "These tests need Chromium: apt-get install chromium."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=list(_QUIET))
        try:
            yield browser
        finally:
            browser.close()


def accessible(page: Page) -> None:
    """Check the page as it is now with axe, and that it is not wider than the screen."""
    report = Axe().run(page)
    assert report.violations_count == 0, report.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


class Visitor:
    """A visitor of the page, with the errors of the console and the requests to other origins."""

    def __init__(self, browser: Browser, url: str, **context: Any) -> None:
        self._url = url
        self.context: BrowserContext = browser.new_context(accept_downloads=True, **context)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.context.set_default_timeout(_PATIENCE_MS)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.strangers: list[str] = []
        self.page.on("console", lambda message: self._heard(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)

    def arrive(self) -> Page:
        """Open the page and wait until it can be used."""
        self.page.goto(self._url)
        self.page.locator("#model option").first.wait_for(state="attached")
        return self.page

    def leave(self) -> None:
        """Close the window."""
        self.context.close()

    def explain(self) -> None:
        """Press the button and wait for the heatmaps."""
        self.page.get_by_role("button", name="Explain", exact=True).click()
        self.wait_for_result()

    def wait_for_result(self) -> None:
        """Wait for the heatmaps of the current request."""
        self.page.locator("#waiting").wait_for(state="hidden")
        self.page.locator("#output").wait_for()

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self._url, "data:", "blob:")):
            self.strangers.append(request.url)
