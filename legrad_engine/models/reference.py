"""Model references: one line of text that names an architecture and its weights."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from legrad_engine.errors import UnknownModelError
from legrad_engine.models import schemes
from legrad_engine.models.remote_weights import RemoteWeights, is_remote

_FOLDERS_OF_A_PATH = re.compile(r"(?<![\w:/.-])/(?:[^\s/'\"]+/)+")
_HUBS = (schemes.OPENCLIP_HUB, schemes.TIMM_HUB)
_FOLDERS = (schemes.OPENCLIP_FOLDER, schemes.TIMM_FOLDER)
# Schemes before an architecture, which a checkpoint may follow.
_NAMES = (schemes.TIMM, schemes.BCOS)


@dataclass(frozen=True, slots=True)
class ModelReference:
    """Reference to a model, as written in a setting or on a command line.

    Attributes:
        name: ``"starter"``; an open_clip architecture or the path of an open_clip JSON config; or,
            with a scheme of open_clip or timm, ``hf-hub:ORG/REPO``,
            ``local-dir:FOLDER``, ``timm:NAME``, ``timm:NAME.TAG``, ``timm:hf-hub:ORG/REPO``,
            ``timm:local-dir:FOLDER``, ``transformers:FOLDER``, ``transformers:ORG/REPO``; or
            ``bcos:NAME`` for one of the package ``bcos``.
        pretrained: an open_clip tag, or the path or URI of a checkpoint, see
            :mod:`legrad_engine.models.remote_weights`; None for a name that includes its weights.
        origin: the open_clip tag whose weights the checkpoint was made from; its preprocessing is
            then the checkpoint's. None if not told.
    """

    name: str
    pretrained: str | None = None
    origin: str | None = None

    @classmethod
    def of(cls, name: str, pretrained: str | None = None) -> "ModelReference":
        """Make a reference of a name with or without its weights.

        Args:
            name: a whole reference as in :meth:`parse`; or an architecture or the path of a config,
                with ``/ORIGIN`` or without.
            pretrained: an open_clip tag, or the path or URI of a checkpoint; None if the name
                includes its weights, or for random weights.

        Raises:
            UnknownModelError: see :meth:`parse`.
        """
        name = name.strip()
        _check_places(*(_at_the_checkpoint(name) if pretrained is None else (name, pretrained)))
        if pretrained is None:
            is_whole = "@" in name or "/" in name or name.startswith(_NAMES)
            return cls(name) if name.endswith(".json") or not is_whole else cls.parse(name)
        if ":" not in name and not name.endswith(".json"):
            name, _, origin = name.partition("/")
            return cls(name, pretrained, origin or None)
        return cls(name, pretrained)

    @classmethod
    def parse(cls, text: str) -> "ModelReference":
        """Parse a model reference.

        Args:
            text: ``starter``, ``NAME/TAG``, ``NAME@PATH``, ``NAME/ORIGIN@PATH``,
                ``CONFIG.json@PATH``, ``hf-hub:ORG/REPO``, ``local-dir:FOLDER``, ``timm:NAME``,
                ``timm:NAME.TAG``, ``timm:NAME@PATH``, ``timm:NAME.ORIGIN@PATH``,
                ``timm:hf-hub:ORG/REPO``, ``timm:local-dir:FOLDER``, ``transformers:FOLDER``,
                ``transformers:ORG/REPO`` or ``bcos:NAME@PATH``; ``@REVISION`` may follow ORG/REPO
                after ``timm:`` and ``transformers:``.

        Where a form has a PATH, it may be a URI: ``s3://``, ``gs://`` or ``https://``, and
        ``#sha256=`` with the checksum of the file.

        Raises:
            UnknownModelError: the text has none of these forms.
        """
        text = text.strip()
        _check_places(*_at_the_checkpoint(text))
        if text == schemes.STARTER:
            return cls(schemes.STARTER)
        for scheme in (*_HUBS, *_FOLDERS, schemes.TRANSFORMERS):
            if text.startswith(scheme):
                if not text.removeprefix(scheme):
                    raise UnknownModelError(f"{text} does not say which model.", field="model")
                return cls(text)
        if text.startswith(_NAMES):
            name, at, path = text.partition("@")
            if name not in _NAMES and bool(at) == bool(path):
                return cls(name, path or None)
        else:
            if "@" not in text and text.partition("#")[0].endswith(
                schemes.OPENCLIP_WEIGHT_SUFFIXES
            ):
                raise UnknownModelError(
                    f"Model {text!r} does not say which architecture: write NAME@{text} for one of "
                    f"open_clip's, or CONFIG.json@{text} for an open_clip config of your own.",
                    field="model",
                )
            config, is_config, path = text.partition(".json@")
            origin, slash = "", ""
            if is_config:
                name = f"{config}.json" if config else ""
            elif "@" in text:
                name, _, path = text.partition("@")
                name, slash, origin = name.partition("/")
            else:
                name, _, path = text.partition("/")
            if name and path and bool(slash) == bool(origin):
                return cls(name, path, origin or None)
        # Imported here, because open_clip imports torch.
        from legrad_engine.models.openclip_models import tags_of

        raise UnknownModelError(
            f"Model {text!r} does not say which weights: write NAME/TAG, such as "
            "ViT-B-16/laion2b_s34b_b88k, NAME@PATH or NAME/TAG@PATH for a local checkpoint, "
            "CONFIG.json@PATH for an open_clip config of your own, hf-hub:ORG/REPO, "
            "local-dir:FOLDER, timm:NAME, transformers:FOLDER or transformers:ORG/REPO, "
            "bcos:NAME@PATH, or 'starter'." + tags_of(name),
            field="model",
        )

    def check(self) -> None:
        """Refuse a model that is certain to fail, before any download or loading.

        Raises:
            UnknownModelError: no such architecture, tag, config or folder.
            ModelLoadError: no such checkpoint, a damaged config, or a missing package.
        """
        if self.name == schemes.STARTER:
            return
        # Imported here, because open_clip and timm import torch.
        from legrad_engine.models import (
            bcos_models,
            openclip_models,
            timm_models,
            transformers_models,
        )

        if self.name.startswith(schemes.TIMM):
            timm_models.check(self)
        elif self.name.startswith(schemes.TRANSFORMERS):
            transformers_models.check(self)
        elif self.name.startswith(schemes.BCOS):
            bcos_models.check(self)
        else:
            openclip_models.check(self)

    @property
    def title(self) -> str:
        """The name without folders of the local file system."""
        folder = self.folder
        if folder is not None:
            return self.name.removesuffix(folder) + Path(folder).resolve().name
        return Path(self.name).stem if self.name.endswith(".json") else self.name

    def without_folders(self, text: str) -> str:
        """Remove folders of the local file system from a message about this model."""
        config = [self.name] if self.name.endswith(".json") else []
        for path in filter(None, [self.folder, *config, self.pretrained]):
            # A folder in the current one tells no other; the name "." would match every full stop.
            for written in filter(lambda each: os.sep in each, (path, str(Path(path)))):
                text = text.replace(written, Path(path).name)
        text = text.replace(f"{constants.HF_HUB_CACHE}{os.sep}", "")
        # Paths inside a config are matched by their form; web addresses are kept.
        return _FOLDERS_OF_A_PATH.sub("", text)

    @property
    def folder(self) -> str | None:
        """The local folder that the name includes, as written; None without one."""
        for scheme in _FOLDERS:
            if self.name.startswith(scheme):
                return self.name.removeprefix(scheme)
        return schemes.transformers_folder(self.name)

    @property
    def id(self) -> str:
        """Name that is safe in a URL: lower case letters, digits, ``.``, ``_`` and ``-``."""
        name = self.title
        for scheme in (schemes.OPENCLIP_HUB, schemes.OPENCLIP_FOLDER, schemes.TRANSFORMERS):
            name = name.replace(scheme, "")
        parts = [name]
        if self.pretrained is not None:
            parts.append(Path(self.pretrained).stem)
        slug = re.sub(r"[^a-z0-9._]+", "-", "-".join(parts).lower()).strip("-.")
        if slug:
            return slug
        return f"model-{hashlib.sha256(repr(self).encode()).hexdigest()[:8]}"


def _at_the_checkpoint(text: str) -> tuple[str, str | None]:
    name, at, path = text.partition("@")
    return name, path if at and is_remote(path) else None


def _check_places(name: str, checkpoint: str | None) -> None:
    """Refuse URIs where none is accepted, and invalid ones, before they are taken for names."""
    if "://" in name:
        raise UnknownModelError(
            f"{name} is a URI: only a checkpoint may be one, NAME@s3://BUCKET/KEY#sha256=HEX. "
            "Configs and folders are read from this machine.",
            field="model",
        )
    if checkpoint is not None and is_remote(checkpoint):
        RemoteWeights.parse(checkpoint)
