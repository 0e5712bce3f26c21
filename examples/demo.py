"""Demo: start a server, explain one picture, write overlays, stop the server.

Run it with ``make demo``, or ``python examples/demo.py --image picture.jpg --prompts "cat, dog"``.
"""

import base64
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
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
START_SECONDS = 120

console = Console()


def main(
    image: Annotated[Path, typer.Option(help="The picture.")] = HERE / "stickers.png",
    prompts: Annotated[
        str, typer.Option(help="Prompts, separated by commas.")
    ] = "a cat, a pizza, a bicycle, a rocket, a dog",
    output: Annotated[Path, typer.Option(help="Folder for the overlays.")] = Path("demo"),
) -> None:
    """Explain one picture with a server that is started for it."""
    wanted = [prompt.strip() for prompt in prompts.split(",") if prompt.strip()]
    output.mkdir(parents=True, exist_ok=True)
    server, address = start_server(output / "server.log")
    try:
        wait_until_ready(address)
        answer = ask(address, image, wanted)
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(START_SECONDS)
    captioned = [("the picture", image)]
    table = Table("Prompt", "Similarity", "Probability", "Peak at x, y", "Overlay")
    for target in answer["images"][0]["targets"]:
        path = output / (re.sub(r"\W+", "-", target["prompt"].lower()).strip("-") + ".png")
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
    console.print("A prompt for something absent has a heatmap too: compare the similarities.")
    raise typer.Exit(status)


def start_server(log_path: Path) -> tuple[subprocess.Popen[str], str]:
    """Start a server on a free port and return it with its address."""
    program = shutil.which("legrad", path=str(Path(sys.executable).parent)) or "legrad"
    with log_path.open("w") as log:
        server = subprocess.Popen(
            [program, "serve", "--port", "0"], stdout=subprocess.PIPE, stderr=log, text=True
        )
    first_line = server.stdout.readline() if server.stdout else ""
    if not first_line.startswith("Listening on "):
        raise SystemExit(f"The server did not start; see {log_path}.")
    return server, first_line.removeprefix("Listening on ").strip()


def wait_until_ready(address: str) -> None:
    """Return when the server has loaded its model."""
    give_up = time.monotonic() + START_SECONDS
    while httpx.get(f"{address}/health/ready").is_error:
        if time.monotonic() > give_up:
            raise SystemExit(f"No model was ready within {START_SECONDS} s.")
        time.sleep(0.1)


def ask(address: str, image: Path, prompts: list[str]) -> dict[str, Any]:
    """Return the server's response for one picture."""
    response = httpx.post(
        f"{address}/explain",
        files={"image": image.read_bytes()},
        data={"prompts": prompts, "output": '{"heatmap": "none"}'},
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
    pictures = [(caption, Image.open(path).convert("RGB")) for caption, path in captioned]
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
