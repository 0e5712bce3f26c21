"""The page's files over HTTP."""

import json
import re

import httpx
import numpy as np
import pytest

from legrad_engine.images.rendering import COLORMAPS, colorize
from service.web.files import POLICY, page_files
from tests.support.running_app import RunningApp


def test_the_page_is_served_under_its_policy(running: RunningApp) -> None:
    answer = running.client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert "<h1>" in answer.text


def test_nothing_on_the_page_is_inline_or_from_elsewhere(running: RunningApp) -> None:
    text = running.client.get("/").text
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)
    loaded = re.findall(r'(?:<script[^>]*src|<link[^>]*href|<img[^>]*src)="([^"]+)"', text)
    assert loaded
    assert all(path.startswith("web/") for path in loaded)


@pytest.mark.parametrize("path", sorted(page_files()))
def test_every_file_is_served(running: RunningApp, path: str) -> None:
    answer = running.client.get(f"/web/{path}")
    assert answer.status_code == 200
    assert answer.content == page_files()[path].content
    assert running.client.head(f"/web/{path}").status_code == 200


def test_a_file_that_has_not_changed_is_not_sent_again(running: RunningApp) -> None:
    first = running.client.get("/web/page.css")
    headers = {"If-None-Match": f'"other", {first.headers["etag"]}'}
    again = running.client.get("/web/page.css", headers=headers)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert running.client.get("/web/page.css", headers={"If-None-Match": '"x"'}).content


@pytest.mark.parametrize("path", ["nothing.js", "../page.py", "%2e%2e/page.py", "gallery", ""])
def test_nothing_else_is_served(running: RunningApp, path: str) -> None:
    answer = running.client.get(httpx.URL(f"/web/{path}"))
    assert answer.status_code == 404


def test_the_pages_colours_are_the_engines(running: RunningApp) -> None:
    table = running.client.get("/web/colormaps.json").json()
    levels = np.arange(256, dtype=np.float32)[None] / 255
    assert list(table["colormaps"]) == list(COLORMAPS)
    for name, colors in table["colormaps"].items():
        assert bytes.fromhex(colors) == colorize(levels, name).tobytes()


def test_every_picture_of_the_gallery_is_there_and_small(running: RunningApp) -> None:
    examples = json.loads(running.client.get("/web/gallery/examples.json").content)
    assert {f"gallery/{example['file']}" for example in examples} == {
        path for path in page_files() if path.endswith(".webp")
    }
    assert all(example["alt"] and example["prompts"] for example in examples)
    assert sum(len(file.content) for file in page_files().values()) < 500_000
