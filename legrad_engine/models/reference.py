"""Model references: one line of text that names an architecture and its weights."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from legrad_engine.errors import UnknownModelError
from legrad_engine.models import openclip_models, timm_models

STARTER = "starter"

_FOLDERS_OF_A_PATH = re.compile(r"(?<![\w:/.-])/(?:[^\s/'\"]+/)+")
_HUBS = (openclip_models.HUB, timm_models.HUB)
_FOLDERS = (openclip_models.FOLDER, timm_models.FOLDER)


@dataclass(frozen=True, slots=True)
class ModelReference:
    """Reference to a model, as written in a setting or on a command line.

    Attributes:
        name: ``"starter"``; an open_clip architecture or the path of an open_clip JSON config; or,
            with a scheme of open_clip or timm, ``hf-hub:ORG/REPO``,
            ``local-dir:FOLDER``, ``timm:NAME``, ``timm:NAME.TAG``, ``timm:hf-hub:ORG/REPO``,
            ``timm:local-dir:FOLDER``.
        pretrained: an open_clip tag or the path of a checkpoint; None for a name that includes its
            weights.
    """

    name: str
    pretrained: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelReference":
        """Parse a model reference.

        Args:
            text: ``starter``, ``NAME/TAG``, ``NAME@PATH``, ``CONFIG.json@PATH``,
                ``hf-hub:ORG/REPO``, ``local-dir:FOLDER``, ``timm:NAME``, ``timm:NAME.TAG``,
                ``timm:NAME@PATH``, ``timm:hf-hub:ORG/REPO`` or ``timm:local-dir:FOLDER``.

        Raises:
            UnknownModelError: the text has none of these forms.
        """
        text = text.strip()
        if text == STARTER:
            return cls(STARTER)
        for schema in (*_HUBS, *_FOLDERS):
            if text.startswith(schema):
                if not text.removeprefix(schema):
                    raise UnknownModelError(f"{text} does not say which model.", field="model")
                return cls(text)
        if text.startswith(timm_models.SCHEMA):
            name, at, path = text.partition("@")
            if name != timm_models.SCHEMA and bool(at) == bool(path):
                return cls(name, path or None)
        else:
            if "@" not in text and text.endswith(openclip_models.WEIGHT_SUFFIXES):
                raise UnknownModelError(
                    f"Model {text!r} does not say which architecture: write NAME@{text} for one of "
                    f"open_clip's, or CONFIG.json@{text} for an open_clip config of your own.",
                    field="model",
                )
            config, is_config, path = text.partition(".json@")
            if is_config:
                name = f"{config}.json" if config else ""
            else:
                name, _, path = text.partition("@" if "@" in text else "/")
            if name and path:
                return cls(name, path)
        raise UnknownModelError(
            f"Model {text!r} does not say which weights: write NAME/TAG, such as "
            "ViT-B-16/laion2b_s34b_b88k, NAME@PATH for a local checkpoint, CONFIG.json@PATH for an "
            "open_clip config of your own, hf-hub:ORG/REPO, "
            "local-dir:FOLDER, timm:NAME, or 'starter'." + openclip_models.tags_of(name),
            field="model",
        )

    def check(self) -> None:
        """Refuse a model that is certain to fail, before any download or loading.

        Raises:
            UnknownModelError: no such architecture, tag, config or folder.
            ModelLoadError: no such checkpoint, a damaged config, or a missing package.
        """
        if self.name == STARTER:
            return
        if self.name.startswith(timm_models.SCHEMA):
            timm_models.check(self.name, self.pretrained)
        else:
            openclip_models.check(self.name, self.pretrained)

    @property
    def title(self) -> str:
        """The name without folders of the local file system."""
        for schema in _FOLDERS:
            if self.name.startswith(schema):
                return schema + Path(self.name.removeprefix(schema)).resolve().name
        return Path(self.name).stem if self.name.endswith(".json") else self.name

    def without_folders(self, text: str) -> str:
        """Remove folders of the local file system from a message about this model."""
        folders = [
            self.name.removeprefix(schema) for schema in _FOLDERS if self.name.startswith(schema)
        ]
        config = [self.name] if self.name.endswith(".json") else []
        for path in filter(None, [*folders, *config, self.pretrained]):
            for written in (path, str(Path(path))):
                text = text.replace(written, Path(path).name)
        text = text.replace(f"{constants.HF_HUB_CACHE}{os.sep}", "")
        # Paths inside a config are matched by their form; web addresses are kept.
        return _FOLDERS_OF_A_PATH.sub("", text)

    @property
    def id(self) -> str:
        """Name that is safe in a URL: lower case letters, digits, ``.``, ``_`` and ``-``."""
        name = self.title
        for schema in ("hf-hub:", "local-dir:"):
            name = name.replace(schema, "")
        parts = [name]
        if self.pretrained is not None:
            parts.append(Path(self.pretrained).stem)
        slug = re.sub(r"[^a-z0-9._]+", "-", "-".join(parts).lower()).strip("-.")
        if slug:
            return slug
        return f"model-{hashlib.sha256(repr(self).encode()).hexdigest()[:8]}"
