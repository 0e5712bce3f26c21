"""The ``LEGRAD_*`` environment variables: types, defaults, bounds and descriptions."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    SettingsConfigDict,
)

from legrad_engine.legrad.switches import Acceleration
from service.batching import DEFAULT_STALL_SECONDS
from service.settings.values import DecodingName, DtypeName

# About 30 years: beyond it, clocks and timers overflow.
_LONGEST_SECONDS = 1e9
_MOST_THREADS = 4096
_MOST_PROCESSES = 1024


class Variables(BaseSettings):
    """One field for each environment variable."""

    model_config = SettingsConfigDict(
        env_prefix="LEGRAD_",
        env_ignore_empty=True,
        allow_inf_nan=False,
        frozen=True,
        # Some values are secret.
        hide_input_in_errors=True,
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(
        8000,
        ge=0,
        le=65535,
        description="Port to listen on; 0 picks a free one. If it is unset, the variable `PORT` "
        "counts, which some platforms set.",
    )
    uds: Path | None = Field(
        None,
        description="Unix socket to listen on, in place of `LEGRAD_HOST` and `LEGRAD_PORT`. Every "
        "local user may connect; restrict the folder to restrict them.",
    )
    root_path: str = Field(
        "",
        description="Path prefix under which a proxy serves this server, such as `/legrad`; "
        "requests may come with or without it. Unset: the `X-Forwarded-Prefix` of trusted proxies, "
        "or none.",
    )
    admin_host: str | None = Field(
        None, description="Address to listen on for `LEGRAD_ADMIN_PORT`; `LEGRAD_HOST` if unset."
    )
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of a second address for operators. Only this one serves loading, "
        "unloading and `/metrics`, and it serves no explanations; 0 picks a free port. Unset: one "
        "address serves everything.",
    )
    api_keys: SecretStr | None = Field(
        None,
        description="API keys with their scopes and limits, as a JSON list; see docs/access.md. "
        "Without keys, explaining and metrics need no key, and loading and unloading are off.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="A file with this list, in place of `LEGRAD_API_KEYS`; changes take effect "
        "within seconds.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses and networks of the proxies whose `X-Forwarded-For`, "
        "`X-Forwarded-Proto` and `X-Forwarded-Prefix` headers are trusted, separated by commas; "
        "`unix` stands for every client of a Unix socket. Unset trusts none.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins whose web pages may call this server, such as "
        "`https://app.example.org`, separated by commas, or `*`; unset allows none.",
    )

    models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("starter",),
        min_length=1,
        description=(
            "Models to serve, separated by commas; the first one is the default. Write `starter`, "
            "`NAME/TAG` for open_clip's pretrained weights, `NAME@PATH` for a checkpoint, or "
            "another form of docs/own-models.md; `ID=MODEL` gives it an id of your own."
        ),
    )
    presence: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Presence calibrations of `legrad calibrate` as `ID=FILE`, with the id of a "
        "served model, separated by commas. The built-in model has its own; other models without "
        "one answer `presence` with null.",
    )
    load_models: Literal["at-start", "on-demand"] = Field(
        "at-start",
        description="When models are loaded: `at-start`, or `on-demand`: the first request for a "
        "model loads it and waits for it until its own deadline.",
    )
    max_model_bytes: int | None = Field(
        None,
        ge=1,
        description="Most bytes of weights in memory. To make room for a model, the least recently "
        "used models without work are unloaded; unset has no limit.",
    )
    device: str = Field(
        "auto",
        description="`auto`, `cpu`, `cuda`, `cuda:N` or `mps`; several of one kind, such as "
        "`cuda:0,cuda:1`, each with its own copy of every model; or `all` for every CUDA device.",
    )
    dtype: DtypeName = Field(
        "auto",
        description="Precision of weights and activations: `float32`, `float16`, `bfloat16`, or "
        "`auto`: `bfloat16` on CUDA devices that compute it natively, `float16` on other CUDA "
        "devices and on `mps`, `float32` on CPUs.",
    )
    accelerate: Acceleration = Field(
        "off",
        description="What CUDA devices use beside torch's own kernels: `kernel`, one fused kernel "
        "for the heatmaps; `graphs`, captured graphs for the shapes of the warm-up; `all`; or "
        "`off`. See docs/devices.md.",
    )
    compute_threads: int | None = Field(
        None,
        ge=1,
        le=_MOST_THREADS,
        description="CPU threads for tensor work; by default torch's choice, but no more than "
        "the cores that the container has, and one if an accelerator computes.",
    )

    max_batch_images: int | None = Field(
        None,
        ge=1,
        description="Most images in one batch; by default 16 on CPUs and 256 on accelerators. On "
        "an accelerator the warm-up may find that smaller batches are as fast; then they are the "
        "limit.",
    )
    max_batch_cost: float | None = Field(
        None,
        gt=0,
        description="Most work in one batch. An image at the model's own size costs 1, and each "
        "of its targets about 0.4 / depth for each explained layer. By default 2 for each image "
        "of the largest batch, but at least 32.",
    )
    max_queue_cost: float | None = Field(
        None,
        gt=0,
        description="Most work in the queue of one model; beyond it requests get 429. An eighth "
        "more is kept for callers that hold little. By default 8 for each image of "
        "`LEGRAD_MAX_BATCH_IMAGES`, but at least 128: 2048 on accelerators.",
    )
    max_wait_ms: float = Field(
        0.0,
        ge=0,
        le=10_000,
        description="Longest wait of an image for its batch to fill. With 0 it does not wait: the "
        "next batch fills while the current one is computed.",
    )
    request_timeout_seconds: float = Field(
        30.0,
        gt=0,
        le=_LONGEST_SECONDS,
        description="Deadline of a request; a header can only make it shorter.",
    )
    drain_timeout_seconds: float = Field(
        30.0,
        gt=0,
        le=_LONGEST_SECONDS,
        description="Longest time in which a stopping server finishes the accepted requests.",
    )
    stall_timeout_seconds: float = Field(
        DEFAULT_STALL_SECONDS,
        gt=0,
        le=_LONGEST_SECONDS,
        description="Longest computation of one batch; set it much longer than the largest batch "
        "takes. A worker that exceeds it counts as hung: its requests get 503, and another worker "
        "replaces it.",
    )
    shutdown_delay_seconds: float = Field(
        0.0,
        ge=0,
        le=_LONGEST_SECONDS,
        description="How long a stopping server still accepts requests while `/health/ready` is "
        "503, before it drains; set it a little longer than a load balancer takes to notice.",
    )
    max_requests_in_progress: int = Field(
        256,
        ge=1,
        description="Most requests that are read, decoded, queued, computed, drawn or sent at "
        "once. An eighth more is kept for callers that hold little.",
    )
    picture_processes: int | None = Field(
        None,
        ge=1,
        le=_MOST_PROCESSES,
        description="Processes that decode and draw pictures; by default one less than the "
        "processor cores that the container has, but at least one.",
    )
    picture_timeout_seconds: float = Field(
        10.0,
        gt=0,
        le=_LONGEST_SECONDS,
        description="Longest decoding or drawing of one picture. Beyond it the request gets 422, "
        "and the process is killed and replaced.",
    )
    picture_max_bytes: int | None = Field(
        None,
        ge=1,
        description="Most memory that decoding or drawing one picture may take; beyond it the "
        "request gets 422. By default 24 bytes for each pixel of `LEGRAD_MAX_IMAGE_PIXELS`, or 8 "
        "for each of `LEGRAD_MAX_DRAWN_PIXELS` if that is more, and 64 MB.",
    )

    trace_cache_bytes: int = Field(
        256_000_000,
        ge=0,
        description="Memory for the traces and small copies of recent pictures, so that another "
        "question about one skips decoding and the forward pass; 0 keeps none. Traces are kept in "
        "the memory of the model's device, on the GPU if it runs there.",
    )

    checks_dir: Path | None = Field(
        None,
        description="Folder of the results of `legrad check`, which `/models` shows; by default "
        "`legrad/checks` in `XDG_CACHE_HOME`, or in `~/.cache`. A model's files are hashed when it "
        "is loaded only if the folder holds a result.",
    )

    max_connections: int = Field(
        1000,
        ge=1,
        description="Most open connections. A further one replaces one that is idle, of the "
        "address with the most connections; or one that waits for the head of a request, of an "
        "address with more connections than its own; or it is closed at once. The process raises "
        "its own limit on file descriptors for them; where it may not, it has fewer connections "
        "and says so at start.",
    )
    head_timeout_seconds: float = Field(
        15.0,
        gt=0,
        le=_LONGEST_SECONDS,
        description="Longest time in which a connection sends the head of a request, or the rest "
        "of a refused body.",
    )
    idle_timeout_seconds: float = Field(
        75.0,
        gt=0,
        le=_LONGEST_SECONDS,
        description="How long an idle connection is kept after an answer. Set it longer than the "
        "balancer in front keeps its connections, or the balancer may send a request on one that "
        "is just being closed.",
    )
    send_timeout_seconds: float = Field(
        60.0,
        gt=0,
        le=_LONGEST_SECONDS,
        description="Longest time in which a client reads its answer; then its connection is "
        "closed.",
    )

    max_body_bytes: int = Field(32_000_000, ge=1, description="Largest accepted request body.")
    max_body_bytes_in_progress: int = Field(
        512_000_000,
        ge=1,
        description="Most bytes of all bodies of requests in progress; beyond it requests get 429. "
        "An eighth more is kept for callers that hold little.",
    )
    max_image_pixels: int = Field(
        40_000_000,
        ge=1,
        description="Most pixels of one image, checked before it is decoded: in the file's header, "
        "in those of the coded pictures within it (AVIF, HEIC, JPEG in TIFF), and for the "
        "cells of a grid together.",
    )
    srgb_for_model: bool = Field(
        True,
        description="Whether the model sees an image with an ICC profile in sRGB, as overlays "
        "always show it. If not, it sees the stored values, as in pipelines that ignore profiles.",
    )
    decoding: DecodingName = Field(
        "fast",
        description="`fast`: a JPEG much larger than the model's input is decoded at a half, a "
        "quarter or an eighth of its size, and pictures are resized by vector instructions, with "
        "nearly the same maps. `exact`: whole and by Pillow, as in the models' own pipelines.",
    )
    max_images: int = Field(
        16, ge=1, description="Most images in one request, images of targets included."
    )
    max_prompts: int = Field(
        32, ge=1, description="Most prompts and other targets in one request, and most negatives."
    )
    max_texts: int = Field(
        1024,
        ge=1,
        description="Most texts in one request: prompts and other text targets times templates, "
        "plus negatives.",
    )
    max_prompt_characters: int = Field(
        1000, ge=1, description="Longest prompt or other text, in characters."
    )
    max_input_size: int = Field(
        1024, ge=1, description="Largest `size` option: the side of the model's input in pixels."
    )
    max_output_side: int = Field(
        2048, ge=1, description="Longest side of a heatmap or overlay, in pixels."
    )
    max_drawn_pixels: int = Field(
        100_000_000, ge=1, description="Most pixels of all heatmaps and overlays of one request."
    )
    max_drawn_pixels_in_progress: int = Field(
        400_000_000,
        ge=1,
        description="Most pixels of heatmaps and overlays of all requests in progress; beyond it "
        "requests get 429. An eighth more is kept for callers that hold little.",
    )

    url_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts from which pictures are fetched by URL, separated by commas: "
        "`HOST` for ports 80 and 443, `HOST:PORT`, `*.DOMAIN` for all names below it, or `public` "
        "for every host with a public address; unset fetches nothing.",
    )
    url_private_addresses: bool = Field(
        False,
        description="Whether a host that `LEGRAD_URL_HOSTS` names in full may have a private or "
        "loopback address.",
    )
    url_max_bytes: int = Field(
        32_000_000, ge=1, description="Most bytes of all pictures fetched for one request."
    )
    url_max_redirects: int = Field(
        3, ge=0, le=20, description="Most redirects on the way to a picture."
    )
    url_timeout_seconds: float = Field(
        10.0,
        gt=0,
        le=_LONGEST_SECONDS,
        description="Longest time to fetch a picture, from the look-up of its host to its last "
        "byte, redirects included; the request's deadline holds too.",
    )
    url_max_fetches: int = Field(
        16,
        ge=1,
        description="Most pictures fetched at once, for all requests together. One caller has at "
        "most as many as it leaves free: half of them.",
    )

    slow_request_seconds: float = Field(
        10.0,
        gt=0,
        le=_LONGEST_SECONDS,
        description="A request that takes longer is logged as a warning, `answered slowly`.",
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto",
        description="Form of log entries: `json`, one object per line; `text`, for people; or "
        "`auto`: `text` if standard error is a terminal, else `json`.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log entries that are written."
    )
