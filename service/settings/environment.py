"""All settings of the service, read from ``LEGRAD_*`` environment variables."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from legrad_engine.errors import InvalidOptionError
from legrad_engine.models import ModelReference
from service.batching import DEFAULT_STALL_SECONDS, BatchLimits
from service.settings.keys import read_keys
from service.settings.origins import check_origins
from service.settings.proxies import trusted_networks
from service.settings.url_policy import UrlRules
from service.settings.values import (
    AccessPolicy,
    AdmissionLimits,
    BodyLimits,
    ConnectionLimits,
    DtypeName,
    ModelPolicy,
    RequestLimits,
    UrlPolicy,
)


class Settings(BaseSettings):
    """Every limit and choice of a running service. Environment prefix: ``LEGRAD_``."""

    model_config = SettingsConfigDict(
        env_prefix="LEGRAD_",
        frozen=True,
        # Some are secret.
        hide_input_in_errors=True,
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    admin_host: str | None = Field(
        None, description="Address to listen on for `LEGRAD_ADMIN_PORT`; `LEGRAD_HOST` if unset."
    )
    admin_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of a second address, which alone answers loading, unloading and "
        "`/metrics`, and explains nothing; 0 picks a free one. Unset, one address answers all.",
    )
    api_keys: SecretStr | None = Field(
        None,
        description="API keys with their scopes and limits, as a JSON list; see docs/access.md. "
        "Without keys explaining and metrics are open to all, and loading and unloading are off.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="A file with this list, instead; what changes in it takes effect within "
        "seconds.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses and networks of proxies whose `X-Forwarded-For` and "
        "`X-Forwarded-Proto` are believed, separated by commas; unset believes nobody.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins whose web pages may ask, such as `https://app.example.org`, "
        "separated by commas, or `*`; unset allows none.",
    )

    models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("starter",),
        min_length=1,
        description=(
            "Models to serve, separated by commas; the first one is the default. Write `starter`, "
            "`NAME/TAG` for open_clip's pretrained weights, `NAME@PATH` for a checkpoint, or "
            "another form of docs/own-models.md."
        ),
    )
    load_models: Literal["at-start", "on-demand"] = Field(
        "at-start",
        description="When models are loaded: `at-start`, or `on-demand` by the first request for "
        "each, which waits for it until its deadline.",
    )
    max_model_bytes: int | None = Field(
        None,
        ge=1,
        description="Most bytes of weights in memory. A model that needs room unloads those that "
        "were not used for longest and have no work; unset has no limit.",
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda`, `cuda:N` or `mps`.")
    dtype: DtypeName = Field("float32", description="Precision of weights and activations.")
    compute_threads: int | None = Field(
        None, ge=1, description="CPU threads for tensor work; unset lets torch choose."
    )

    max_batch_images: int = Field(16, ge=1, description="Most images in one batch.")
    max_batch_cost: float = Field(
        32.0,
        gt=0,
        description="Most work in one batch. One image at the model's own size costs 1, and each "
        "of its targets about 0.4 / depth for each explained layer.",
    )
    max_queue_cost: float = Field(
        128.0, gt=0, description="Most work that may wait; beyond it requests get 429."
    )
    max_wait_ms: float = Field(
        0.0,
        ge=0,
        le=10_000,
        description="How long an image may wait for its batch to fill. 0 never waits: while one "
        "batch computes, the next one gathers.",
    )
    request_timeout_seconds: float = Field(
        30.0, gt=0, description="Deadline of a request; a header can only make it shorter."
    )
    drain_timeout_seconds: float = Field(
        30.0, gt=0, description="How long a stopping server finishes what it has accepted."
    )
    stall_timeout_seconds: float = Field(
        DEFAULT_STALL_SECONDS,
        gt=0,
        description="How long a model may compute one batch, much longer than the largest takes. A "
        "worker that takes longer hangs: its requests get 503, and another worker replaces it.",
    )
    shutdown_delay_seconds: float = Field(
        0.0,
        ge=0,
        description="How long a server that was told to stop still accepts requests while "
        "`/health/ready` is 503, before that draining begins; a little longer than a load balancer "
        "takes to notice.",
    )
    max_requests_in_progress: int = Field(
        256, ge=1, description="Requests read, decoded, queued, computed, drawn or sent at once."
    )
    picture_threads: int = Field(2, ge=1, description="Threads that decode and draw pictures.")
    picture_timeout_seconds: float = Field(
        10.0,
        gt=0,
        description="How long decoding or drawing one picture may take; beyond it the request gets "
        "422, and the thread is busy until it is done.",
    )

    trace_cache_bytes: int = Field(
        256_000_000,
        ge=0,
        description="Memory for what is kept of pictures seen lately, so that another question "
        "about one skips decoding and the forward pass; 0 keeps nothing. Traces lie in the model's "
        "own memory, on the GPU if it runs there.",
    )

    max_connections: int = Field(
        1000,
        ge=1,
        description="Most open connections. A further one takes the place of the one that is idle "
        "for longest; where none is, it is closed at once.",
    )
    head_timeout_seconds: float = Field(
        15.0,
        gt=0,
        description="How long a connection may take to send the head of a request, or the rest of "
        "a body that was refused; one that stays idle after an answer is closed after 75 s.",
    )
    send_timeout_seconds: float = Field(
        60.0,
        gt=0,
        description="How long a client may take to read its answer before it is given up.",
    )

    max_body_bytes: int = Field(32_000_000, ge=1, description="Largest accepted request body.")
    max_body_bytes_in_progress: int = Field(
        512_000_000,
        ge=1,
        description="Most bytes of all bodies of requests in progress; beyond it requests get 429.",
    )
    max_image_pixels: int = Field(
        40_000_000, ge=1, description="Most pixels of one image, checked before it is decoded."
    )
    max_images: int = Field(
        16, ge=1, description="Most images in one request, those of targets included."
    )
    max_prompts: int = Field(
        32, ge=1, description="Most prompts and other targets in one request; as many negatives."
    )
    max_texts: int = Field(
        1024,
        ge=1,
        description="Most texts in one request: those of prompts and other targets times "
        "templates, and negatives.",
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
        "requests get 429.",
    )

    url_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts from which pictures are fetched by address, separated by commas: "
        "`HOST` for ports 80 and 443, `HOST:PORT`, `*.DOMAIN` for all names below it, or `public` "
        "for every host of the internet; unset fetches nothing.",
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
        description="How long fetching a picture may take from look-up to last byte, redirects "
        "included, within the request's own deadline.",
    )
    url_max_fetches: int = Field(
        16, ge=1, description="Pictures fetched at once, for all requests together."
    )

    slow_request_seconds: float = Field(
        10.0,
        gt=0,
        description="A request that takes longer is logged as a warning, `answered slowly`.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least important log entry that is written."
    )

    @field_validator("models", "url_hosts", "trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("url_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        UrlRules(value, private_addresses=False)
        return value

    @field_validator("api_keys", "api_keys_file", "admin_host", "admin_port", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        # What a variable that was left empty in a compose file means.
        return None if value == "" else value

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                read_keys(value.get_secret_value(), "the setting")
            except InvalidOptionError as error:
                raise ValueError(str(error)) from None
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        trusted_networks(value)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_origins(value)
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.api_keys is not None and self.api_keys_file is not None:
            raise ValueError("Set LEGRAD_API_KEYS or LEGRAD_API_KEYS_FILE, not both.")
        if self.admin_host is not None and self.admin_port is None:
            raise ValueError("LEGRAD_ADMIN_HOST needs LEGRAD_ADMIN_PORT.")
        if self.admin_port and self.admin_port == self.port:
            raise ValueError("LEGRAD_ADMIN_PORT must be another port than LEGRAD_PORT.")
        return self

    @property
    def access_policy(self) -> AccessPolicy:
        """API keys and the operators' address.

        Raises:
            InvalidOptionError: the keys are not a list of keys.
        """
        keys = self.api_keys
        return AccessPolicy(
            keys=None if keys is None else read_keys(keys.get_secret_value(), "LEGRAD_API_KEYS"),
            keys_file=self.api_keys_file,
            admin_port=self.admin_port,
        )

    @property
    def admission_limits(self) -> AdmissionLimits:
        """Limits on the requests in progress."""
        return AdmissionLimits(
            max_requests=self.max_requests_in_progress,
            max_drawn_pixels_each=self.max_drawn_pixels,
            max_drawn_pixels=self.max_drawn_pixels_in_progress,
        )

    @property
    def batch_limits(self) -> BatchLimits:
        """Limits on batches and on the queue of each model."""
        return BatchLimits(
            max_batch_items=self.max_batch_images,
            max_batch_cost=self.max_batch_cost,
            max_queue_cost=self.max_queue_cost,
            max_wait_seconds=self.max_wait_ms / 1000,
        )

    @property
    def body_limits(self) -> BodyLimits:
        """Limits on request bodies."""
        return BodyLimits(self.max_body_bytes, self.max_body_bytes_in_progress)

    @property
    def connection_limits(self) -> ConnectionLimits:
        """Limits on connections."""
        return ConnectionLimits(
            self.max_connections, self.head_timeout_seconds, self.send_timeout_seconds
        )

    @property
    def model_policy(self) -> ModelPolicy:
        """The served models and how they are kept in memory.

        Raises:
            UnknownModelError: an entry does not say which weights.
            InvalidOptionError: two different models would have the same id.
        """
        return ModelPolicy(
            references=self.model_references,
            on_demand=self.load_models == "on-demand",
            max_bytes=self.max_model_bytes,
            device=self.device,
            dtype=self.dtype,
            trace_cache_bytes=self.trace_cache_bytes,
            stall_seconds=self.stall_timeout_seconds,
        )

    @property
    def request_limits(self) -> RequestLimits:
        """Limits on the content of one request."""
        return RequestLimits(
            max_images=self.max_images,
            max_image_pixels=self.max_image_pixels,
            max_prompts=self.max_prompts,
            max_texts=self.max_texts,
            max_text_characters=self.max_prompt_characters,
            max_input_size=self.max_input_size,
            max_output_side=self.max_output_side,
        )

    @property
    def url_policy(self) -> UrlPolicy:
        """Pictures that are fetched by URL."""
        return UrlPolicy(
            rules=UrlRules(self.url_hosts, self.url_private_addresses),
            max_bytes=self.url_max_bytes,
            max_redirects=self.url_max_redirects,
            timeout_seconds=self.url_timeout_seconds,
            max_fetches=self.url_max_fetches,
        )

    @property
    def model_references(self) -> tuple[ModelReference, ...]:
        """The models to serve, without repeats.

        Raises:
            UnknownModelError: an entry does not say which weights.
            InvalidOptionError: two different models would have the same id.
        """
        references = tuple(dict.fromkeys(ModelReference.parse(text) for text in self.models))
        if len({reference.id for reference in references}) < len(references):
            raise InvalidOptionError(
                f"Two of the models {', '.join(self.models)} would have the same id: rename one "
                "of the files.",
                field="models",
            )
        return references


def unknown_variables(variables: Iterable[str]) -> dict[str, str | None]:
    """Variables that look like settings and are none, each with the setting it resembles most."""
    prefix = Settings.model_config["env_prefix"]
    known = [f"{prefix}{field}".upper() for field in Settings.model_fields]
    return {
        name: next(iter(get_close_matches(name.upper(), known, 1, 0.8)), None)
        for name in sorted(variables)
        if name.upper().startswith(prefix) and name.upper() not in known
    }
