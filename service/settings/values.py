"""Small frozen values that classes get in place of the whole settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from legrad_engine.legrad.switches import Acceleration

if TYPE_CHECKING:
    # Picture processes import this module, and need none of these.
    from legrad_engine.presence import PresenceCalibration
    from service.settings.keys import ApiKey
    from service.settings.models import NamedModel
    from service.settings.url_policy import UrlRules

DtypeName = Literal["auto", "float32", "float16", "bfloat16"]
DecodingName = Literal["fast", "exact"]


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """API keys and the address for operators.

    Attributes:
        keys: the keys, or None where the server asks for none.
        keys_file: a file of keys in place of ``keys``; read again when it changes.
        admin_port: port of the operators' own address, or None where one address answers all.
    """

    keys: "tuple[ApiKey, ...] | None"
    keys_file: Path | None
    admin_port: int | None


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Limits on the requests in progress.

    Attributes:
        max_requests: most requests at once.
        max_drawn_pixels_each: most pixels of the heatmaps and overlays of one request.
        max_drawn_pixels: most pixels of the heatmaps and overlays of all requests.
    """

    max_requests: int
    max_drawn_pixels_each: int
    max_drawn_pixels: int


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits on request bodies.

    Attributes:
        max_bytes: most bytes of one body.
        max_bytes_in_progress: most bytes of the bodies of all requests in progress.
    """

    max_bytes: int
    max_bytes_in_progress: int


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits on connections.

    Attributes:
        max_connections: most open connections.
        head_seconds: longest time in which the head of a request, or the rest of a refused body,
            arrives.
        send_seconds: longest time in which a client reads its answer.
    """

    max_connections: int
    head_seconds: float
    send_seconds: float


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Limits on the content of one request.

    Attributes:
        max_images: most images, those of targets included.
        max_prompts: most prompts and other targets; as many negatives.
        max_texts: most texts, prompts times templates.
        max_text_characters: longest text, in characters.
        max_input_size: largest side of the model's input, in pixels.
        max_output_side: longest side of a heatmap or overlay, in pixels.
    """

    max_images: int
    max_prompts: int
    max_texts: int
    max_text_characters: int
    max_input_size: int
    max_output_side: int


# No slots: pickling would then read and set each field by Python code.
@dataclass(frozen=True)
class PictureRules:
    """How pictures are decoded.

    Attributes:
        max_pixels: most pixels of one image.
        srgb_for_model: whether the model, too, gets pictures in sRGB by their ICC profile.
        decoding: whether large JPEGs are decoded smaller.
    """

    max_pixels: int
    srgb_for_model: bool = True
    decoding: DecodingName = "fast"


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """The processes that decode and draw pictures.

    Attributes:
        processes: number of processes.
        seconds: longest time of decoding or drawing one picture.
        max_bytes: most memory of decoding or drawing one picture, beyond that of an idle process.
    """

    processes: int
    seconds: float
    max_bytes: int


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """The served models and how they are kept in memory.

    Attributes:
        models: the models; the first one is the default.
        presence: presence calibrations by the ids of models.
        on_demand: whether the first request loads a model, in place of the start of the server.
        max_bytes: most bytes of weights in memory, or None for no limit.
        dtype: precision of weights and activations; ``auto`` follows the devices.
        accelerate: what CUDA devices use, see :class:`legrad_engine.Explainer`.
        trace_cache_bytes: most bytes of kept traces and canvases.
        stall_seconds: longest time of one batch before its worker is replaced.
        checks_folder: folder of the results of ``legrad check``; None for the usual one.
    """

    models: "tuple[NamedModel, ...]"
    presence: "Mapping[str, PresenceCalibration]"
    on_demand: bool
    max_bytes: int | None
    dtype: DtypeName
    accelerate: Acceleration
    trace_cache_bytes: int
    stall_seconds: float
    checks_folder: Path | None = None


@dataclass(frozen=True, slots=True)
class UrlPolicy:
    """Pictures that are fetched by URL.

    Attributes:
        rules: the hosts that are allowed.
        max_bytes: most bytes of all pictures fetched for one request.
        max_redirects: most redirects on the way to a picture.
        timeout_seconds: longest time to fetch one picture.
        max_fetches: most pictures fetched at once, for all requests together.
    """

    rules: "UrlRules"
    max_bytes: int
    max_redirects: int
    timeout_seconds: float
    max_fetches: int
