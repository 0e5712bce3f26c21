"""Demo: start a server, explain one picture, write overlays, stop the server.

Run it with ``make demo``, or ``python examples/demo.py --image picture.jpg --prompts "cat, dog"``.
``make demo MODEL=ViT-B-16/laion2b_s34b_b88k`` explains a photograph with published weights.
"""

import base64
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from PIL import Image, ImageDraw, ImageFont, ImageOps
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
STARTER = "starter"
# The built-in model knows stickers, models with published weights know photographs.
STICKERS = HERE / "stickers.png", "a cat, a pizza, a bicycle, a rocket, a dog"
PHOTOGRAPH = HERE / "astronaut.jpg", "a face, a space suit, a flag, a rocket, a dog"
START_SECONDS = 120
DOWNLOAD_SECONDS = 3600

console = Console()


def main(
    model: Annotated[
        str, typer.Option(help="The model, as `legrad serve --model` takes it.")
    ] = STARTER,
    image: Annotated[
        Path | None, typer.Option(help="The picture; without it, one of the examples.")
    ] = None,
    prompts: Annotated[str | None, typer.Option(help="Prompts, separated by commas.")] = None,
    method: Annotated[
        str, typer.Option(help="Explanation method; `legrad methods` lists them.")
    ] = "legrad",
    output: Annotated[Path, typer.Option(help="Folder for the overlays.")] = Path("demo"),
) -> None:
    """Explain one picture with a server that is started for it."""
    example, example_prompts = STICKERS if model == STARTER else PHOTOGRAPH
    image = image or example
    asked = example_prompts if prompts is None else prompts
    wanted = [prompt.strip() for prompt in asked.split(",") if prompt.strip()]
    output.mkdir(parents=True, exist_ok=True)
    server, address = start_server(model, output / "server.log")
    try:
        wait_until_ready(address, START_SECONDS if model == STARTER else DOWNLOAD_SECONDS)
        answer = ask(address, image, wanted, method)
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(START_SECONDS)
    captioned = [("the picture", image)]
    table = Table("Prompt", "Similarity", "Probability", "Peak at x, y", "Overlay")
    written: set[Path] = set()
    for number, target in enumerate(answer["images"][0]["targets"], 1):
        name = re.sub(r"\W+", "-", target["prompt"].lower()).strip("-") or "prompt"
        path = output / f"{name}.jpg"
        if path in written:
            path = output / f"{number}-{name}.jpg"
        written.add(path)
        path.write_bytes(base64.b64decode(target["overlay"]))
        captioned.append((f"{target['prompt']}: {target['similarity']:.2f}", path))
        peak = target["statistics"]["peak_position"]
        table.add_row(
            target["prompt"],
            f"{target['similarity']:.3f}",
            f"{target['probability']:.3f}",
            f"{peak['x']}, {peak['y']}",
            str(path),
        )
    overview(captioned).save(output / "overview.png")
    console.print(table)
    total = answer["timings"]["total"]
    console.print(
        f"Answered in {1000 * total:.0f} ms by {answer['model']}; see {output / 'overview.png'}."
    )
    used = answer["images"][0]["method"]
    if not used["targeted"]:
        console.print(f"The method {used['name']} gives all prompts the same heatmap.")
    console.print("A prompt for something absent has a heatmap too: compare the similarities.")
    raise typer.Exit(status)


def start_server(model: str, log_path: Path) -> tuple[subprocess.Popen[str], str]:
    """Start a server on a free port and return it with its address."""
    program = shutil.which("legrad", path=str(Path(sys.executable).parent)) or "legrad"
    with log_path.open("w") as log:
        server = subprocess.Popen(
            [program, "serve", "--port", "0", "--model", model],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    first_line = server.stdout.readline() if server.stdout else ""
    if not first_line.startswith("Listening on "):
        said = log_path.read_text().splitlines()
        raise SystemExit(said[-1] if said else f"The server did not start; see {log_path}.")
    return server, first_line.removeprefix("Listening on ").strip()


def wait_until_ready(address: str, seconds: float) -> None:
    """Return when the server has loaded its model, after a download if it needs one."""
    give_up = time.monotonic() + seconds
    while httpx.get(f"{address}/health/ready").is_error:
        (model,) = httpx.get(f"{address}/models").json()["models"]
        if model["error"] is not None:
            raise SystemExit(f"{model['error']} The built-in model needs no hub: make demo")
        if time.monotonic() > give_up:
            raise SystemExit(f"No model was ready within {seconds:.0f} s.")
        time.sleep(0.1)


def ask(address: str, image: Path, prompts: list[str], method: str) -> dict[str, Any]:
    """Return the server's response for one picture."""
    response = httpx.post(
        f"{address}/explain",
        files={"image": image.read_bytes()},
        data={
            "prompts": prompts,
            "options": json.dumps({"method": method}),
            "output": '{"heatmap": "none", "format": "jpeg"}',
        },
        timeout=60,
    )
    if response.is_error:
        raise SystemExit(response.json()["detail"])
    answer: dict[str, Any] = response.json()
    return answer


def overview(captioned: list[tuple[str, Path]]) -> Image.Image:
    """Return all pictures on one sheet, each with a caption below."""
    width, gap, caption_height = 420, 12, 34
    font = ImageFont.load_default(size=20)
    pictures = [
        (caption, ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        for caption, path in captioned
    ]
    height = round(width * pictures[0][1].height / pictures[0][1].width)
    columns = min(len(pictures), 3)
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new(
        "RGB",
        (columns * (width + gap) + gap, rows * (height + caption_height + gap) + gap),
        "white",
    )
    pen = ImageDraw.Draw(sheet)
    for index, (caption, picture) in enumerate(pictures):
        row, column = divmod(index, columns)
        left = gap + column * (width + gap)
        top = gap + row * (height + caption_height + gap)
        sheet.paste(picture.resize((width, height)), (left, top))
        middle = (left + width / 2, top + height + caption_height / 2)
        pen.text(middle, caption, "black", font, anchor="mm")
    return sheet


if __name__ == "__main__":
    typer.run(main)
