"""The floor: the work of the service by bare library calls.

``python -m benchmarks.peers.floor PORT`` runs one process with one thread, without a model,
validation, limits, metrics or logs. It takes the fastest kept library for each step, with the
fidelity of the service: the same pixels are decoded, the resizer is as exact, regions have as many
samples, and the opacity of overlays follows the heatmap. Its maps are always the same.
"""

import io
import json
import struct
import sys
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import pybase64
import simplejpeg
import uvicorn
from cykooz_resizer import FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from isal import isal_zlib
from numpy.typing import NDArray
from starlette.types import Receive, Scope, Send

_SIDE = 224
_CELLS = 14
# The model's input is resized from at least three times its pixels.
_LEAST_SIDE = 3 * _SIDE
_USUAL_SIDE = 1024
_SAMPLED_SIDE = 7 * _CELLS
_OPACITY = 0.6 * np.clip(np.arange(256) / 255 / 0.6, 0, 1)[:, np.newaxis, np.newaxis]
_COLORS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, np.newaxis], cv2.COLORMAP_TURBO)
# What an overlay has of the colour of each level, and which part of the picture it has beside it.
# Blended from these in bytes, it takes half the time of blending in floats, or by Pillow.
_OVER = np.rint(_OPACITY * _COLORS).astype(np.uint8)
_UNDER = np.repeat(255 - np.rint(255 * _OPACITY).astype(np.uint8), 3, axis=2)
_BICUBIC = ResizeOptions(ResizeAlg.convolution(FilterType.catmull_rom), use_alpha=False)
# Stands for a drawing while the rest of an answer is written.
_FILE = b"<file>"
# PNG's filters: each byte minus the one to its left, which suits maps, or above it, for pictures.
_SUB, _UP = 1, 2

_KEEP_ALIVE_SECONDS = 600

Pixels = NDArray[np.uint8]


class Floor:
    """ASGI application."""

    def __init__(self) -> None:
        cv2.setNumThreads(1)
        generator = np.random.default_rng(0)
        self._maps = generator.random((8, _CELLS, _CELLS), np.float32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = bytearray()
        while scope["type"] == "http":
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        content = b"{}"
        if scope.get("method") == "POST":
            content = self._explain(dict(scope["headers"])[b"content-type"], bytes(body))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _explain(self, content_type: bytes, body: bytes) -> bytes:
        prompts, output, encoded = _read(content_type, body)
        height, width, _, _ = simplejpeg.decode_jpeg_header(encoded)
        scale = min(1.0, output["max_side"] / max(width, height))
        size = round(width * scale), round(height * scale)
        picture = _decoded(encoded, width, height)
        _resized(picture, (_SIDE, _SIDE))
        canvas = _resized(picture, size) if output["overlay"] else None
        files: list[bytes] = []
        targets = [
            {
                "target": prompt,
                "similarity": 0.1,
                **_described(map_, output["regions_threshold"]),
                **_drawn(map_, canvas, size, output, files),
            }
            for prompt, map_ in zip(prompts, self._maps, strict=False)
        ]
        first, *others = json.dumps({"images": [{"targets": targets}]}).encode().split(_FILE)
        # Base64 has no characters that JSON escapes: writing it as JSON would take longer.
        rest = (part for pair in zip(files, others, strict=True) for part in pair)
        return b"".join((first, *rest))


def _decoded(encoded: bytes, width: int, height: int) -> ImageData:
    """Decode at the smallest power of two of the size that leaves enough pixels."""
    share = min(1.0, _USUAL_SIDE / max(width, height))
    least_width = max(_LEAST_SIDE, round(width * share))
    least_height = max(_LEAST_SIDE, round(height * share))
    part = 1
    while part < 8 and width >= 2 * part * least_width and height >= 2 * part * least_height:
        part *= 2
    smaller = (
        {}
        if part == 1
        else {"min_width": width // part, "min_height": height // part, "min_factor": 1}
    )
    pixels = _pixels(simplejpeg.decode_jpeg(encoded, colorspace="RGBA", **smaller))
    return ImageData(pixels.shape[1], pixels.shape[0], PixelType.U8x4, pixels.tobytes())


def _resized(picture: ImageData, size: tuple[int, int]) -> Pixels:
    """Resize widths and then heights, as Pillow does pictures that are not tall."""
    resizer = Resizer()
    narrowed = ImageData(size[0], picture.height, PixelType.U8x4)
    resizer.resize(picture, narrowed, _BICUBIC)
    resized = ImageData(*size, PixelType.U8x4)
    resizer.resize(narrowed, resized, _BICUBIC)
    pixels = np.frombuffer(resized.get_buffer(), np.uint8).reshape(size[1], size[0], 4)
    return _pixels(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB))


def _read(content_type: bytes, body: bytes) -> tuple[list[str], dict[str, Any], bytes]:
    """Return the prompts, the options of the answer and the picture of a multipart body."""
    boundary = content_type.partition(b"boundary=")[2]
    prompts: list[str] = []
    output: dict[str, Any] = {}
    picture = b""
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, content = part[2:-2].partition(b"\r\n\r\n")
        if b'name="prompts"' in head:
            prompts.append(content.decode())
        elif b'name="output"' in head:
            output = json.loads(content)
        else:
            picture = content
    return prompts, output, picture


def _described(map_: NDArray[np.float32], threshold: float | None) -> dict[str, object]:
    total = float(map_.sum())
    shares = map_.ravel() / total
    described: dict[str, object] = {
        "peak": float(map_.max()),
        "position": int(map_.argmax()),
        "mean": float(map_.mean()),
        "entropy": float(-(shares * np.log(shares + 1e-9)).sum()),
        "border_mass": 1 - float(map_[1:-1, 1:-1].sum()) / total,
    }
    if threshold is not None:
        sampled = cv2.resize(map_, (_SAMPLED_SIDE, _SAMPLED_SIDE))
        high = (sampled >= threshold).view(np.uint8)
        _, _, boxes, _ = cv2.connectedComponentsWithStats(high, connectivity=8)
        described["regions"] = boxes.tolist()
    return described


def _drawn(
    map_: NDArray[np.float32],
    canvas: Pixels | None,
    size: tuple[int, int],
    output: Mapping[str, Any],
    files: list[bytes],
) -> dict[str, str]:
    """Return a mark for each drawing, and append the drawings to the files."""
    drawn: dict[str, str] = {}

    def add(name: str, file: bytes | memoryview) -> None:
        drawn[name] = _FILE.decode()
        files.append(pybase64.b64encode(file))

    if output["heatmap"] == "npy":
        written = io.BytesIO()
        np.save(written, map_)
        add("heatmap", written.getbuffer())
    levels = None
    if canvas is not None or output["heatmap"] not in ("npy", "none"):
        levels = _pixels(cv2.resize((255 * map_).astype(np.uint8), size))
    if levels is not None and output["heatmap"] not in ("npy", "none"):
        add("heatmap", _encoded(levels, output["heatmap"].removesuffix("16"), output))
    if levels is not None and canvas is not None:
        under = cv2.multiply(canvas, cv2.applyColorMap(levels, _UNDER), scale=1 / 255)
        blended = _pixels(cv2.add(under, cv2.applyColorMap(levels, _OVER)))
        add("overlay", _encoded(blended, output.get("format", "png"), output))
    return drawn


def _pixels(found: NDArray[Any]) -> Pixels:
    """Narrow the type that OpenCV states for its results."""
    return np.asarray(found, np.uint8)


def _encoded(pixels: Pixels, format: str, output: Mapping[str, Any]) -> bytes | memoryview:
    if format == "jpeg":
        colors = "GRAY" if pixels.ndim == 2 else "RGB"
        encoded: bytes = simplejpeg.encode_jpeg(
            pixels if pixels.ndim == 3 else pixels[:, :, np.newaxis],
            quality=output["quality"],
            colorspace=colors,
            colorsubsampling="Gray" if colors == "GRAY" else "420",
        )
        return encoded
    if format == "png":
        return _png(pixels)
    quality = (cv2.IMWRITE_WEBP_QUALITY, output["quality"])
    return cv2.imencode(f".{format}", pixels, quality)[1].data


def _png(pixels: Pixels) -> bytes:
    """Write a PNG with one filter and ISA-L's deflate: OpenCV's takes several times as long."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    if pixels.ndim == 3:
        filtered[:, 0], filtered[0, 1:] = _UP, rows[0]
        np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    else:
        filtered[:, 0], filtered[:, 1] = _SUB, rows[:, 0]
        np.subtract(rows[:, 1:], rows[:, :-1], out=filtered[:, 2:])
    colors = 2 if pixels.ndim == 3 else 0
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colors, 0, 0, 0)),
        (b"IDAT", isal_zlib.compress(filtered, 1)),
        (b"IEND", b""),
    )
    written = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        checksum = isal_zlib.crc32(data, isal_zlib.crc32(kind))
        written += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)]
    return b"".join(written)


def main(port: int) -> None:
    """Serve until the process ends."""
    uvicorn.run(
        Floor(),
        host="127.0.0.1",
        port=port,
        log_level="warning",
        lifespan="off",
        # Work delays the reading of requests, but not the end of idle connections.
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
