"""Files of the Hugging Face hub: downloaded or from the local cache, or an error within seconds.

The hub's own client retries an unreachable server for minutes. This module first sends one short
request without retries; if it fails, only the cache is read.
"""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from legrad_engine.errors import ModelLoadError, UnknownModelError, in_one_line

_PROBE_TIMEOUT_SECONDS = 5
_TOO_MANY_REQUESTS = 429


class Repository:
    """Repository of the hub, at one revision."""

    def __init__(self, name: str, revision: str | None = None) -> None:
        """Check a repository's name; no request is sent.

        Args:
            name: ``ORG/REPO``.
            revision: a branch, tag or commit; None for the main branch.

        Raises:
            UnknownModelError: the name is not a valid repository name.
        """
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise UnknownModelError(
                f"{name!r} cannot be a repository of the model hub: write ORG/REPO.", field="model"
            ) from error
        self.name = name
        self.revision = revision
        self._is_probed = False
        self._outage: str | None = None

    def file(self, *names: str) -> Path:
        """Get the first of these files that the repository has.

        Raises:
            UnknownModelError: no such repository or revision, or none of the files exists.
            ModelLoadError: the hub cannot be reached and the cache has none of the files.
        """
        self._probe()
        missing: Exception | None = None
        for name in names:
            try:
                return Path(
                    hf_hub_download(
                        self.name,
                        name,
                        revision=self.revision,
                        local_files_only=self._outage is not None,
                    )
                )
            except EntryNotFoundError as error:
                missing = error
            except Exception as error:
                raise self._refusal(error) from error
        if self._outage is not None or isinstance(missing, LocalEntryNotFoundError):
            raise self._out_of_reach(names[0], missing) from missing
        raise UnknownModelError(
            f"{self.name} on the model hub has no {' or '.join(names)}.", field="model"
        ) from missing

    def folder(self, patterns: Sequence[str]) -> Path:
        """Get a folder with every file of the repository that matches one of the patterns.

        Raises:
            UnknownModelError: no such repository or revision.
            ModelLoadError: the hub cannot be reached and the repository is not in the cache.
        """
        self._probe()
        try:
            return Path(
                snapshot_download(
                    self.name,
                    revision=self.revision,
                    allow_patterns=list(patterns),
                    local_files_only=self._outage is not None,
                )
            )
        except LocalEntryNotFoundError as error:
            raise self._out_of_reach(patterns[0], error) from error
        except Exception as error:
            raise self._refusal(error) from error

    def _probe(self) -> None:
        """Find out once, without retries, whether the hub is reachable."""
        if not self._is_probed:
            self._outage = self._find_outage()
            self._is_probed = True

    def _find_outage(self) -> str | None:
        """Give the reason why the hub is out of reach; None if it answers."""
        url = hf_hub_url(self.name, "config.json", revision=self.revision)
        configured = constants.HF_HUB_ETAG_TIMEOUT
        is_changed = configured != constants.DEFAULT_ETAG_TIMEOUT
        try:
            get_hf_file_metadata(url, timeout=configured if is_changed else _PROBE_TIMEOUT_SECONDS)
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status >= 500 or status == _TOO_MANY_REQUESTS:
                return f"it answered {status}"
        except OfflineModeIsEnabled:
            return "HF_HUB_OFFLINE is set"
        # Versions of the hub's client use different HTTP libraries, each with its own exceptions.
        except Exception as error:
            return in_one_line(error)
        return None

    def _out_of_reach(self, file: str, error: Exception | None) -> ModelLoadError:
        reason = self._outage or (in_one_line(error) if error else "")
        return ModelLoadError(
            f"{self.name}: the model hub is out of reach ({reason}), and {file} is not in the "
            "offline cache. "
            "Copy the files into the cache from a machine that has them (HF_HUB_CACHE is the "
            "cache's folder, HF_HUB_OFFLINE=1 turns the network off), or give a local checkpoint: "
            "NAME@PATH or local-dir:FOLDER.",
            field="model",
        )

    def _refusal(self, error: Exception) -> UnknownModelError | ModelLoadError:
        if isinstance(error, GatedRepoError):
            return ModelLoadError(
                f"{self.name} on the model hub requires that its terms are accepted: accept them "
                "on its page, and set HF_TOKEN.",
                field="model",
            )
        if isinstance(error, RepositoryNotFoundError):
            return UnknownModelError(
                f"The model hub has no repository {self.name}; if it is private, set HF_TOKEN.",
                field="model",
            )
        if isinstance(error, RevisionNotFoundError):
            return UnknownModelError(
                f"{self.name} on the model hub has no revision {self.revision!r}.", field="model"
            )
        return ModelLoadError(
            f"{self.name} could not be downloaded from the model hub: {in_one_line(error)}.",
            field="model",
        )


def safer_first(name: str, *, whole: str, safe: str) -> tuple[str, ...]:
    """List the names of a weights file, with its safetensors counterpart first.

    Args:
        name: the requested file.
        whole: usual name of the pickled file.
        safe: usual name of its safetensors counterpart.
    """
    if name == whole:
        return (safe, name)
    stem, dot, suffix = name.rpartition(".")
    return (f"{stem}.safetensors", name) if dot and suffix in ("bin", "pth") else (name,)
