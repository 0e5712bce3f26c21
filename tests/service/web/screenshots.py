"""Write screenshots of the page, at three widths, in light and dark: `make screenshots`.

README's picture, `docs/images/page.png`, is `page.png` of them.
"""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from tests.support.browser import Visitor, chromium
from tests.support.running_server import Server

WIDTHS = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1440, 900)}

MANY = ("an airplane", "a cat", "a cup", "a dog", "a drum", "a fish", "a house", "a pizza")


def main(folder: Path) -> None:
    """Visit a real server and save screenshots."""
    folder.mkdir(parents=True, exist_ok=True)
    with Server("starter") as server, chromium() as browser:
        server.wait_for_health()
        _write_first_sight(browser, server.url, folder / "page.png")
        for name, (width, height) in WIDTHS.items():
            for scheme in ("light", "dark"):
                visitor = Visitor(
                    browser,
                    server.url,
                    viewport={"width": width, "height": height},
                    color_scheme=scheme,
                    reduced_motion="reduce",
                    device_scale_factor=1,
                )
                for state in _states(visitor):
                    path = folder / f"{name}-{scheme}-{state}.png"
                    visitor.page.screenshot(path=path, full_page=True)
                visitor.leave()


def _write_first_sight(browser: Browser, url: str, path: Path) -> None:
    """Save the first view of an answer as a small lossless file."""
    visitor = Visitor(browser, url, viewport={"width": 1280, "height": 876}, color_scheme="light")
    page = visitor.arrive()
    visitor.explain()
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")
    seen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    seen.save(path, optimize=True)
    visitor.leave()


def _states(visitor: Visitor) -> Iterator[str]:
    page = visitor.arrive()
    yield "start"
    visitor.explain()
    yield "result"
    page.locator("summary", has_text="Options").click()
    page.locator("#compare").check()
    page.locator("#regions").check()
    visitor.explain()
    yield "compared"
    page.locator("#compare").uncheck()
    page.locator("#prompt").fill(",".join(MANY) + ",")
    visitor.explain()
    yield "many"
    page.route("**/explain", lambda route: route.abort())
    page.get_by_role("button", name="Explain", exact=True).click()
    page.locator("#problem").wait_for()
    yield "problem"
    page.locator("#file").set_input_files(__file__)
    page.locator("#picture-problem").wait_for()
    yield "wrong-file"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
