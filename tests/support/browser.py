"""A real Chromium that looks at the page, and keeps what it should not have seen."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

_CHROMIUM = shutil.which("chromium")
_PATIENCE_MS = 60_000
# What Chromium asks of the internet by itself.
_QUIET = (
    "--no-sandbox",
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
    """Debian's Chromium, without a window."""
    expect.set_options(timeout=_PATIENCE_MS)
    assert _CHROMIUM, "These tests need Chromium: apt-get install chromium."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=list(_QUIET))
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """A person at the page. What the console said and which other origins were asked is kept."""

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
        """Opens the page and waits until it can be used."""
        self.page.goto(self._url)
        self.page.locator("#model option").first.wait_for(state="attached")
        return self.page

    def leave(self) -> None:
        """Closes the window."""
        self.context.close()

    def explain(self) -> None:
        """Presses the button and waits for the heatmaps."""
        self.page.get_by_role("button", name="Explain", exact=True).click()
        self.wait_for_result()

    def wait_for_result(self) -> None:
        """Waits for the heatmaps of the present request."""
        self.page.locator("#waiting").wait_for(state="hidden")
        self.page.locator("#output").wait_for()

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self._url, "data:", "blob:")):
            self.strangers.append(request.url)
