"""Draw the effect of each option for the docs: python examples/option_pictures.py [FOLDER].

The program starts a server with the built-in model and explains one picture with every setting.
"""

import base64
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
from legrad_client import Explanation, LegradClient
from PIL import Image, ImageDraw

from demo import HERE, START_SECONDS, STARTER, overview, start_server, wait_until_ready

STICKERS = HERE / "stickers.png"
PHOTOGRAPH = HERE / "cat.jpg"
PROMPT = "a cat"
# One row for each option: captions and the options of their requests.
SHEETS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "layers": [
        ("layers: 1", {"layers": 1}),
        ("layers: 2", {"layers": 2}),
        ('layers: "all"', {"layers": "all"}),
    ],
    "size": [
        ("size: 112", {"size": 112}),
        ("size: 224", {"size": 224}),
        ("size: 448", {"size": 448}),
    ],
    "fit": [
        ('fit: "squash"', {"fit": "squash"}),
        ('fit: "pad"', {"fit": "pad"}),
        ('fit: "native"', {"fit": "native"}),
    ],
    "templates": [
        ("templates: null", {}),
        ('templates: "simple"', {"templates": "simple"}),
        ('templates: "openai"', {"templates": "openai"}),
    ],
    "negatives": [
        ("no negatives", {}),
        ('subtract "a pizza"', {"negatives": {"prompts": ["a pizza"]}}),
        ('mask "a pizza"', {"negatives": {"prompts": ["a pizza"], "mode": "mask"}}),
    ],
    "colormap": [
        ('colormap: "turbo"', {"colormap": "turbo"}),
        ('colormap: "viridis"', {"colormap": "viridis"}),
        ('colormap: "magma"', {"colormap": "magma"}),
    ],
    "alpha": [
        ("alpha: 0.3", {"alpha": 0.3}),
        ("alpha: 0.6", {"alpha": 0.6}),
        ("alpha: 1", {"alpha": 1.0}),
    ],
    "max_side": [("max_side: 1024", {}), ("max_side: 128", {"max_side": 128})],
}


def main(folder: Path) -> None:
    """Write one sheet for each option."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        server, address = start_server(STARTER, Path(scratch) / "server.log")
        try:
            wait_until_ready(address, START_SECONDS)
            with LegradClient(address) as client:
                for option, row in SHEETS.items():
                    write(folder / f"{option}.webp", sheet(client, row), Path(scratch))
                write(folder / "normalize.webp", normalized(client), Path(scratch))
                write(folder / "regions.webp", with_regions(client), Path(scratch))
            for name in ("jpeg", "webp", "png"):
                (folder / f"overlay.{name}").write_bytes(overlay_file(address, name))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(START_SECONDS)


def sheet(
    client: LegradClient, row: list[tuple[str, dict[str, Any]]]
) -> list[tuple[str, Image.Image]]:
    """Draw the same prompt with every setting of a row."""
    return [
        (caption, drawn(client.explain(STICKERS, [PROMPT], **options))) for caption, options in row
    ]


def normalized(client: LegradClient) -> list[tuple[str, Image.Image]]:
    """Draw an absent object, normalised alone and together with a present one."""
    prompts = [PROMPT, "a dog"]
    each, shared = (
        client.explain(STICKERS, prompts, normalize=kind) for kind in ("each", "shared")
    )
    return [
        ('"a cat", normalize: "each"', drawn(each)),
        ('"a dog", normalize: "each"', drawn(each, "a dog")),
        ('"a dog", normalize: "shared"', drawn(shared, "a dog")),
    ]


def with_regions(client: LegradClient) -> list[tuple[str, Image.Image]]:
    """Draw the boxes of regions for three thresholds."""
    captioned = []
    for threshold in (0.3, 0.5, 0.7):
        found = client.explain(STICKERS, [PROMPT], regions_threshold=threshold)
        picture = drawn(found)
        pen = ImageDraw.Draw(picture)
        for region in found[PROMPT].regions or ():
            box = region.box
            edges = (box.left, box.top, box.right - 1, box.bottom - 1)
            pen.rectangle(edges, outline="white", width=5)
            pen.rectangle(edges, outline="black", width=2)
        captioned.append((f"regions_threshold: {threshold}", picture))
    return captioned


def overlay_file(address: str, name: str) -> bytes:
    """Return the overlay of a photograph as the file that the server sends."""
    request = {
        "image": base64.b64encode(PHOTOGRAPH.read_bytes()).decode(),
        "prompts": [PROMPT],
        "output": {"heatmap": "none", "format": name},
    }
    answer = httpx.post(f"{address}/explain", json=request, timeout=START_SECONDS)
    answer.raise_for_status()
    return base64.b64decode(answer.json()["images"][0]["targets"][0]["overlay"])


def drawn(found: Explanation, prompt: str = PROMPT) -> Image.Image:
    """Return the overlay of a prompt."""
    overlay = found[prompt].overlay
    assert overlay is not None
    return overlay


def write(path: Path, captioned: list[tuple[str, Image.Image]], scratch: Path) -> None:
    """Write one sheet of pictures with captions."""
    files = []
    for number, (caption, picture) in enumerate(captioned):
        file = scratch / f"{number}.png"
        picture.save(file)
        files.append((caption, file))
    overview(files).save(path, quality=80)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else HERE.parent / "docs" / "images" / "options")
