"""Files of a model in the layout of ``transformers``, in a folder or on the model hub."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from legrad_engine.errors import ModelLoadError, UnsupportedModelError, in_one_line
from legrad_engine.models import checkpoints
from legrad_engine.models.config_files import folder_with, read_json, refuse_own_code
from legrad_engine.models.hub import Repository
from legrad_engine.models.hugging_face.registry import ModelClass, Weights, find_class
from legrad_engine.models.schemes import TRANSFORMERS, transformers_folder
from legrad_engine.models.unwrapping import unwrap

CONFIG_FILE = "config.json"

# The order of transformers. An index names the files that the weights are spread over.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SMALL_FILES = ("*.json", "*.txt", "*.model")
_ADAPTER = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of one model.

    Attributes:
        folder: folder with the config, the numbers of the image processor and the tokenizer.
        repository: the repository on the hub; None for a folder.
    """

    folder: Path
    repository: Repository | None

    @classmethod
    def of(cls, name: str) -> "ModelFiles":
        """Find the files of ``transformers:FOLDER``, or get the small ones of a repository.

        Raises:
            UnknownModelError: no such folder or repository, or it has no config.
            ModelLoadError: the hub is out of reach.
        """
        path = transformers_folder(name)
        if path is not None:
            return cls(_checked(Path(path)), None)
        repository = repository_of(name)
        # A repository without a config is refused by its name, before its other files are fetched.
        repository.file(CONFIG_FILE)
        return cls(repository.folder(_SMALL_FILES), repository)

    def config(self) -> tuple[ModelClass, Any]:
        """Read the config.

        Returns:
            The model's class and its config, an object of ``transformers``.

        Raises:
            ModelLoadError: the config is damaged, or requires code of its own.
            UnsupportedModelError: the class is not supported, or the weights are quantised.
        """
        path = self.folder / CONFIG_FILE
        settings = read_json(path)
        names = settings.get("architectures") if isinstance(settings, dict) else None
        if not (isinstance(names, list) and names and isinstance(names[0], str)):
            raise ModelLoadError(
                f"The model config {str(path)!r} must name its class, as transformers saves it: "
                '{"architectures": ["CLIPModel"], ...}.',
                field="model",
            )
        refuse_own_code(settings, path)
        model_class = find_class(names[0])
        if settings.get("quantization_config"):
            raise UnsupportedModelError(
                "The weights of this model are quantised (quantization_config), which is not "
                "supported: use the original weights.",
                field="model",
            )
        try:
            config = import_module("transformers").AutoConfig.from_pretrained(
                str(self.folder), trust_remote_code=False
            )
        except Exception as error:
            raise ModelLoadError(
                f"transformers cannot read the model config {str(path)!r}: {in_one_line(error)}.",
                field="model",
            ) from error
        return model_class, config

    def find_weights(self) -> list[Path]:
        """Find the files of the weights, downloading them if needed.

        Raises:
            UnknownModelError: the repository has no weights.
            ModelLoadError: the folder has no weights, or not all of them.
        """
        first = self._first_of(_WEIGHTS)
        if first.suffix != ".json":
            return [first]
        index = read_json(first)
        names = index.get("weight_map") if isinstance(index, dict) else None
        if not (isinstance(names, dict) and all(_is_plain(name) for name in names.values())):
            raise ModelLoadError(
                f"{str(first)!r} must list the files of the weights under weight_map.",
                field="model",
            )
        return [self._first_of([name]) for name in sorted(set(names.values()))]

    def weights(self) -> Weights:
        """Read the weights, in as many files as they are.

        Raises:
            UnknownModelError, ModelLoadError: see :meth:`find_weights` and
                :func:`legrad_engine.models.checkpoints.read`.
        """
        paths = self.find_weights()
        if len(paths) == 1:
            return checkpoints.read(paths[0])
        weights: dict[Any, Any] = {}
        for path in paths:
            part = checkpoints.content_of(path)
            weights |= part if isinstance(part, dict) else {}
        # Containers and prefixes are those of all parts: one part may have one half of a model.
        return unwrap(weights, repr(str(self.folder)))

    def _first_of(self, names: Sequence[str]) -> Path:
        if self.repository is not None:
            return self.repository.file(*names)
        for name in names:
            if (self.folder / name).is_file():
                return self.folder / name
        is_adapter = (self.folder / _ADAPTER).is_file()
        adapter = f" {checkpoints.ADAPTER_REMEDY}." if is_adapter else ""
        raise ModelLoadError(
            f"The folder {str(self.folder)!r} has no {' or '.join(names)}.{adapter}", field="model"
        )


def repository_of(name: str) -> Repository:
    """Return the repository of ``transformers:ORG/REPO``, with ``@REVISION`` or without.

    Raises:
        UnknownModelError: the name is not a valid repository name.
    """
    repository, _, revision = name.removeprefix(TRANSFORMERS).partition("@")
    return Repository(repository, revision or None)


def require_package(name: str) -> None:
    """Refuse a model if the package that reads its config is not installed.

    Raises:
        ModelLoadError: the package is missing.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ModelLoadError(
            f"{name} needs the transformers package: pip install 'legrad-service[hf]'.",
            field="model",
        )


def _checked(folder: Path) -> Path:
    return folder_with(
        CONFIG_FILE,
        folder,
        taken="transformers: takes folders that save_pretrained wrote, local-dir: those of "
        "open_clip, timm:local-dir: those of timm.",
    )


def _is_plain(name: object) -> bool:
    """Tell whether a name is that of a file in the same folder."""
    return isinstance(name, str) and Path(name).name == name
