"""Write screenshots of the page, at three widths, in light and dark: `make screenshots`.

README's picture, `docs/images/page.png`, is `page.png` of them, and that of
`docs/layers-report.md`, `docs/images/layers-report.png`, is `layers-report.png`.
"""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from tests.support.browser import Visitor, chromium
from tests.support.running_server import Server

WIDTHS = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1440, 900)}

MANY = ("an airplane", "a cat", "a cup", "a dog", "a drum", "a fish", "a house", "a pizza")


def main(folder: Path) -> None:
    """Visit a real server and save screenshots."""
    folder.mkdir(parents=True, exist_ok=True)
    with Server("starter") as server, chromium() as browser:
        server.wait_for_health()
        _write_first_sight(browser, server.url, folder)
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


def _write_first_sight(browser: Browser, url: str, folder: Path) -> None:
    """Save the first view of an answer, and the plot of its layers, as small lossless files."""
    visitor = Visitor(browser, url, viewport={"width": 1280, "height": 876}, color_scheme="light")
    page = visitor.arrive()
    visitor.explain()
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")
    _save(page.screenshot(), folder / "page.png")
    _open_layers(page)
    _save(page.locator("#layers-report").screenshot(), folder / "layers-report.png")
    visitor.leave()


def _save(screenshot: bytes, path: Path) -> None:
    Image.open(io.BytesIO(screenshot)).convert("RGB").save(path, optimize=True)


def _open_layers(page: Page) -> None:
    page.locator("#layers-report > summary").click()
    page.locator(".plot").wait_for()


def _states(visitor: Visitor) -> Iterator[str]:
    page = visitor.arrive()
    yield "start"
    visitor.explain()
    yield "result"
    page.locator("summary", has_text="Options").click()
    page.locator("#trust").check()
    page.locator("#contributions").check()
    visitor.explain()
    yield "tested"
    page.locator("#compare").check()
    page.locator("#regions").check()
    visitor.explain()
    yield "compared"
    page.locator("#layout").select_option("beside")
    yield "beside"
    page.locator(".enlarge").first.click()
    yield "large"
    for _ in range(4):
        page.keyboard.press("+")
    page.keyboard.press("Home")
    yield "pixels"
    page.keyboard.press("Escape")
    for option in ("#compare", "#trust", "#contributions"):
        page.locator(option).uncheck()
    page.locator("#method").select_option("textspan")
    visitor.explain()
    _open_layers(page)
    page.locator(".layers summary").click()
    yield "layers"
    page.locator("#layers-report > summary").click()
    page.locator("#method").select_option("raw-attention")
    page.locator("#heads").select_option("each")
    for _ in range(2):
        page.locator(".chip-remove").last.click()
    visitor.explain()
    yield "heads"
    page.locator("#method").select_option(index=0)
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
