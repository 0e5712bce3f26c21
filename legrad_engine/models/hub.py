"""Files of the Hugging Face hub: from its local cache, or downloaded, or refused in seconds.

The hub's own client retries a silent server for minutes. Here one short question comes first; where
it gets no answer, only the cache is read.
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

_SECONDS_TO_ANSWER = 5
_TOO_MANY_REQUESTS = 429


class Repository:
    """One repository of the hub, at one revision."""

    def __init__(self, name: str, revision: str | None = None) -> None:
        """Names a repository; nothing is asked yet.

        Args:
            name: ``ORG/REPO``.
            revision: a branch, tag or commit; None for the main branch.

        Raises:
            UnknownModelError: no repository can have that name.
        """
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise UnknownModelError(
                f"{name!r} cannot be a repository of the model hub: write ORG/REPO.", field="model"
            ) from error
        self.name = name
        self.revision = revision
        self._asked = False
        self._silence: str | None = None

    def file(self, *names: str) -> Path:
        """The first of these files that the repository has.

        Raises:
            UnknownModelError: no such repository or revision, or it has none of the files.
            ModelLoadError: the hub cannot be reached and the cache has none of the files.
        """
        self._ask()
        missing: Exception | None = None
        for name in names:
            try:
                return Path(
                    hf_hub_download(
                        self.name,
                        name,
                        revision=self.revision,
                        local_files_only=self._silence is not None,
                    )
                )
            except EntryNotFoundError as error:
                missing = error
            except Exception as error:
                raise self._refusal(error) from error
        if self._silence is not None or isinstance(missing, LocalEntryNotFoundError):
            raise self._out_of_reach(names[0], missing) from missing
        raise UnknownModelError(
            f"{self.name} on the model hub has no {' or '.join(names)}.", field="model"
        ) from missing

    def folder(self, patterns: Sequence[str]) -> Path:
        """A folder with every file of the repository that matches one of the patterns.

        Raises:
            UnknownModelError: no such repository or revision.
            ModelLoadError: the hub cannot be reached and the cache does not know the repository.
        """
        self._ask()
        try:
            return Path(
                snapshot_download(
                    self.name,
                    revision=self.revision,
                    allow_patterns=list(patterns),
                    local_files_only=self._silence is not None,
                )
            )
        except LocalEntryNotFoundError as error:
            raise self._out_of_reach(patterns[0], error) from error
        except Exception as error:
            raise self._refusal(error) from error

    def _ask(self) -> None:
        """Finds out why the hub does not answer, if so. Asked once, without retries."""
        if not self._asked:
            self._silence = self._why_silent()
            self._asked = True

    def _why_silent(self) -> str | None:
        url = hf_hub_url(self.name, "config.json", revision=self.revision)
        chosen = constants.HF_HUB_ETAG_TIMEOUT
        theirs = chosen != constants.DEFAULT_ETAG_TIMEOUT
        try:
            get_hf_file_metadata(url, timeout=chosen if theirs else _SECONDS_TO_ANSWER)
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status >= 500 or status == _TOO_MANY_REQUESTS:
                return f"it answered {status}"
        except OfflineModeIsEnabled:
            return "HF_HUB_OFFLINE is set"
        # The hub's client has changed its HTTP library, and with it what it raises, before.
        except Exception as error:
            return in_one_line(error)
        return None

    def _out_of_reach(self, file: str, error: Exception | None) -> ModelLoadError:
        reason = self._silence or (in_one_line(error) if error else "")
        return ModelLoadError(
            f"{self.name}: the model hub is out of reach ({reason}), and {file} is not in the "
            "offline cache. "
            "Copy the files into the cache from a machine that has them (HF_HUB_CACHE says where "
            "it is, HF_HUB_OFFLINE=1 asks nothing of the network), or give a local checkpoint: "
            "NAME@PATH or local-dir:FOLDER.",
            field="model",
        )

    def _refusal(self, error: Exception) -> UnknownModelError | ModelLoadError:
        if isinstance(error, GatedRepoError):
            return ModelLoadError(
                f"{self.name} on the model hub asks for its terms to be accepted: do so on its "
                "page, and set HF_TOKEN.",
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
            f"{self.name} could not be had from the model hub: {in_one_line(error)}.",
            field="model",
        )


def safer_first(name: str, *, whole: str, safe: str) -> tuple[str, ...]:
    """A weights file, after the safetensors file that repositories keep in its place.

    Args:
        name: the file asked for.
        whole: a pickled file's usual name.
        safe: the usual name of its safetensors twin.
    """
    if name == whole:
        return (safe, name)
    stem, dot, suffix = name.rpartition(".")
    return (f"{stem}.safetensors", name) if dot and suffix in ("bin", "pth") else (name,)
