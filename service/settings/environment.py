"""The settings of a running service: environment variables in, small frozen values out."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from service.settings.batches import CPU_BATCH_IMAGES, BatchPolicy
from service.settings.checks import CheckedVariables
from service.settings.cores import available_cores, picture_processes
from service.settings.keys import read_keys
from service.settings.models import NamedModel, named_models
from service.settings.presence import read_calibrations
from service.settings.url_policy import UrlRules
from service.settings.values import (
    AccessPolicy,
    AdmissionLimits,
    BodyLimits,
    ConnectionLimits,
    ModelPolicy,
    PictureLimits,
    PictureRules,
    RequestLimits,
    UrlPolicy,
)

# Most memory for a pixel that is decoded, and for one that is drawn; docs/settings.md names both.
_DECODED_BYTES = 24
_DRAWN_BYTES = 8
# Buffers of decoders, and pieces of memory between them, whatever the size of the picture.
_LEAST_PICTURE_BYTES = 64_000_000


class Settings(CheckedVariables):
    """All settings of a running service, and the values that its classes receive from them."""

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

    def batch_policy(self, device: str) -> BatchPolicy:
        """Return the limits on batches and on the queue of each model.

        Args:
            device: value of ``torch.device.type``.
        """
        return BatchPolicy.of(
            device,
            self.max_batch_images,
            self.max_batch_cost,
            self.max_queue_cost,
            self.max_wait_ms / 1000,
        )

    @property
    def cpu_batch_images(self) -> int:
        """Most images in one batch on a CPU; accelerators may take more."""
        return self.max_batch_images or CPU_BATCH_IMAGES

    @property
    def body_limits(self) -> BodyLimits:
        """Limits on request bodies."""
        return BodyLimits(self.max_body_bytes, self.max_body_bytes_in_progress)

    @property
    def connection_limits(self) -> ConnectionLimits:
        """Limits on connections."""
        return ConnectionLimits(
            self.max_connections,
            self.head_timeout_seconds,
            self.send_timeout_seconds,
        )

    @property
    def model_policy(self) -> ModelPolicy:
        """The served models and how they are kept in memory.

        Raises:
            UnknownModelError: an entry does not say which weights.
            InvalidOptionError: two different models would have the same id, or a presence
                calibration cannot be used.
        """
        return ModelPolicy(
            models=self.named_models,
            presence=read_calibrations(self.presence, self.named_models),
            on_demand=self.load_models == "on-demand",
            max_bytes=self.max_model_bytes,
            dtype=self.dtype,
            accelerate=self.accelerate,
            trace_cache_bytes=self.trace_cache_bytes,
            stall_seconds=self.stall_timeout_seconds,
            checks_folder=self.checks_dir,
        )

    @property
    def request_limits(self) -> RequestLimits:
        """Limits on the content of one request."""
        return RequestLimits(
            max_images=self.max_images,
            max_prompts=self.max_prompts,
            max_texts=self.max_texts,
            max_text_characters=self.max_prompt_characters,
            max_input_size=self.max_input_size,
            max_output_side=self.max_output_side,
        )

    @property
    def picture_rules(self) -> PictureRules:
        """How pictures are decoded."""
        return PictureRules(self.max_image_pixels, self.srgb_for_model, self.decoding)

    @property
    def picture_limits(self) -> PictureLimits:
        """The picture processes and their limits."""
        pixels = max(_DECODED_BYTES * self.max_image_pixels, _DRAWN_BYTES * self.max_drawn_pixels)
        return PictureLimits(
            processes=self.picture_processes or picture_processes(available_cores()),
            seconds=self.picture_timeout_seconds,
            max_bytes=self.picture_max_bytes or pixels + _LEAST_PICTURE_BYTES,
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
    def named_models(self) -> tuple[NamedModel, ...]:
        """The models to serve, without repeats.

        Raises:
            UnknownModelError: an entry does not say which weights, or its name is not safe.
            InvalidOptionError: two different models would have the same id.
        """
        return named_models(self.models)


# Kubernetes and Docker links set these for a service named `legrad`.
_SERVICE_LINKS = re.compile(r"LEGRAD_(\w+_)?(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP))(_\w+)?")


_RENAMED = {"LEGRAD_PICTURE_THREADS": "LEGRAD_PICTURE_PROCESSES"}


def unknown_variables(variables: Iterable[str]) -> dict[str, str | None]:
    """Return the variables with the prefix that are no settings, each with the most similar one.

    Args:
        variables: names of environment variables.
    """
    prefix = Settings.model_config["env_prefix"]
    known = [f"{prefix}{field}".upper() for field in Settings.model_fields]
    return {
        name: _RENAMED.get(name.upper())
        or next(iter(get_close_matches(name.upper(), known, 1, 0.8)), None)
        for name in sorted(variables)
        if name.upper().startswith(prefix)
        and name.upper() not in known
        and not _SERVICE_LINKS.fullmatch(name.upper())
    }
