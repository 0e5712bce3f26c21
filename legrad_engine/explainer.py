"""Main class of the engine: from images and targets to maps."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Self, cast

import torch
from PIL import Image
from torch import Tensor, nn

from legrad_engine import models
from legrad_engine.attribution import Attribution, PendingExplanations
from legrad_engine.errors import InvalidOptionError
from legrad_engine.explanation import Explanation
from legrad_engine.families import Score, Tower, find_tower
from legrad_engine.images.decoding import ImageSource, decode
from legrad_engine.images.geometry import Fit, Geometry
from legrad_engine.images.inputs import InputRules, PreparedImage
from legrad_engine.inputs import by_input_size, check_preparation, collate, normalize
from legrad_engine.layers import Layers
from legrad_engine.legrad.acceleration import Accelerator
from legrad_engine.legrad.folded_blocks import FoldedBlocks
from legrad_engine.legrad.switches import Acceleration
from legrad_engine.methods import DEFAULT_METHOD, Heads
from legrad_engine.methods.base import BlockTrace, Method, ModelParts
from legrad_engine.methods.reading import count_heads
from legrad_engine.methods.registry import find_method, methods_of
from legrad_engine.models.image_model import ImageModel
from legrad_engine.targets.classifier import Classifier
from legrad_engine.targets.image_regions import embed_targets
from legrad_engine.targets.negatives import NegativePreset, Negatives, resolve_negatives
from legrad_engine.targets.resolution import TargetResolver, Targets
from legrad_engine.targets.resolved import ResolvedTargets
from legrad_engine.targets.templates import Templates
from legrad_engine.targets.text import NoText, TextEncoder, Tokenizer
from legrad_engine.trace import Trace
from legrad_engine.transfers import Uploads

_IMAGES_PER_BATCH = 16


class Explainer:
    """Explains one loaded model. Safe to share between threads.

    The model is only read. Its weights must not change while the explainer is in use, because
    products of them are computed once for each explained block and kept.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer | None,
        *,
        name: str,
        preprocessing: models.Preprocessing | None = None,
        licence: str | None = None,
        accelerate: Acceleration = "off",
    ) -> None:
        """Wrap a loaded model and put it into evaluation mode.

        Args:
            model: an open_clip model, or an :class:`~legrad_engine.models.image_model.ImageModel`.
            tokenizer: tokenizer of the text half; None for a model without one.
            name: the model's name.
            preprocessing: the way from pictures to the model's input; None for the one that
                open_clip or timm attached to the model.
            licence: licence of the weights, if known.
            accelerate: what CUDA devices use, see :meth:`Accelerator.choose`.

        Raises:
            UnsupportedModelError: no family takes the model's image tower.
            ModelLoadError: the attached preprocessing has values outside their range.
            InvalidOptionError: unknown acceleration.
        """
        self.name = name
        self.licence = licence
        self.model = model.eval()
        self.tower = find_tower(model)
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.text: TextEncoder | NoText = (
            NoText() if tokenizer is None else TextEncoder(model, tokenizer, self.device)  # type: ignore[arg-type]
        )
        self.classifier: Classifier | None = (
            model.classifier if isinstance(model, ImageModel) else None
        )
        self.preprocessing = preprocessing or models.preprocessing_of(model)
        self.accelerator = Accelerator.choose(accelerate, self.device, self.own_size)
        self._uploads = Uploads(self.device)
        self.parts = ModelParts(FoldedBlocks().of(self.tower), self.accelerator.product)
        self.head_count = count_heads(self.tower, self.device, self.dtype)

    @classmethod
    def load(
        cls,
        name: str | models.ModelReference,
        pretrained: str | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = torch.float32,
        accelerate: Acceleration = "off",
    ) -> Self:
        """Load a model by its name.

        Args:
            name: ``"starter"`` for the built-in model, or any other reference as the server takes
                it, such as ``"timm:vit_tiny_patch16_224@tuned.pt"``; see
                :meth:`~legrad_engine.models.ModelReference.parse`. With ``pretrained``, an
                open_clip architecture such as ``"ViT-B-16"``, the path of an open_clip JSON config,
                or a timm architecture.
            pretrained: an open_clip tag or the path of a checkpoint. None for a name that includes
                its weights; with an open_clip architecture or config, None gives random weights.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
            dtype: float32, float16, bfloat16 or float64.
            accelerate: see the constructor.

        Raises:
            UnknownModelError: no such architecture, tag, config, folder or repository.
            ModelLoadError: the weights cannot be obtained or do not fit.
            UnsupportedModelError: the architecture cannot be explained.
            InvalidOptionError: unknown device, dtype or acceleration.
        """
        loaded = models.load(name, pretrained, device=device, dtype=dtype)
        return cls(
            loaded.model,
            loaded.tokenizer,
            name=loaded.name,
            preprocessing=loaded.preprocessing,
            licence=loaded.licence,
            accelerate=accelerate,
        )

    @property
    def own_size(self) -> tuple[int, int]:
        """(width, height) in pixels that the weights were trained at."""
        height, width = self.tower.image_size
        return width, height

    @property
    def nbytes(self) -> int:
        """Size of the model's weights in bytes."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        return sum(tensor.nbytes for tensor in tensors)

    @property
    def methods(self) -> tuple[Method[Any], ...]:
        """The methods that this model can have, the default one first."""
        return methods_of(self.tower)

    def method(self, name: str = DEFAULT_METHOD) -> Method[Any]:
        """Return a method by its name; see :func:`legrad_engine.methods.registry.find_method`."""
        return find_method(name, self.tower)

    def resolve_layers(
        self, layers: Layers | None = None, method: str = DEFAULT_METHOD
    ) -> tuple[int, ...]:
        """Return block indices, ascending, by default the method's own.

        See :func:`legrad_engine.layers.resolve_layers`.

        Raises:
            InvalidOptionError: a count or index outside the model's blocks, no block, or blocks
                that the method cannot explain.
        """
        return self.method(method).layers(self.tower, layers)

    def resolve_score(self, score: Score | None = None, method: str = DEFAULT_METHOD) -> Score:
        """Return the score itself, or the method's default for None.

        Raises:
            InvalidOptionError: the model has no such score, or the method does not explain it.
        """
        return self.method(method).score(self.tower, score)

    def input_rules(self, size: int | None = None, fit: Fit = "squash") -> InputRules:
        """Return how this model's input is made of a picture.

        Args:
            size: side of the input in pixels; None for the model's own size.
            fit: see :meth:`trace`.
        """
        # The own size need not be a whole number of patches: the model ignores the rest.
        own = size is None or (size, size) == self.own_size
        return InputRules(
            size=self.own_size if size is None or own else size,
            patch_size=self.tower.patch_size,
            fit=fit,
            interpolation=self.preprocessing.interpolation,
        )

    def check_geometry(self, geometry: Geometry) -> None:
        """Check that the model takes this input size, and resize its positions ahead of the trace.

        Raises:
            InvalidOptionError: the model cannot take the size.
        """
        self._tower_for(geometry)

    def plan(
        self, image_size: tuple[int, int], size: int | None = None, fit: Fit = "squash"
    ) -> Geometry:
        """Plan how a picture of (width, height) pixels is fitted to the model's input.

        Raises:
            InvalidOptionError: the size is not a positive multiple of the patch size, or the model
                cannot take it.
        """
        geometry = self.input_rules(size, fit).plan(image_size)
        self.check_geometry(geometry)
        return geometry

    def prepare(
        self,
        image: ImageSource,
        size: int | None = None,
        fit: Fit = "squash",
    ) -> PreparedImage:
        """Decode and fit one picture.

        Raises:
            ImageDecodeError: the source is not a picture, or is damaged.
            ImageTooLargeError: the picture has more pixels than the limit.
            InvalidOptionError: the size is not a positive multiple of the patch size.
        """
        return self.prepare_decoded(decode(image), size, fit)

    def prepare_decoded(
        self, picture: Image.Image, size: int | None = None, fit: Fit = "squash"
    ) -> PreparedImage:
        """Fit a picture from :func:`legrad_engine.images.decoding.decode`.

        Raises:
            InvalidOptionError: the size is not a positive multiple of the patch size.
        """
        prepared = self.input_rules(size, fit).prepare(picture)
        self.check_geometry(prepared.geometry)
        return prepared

    def input_of(self, images: Sequence[PreparedImage]) -> Tensor:
        """Return the normalised input of prepared pictures of one input size.

        Returns:
            ``[B, 3, height, width]`` on the model's device, in its dtype.
        """
        batch = self._uploads.upload(collate(images, self.preprocessing))
        return normalize(batch, images, self.preprocessing).to(self.dtype)

    @torch.no_grad()
    def trace(
        self,
        images: Sequence[ImageSource | PreparedImage],
        *,
        method: str = DEFAULT_METHOD,
        layers: Layers | None = None,
        score: Score | None = None,
        size: int | None = None,
        fit: Fit | None = None,
    ) -> Trace:
        """Run one forward pass over a batch and keep the values that attribution needs.

        Args:
            images: pictures, or results of :meth:`prepare`, which takes ``size`` and ``fit``. All
                must have one input size, which ``fit="native"`` does not guarantee.
            method: name of the explanation method, see :attr:`methods`.
            layers: see :meth:`resolve_layers`.
            score: ``"mean"``, the mean of all tokens as in the paper; ``"cls"``, a class-token
                model's own logit; ``"pooler"`` for models with an attentional pooler; None for the
                method's default.
            size: side of the input in pixels; None for the model's own size.
            fit: ``"squash"`` to a square (also None), ``"pad"`` to a square, or ``"native"`` ratio.

        Raises:
            InvalidOptionError: an invalid option, or pictures that cannot be one batch.
            ImageDecodeError, ImageTooLargeError: see :meth:`prepare`.
        """
        chosen = self.method(method)
        indices = chosen.layers(self.tower, layers)
        score = chosen.score(self.tower, score)
        head = self.tower.score_head(score)
        check_preparation(images, size=size, fit=fit)
        prepared = [
            each if isinstance(each, PreparedImage) else self.prepare(each, size, fit or "squash")
            for each in images
        ]
        sizes = {image.geometry.input_size for image in prepared}
        if len(sizes) != 1:
            raise InvalidOptionError(
                f"A batch must hold images of one input size, not {sorted(sizes)}: trace them "
                "separately, or use explain().",
                field="images",
            )
        tower = self._tower_for(prepared[0].geometry)

        def forward(pixels: Tensor) -> tuple[tuple[BlockTrace, ...], Tensor]:
            return chosen.trace_pixels(tower, pixels, indices, head)

        geometries = tuple(image.geometry for image in prepared)
        blocks, features = self.accelerator.run(
            geometries[0].input_size,
            ("trace", method, indices, score),
            forward,
            self.input_of(prepared),
        )
        return Trace(method, blocks, indices, score, features, geometries)

    def embed_images(self, images: Sequence[ImageSource | PreparedImage]) -> Tensor:
        """Compute the model's own embeddings of pictures.

        Args:
            images: pictures or results of :meth:`prepare`, of any input sizes.

        Returns:
            Unit vectors ``[B, e]``.

        Raises:
            ImageDecodeError, ImageTooLargeError: see :meth:`prepare`.
        """
        prepared = [
            image if isinstance(image, PreparedImage) else self.prepare(image) for image in images
        ]
        embeddings: dict[int, Tensor] = {}
        for members in by_input_size(prepared):
            for start in range(0, len(members), _IMAGES_PER_BATCH):
                batch = members[start : start + _IMAGES_PER_BATCH]
                trace = self.trace([prepared[index] for index in batch], layers=1)
                embeddings |= dict(zip(batch, trace.embeddings, strict=True))
        return torch.stack([embeddings[index] for index in range(len(prepared))])

    @property
    def resolver(self) -> TargetResolver:
        """Resolver from targets to unit vectors of this model's joint space."""
        return TargetResolver(
            self.text,
            self.classifier,
            partial(embed_targets, self),
            self.tower.embedding_size,
            self.device,
            self.dtype,
        )

    @torch.no_grad()
    def launch_attribution(
        self, trace: Trace, resolved: Sequence[ResolvedTargets], heads: Heads = "mean"
    ) -> PendingExplanations:
        """Begin to compute the map of every target; do not wait for the device.

        Args:
            trace: from :meth:`trace` of this explainer.
            resolved: the targets of each traced image, from :attr:`resolver`.
            heads: see :meth:`attribute`.

        Raises:
            InvalidOptionError: the trace was made by another model, or its method does not do what
                the question asks for.
        """
        return Attribution(
            self.model, self.tower, self.classifier, self.parts, self.accelerator
        ).launch(trace, resolved, heads)

    @torch.no_grad()
    def attribute(
        self,
        trace: Trace,
        targets: Targets,
        *,
        templates: Templates = None,
        negatives: Negatives | NegativePreset | None = None,
        heads: Heads = "mean",
    ) -> list[Explanation]:
        """Compute the map of every target for every traced image.

        Args:
            trace: from :meth:`trace` of this explainer.
            targets: strings or target objects (:mod:`legrad_engine.targets`) for all images, or a
                sequence of them for each image; or unit vectors ``[P, e]`` of texts for all images,
                or such a tensor for each image.
            templates: templates for texts, see
                :func:`legrad_engine.targets.templates.resolve_templates`.
            negatives: targets that the maps must not show, see
                :class:`legrad_engine.targets.negatives.Negatives`.
            heads: ``"each"`` for a map of each attention head in place of the one of the target, in
                methods that have them (:attr:`Method.splits_heads`); they take one target.

        Raises:
            InvalidTargetError: no target, a kind of target that this model does not support, or a
                number of target lists that differs from the number of images.
            InvalidOptionError: invalid templates or negatives, or options that the trace's method
                does not have.
        """
        resolved = self.resolver.resolve(
            targets, len(trace), templates, resolve_negatives(negatives)
        )
        return self.launch_attribution(trace, resolved, heads).finish()

    def explain(
        self,
        images: ImageSource | Sequence[ImageSource],
        targets: Targets,
        *,
        method: str = DEFAULT_METHOD,
        layers: Layers | None = None,
        score: Score | None = None,
        size: int | None = None,
        fit: Fit = "squash",
        templates: Templates = None,
        negatives: Negatives | NegativePreset | None = None,
        heads: Heads = "mean",
    ) -> list[Explanation]:
        """Trace and attribute: compute one explanation for each picture.

        Args:
            images: one picture or several, of any sizes.
            targets: see :meth:`attribute`.
            method: see :meth:`trace`.
            layers: see :meth:`resolve_layers`.
            score: see :meth:`trace`.
            size: see :meth:`trace`.
            fit: see :meth:`trace`.
            templates: see :func:`legrad_engine.targets.templates.resolve_templates`.
            negatives: see :meth:`attribute`.
            heads: see :meth:`attribute`.

        Raises:
            LegradError: see :meth:`trace` and :meth:`attribute`.
        """
        pictures: Sequence[ImageSource] = (
            images if isinstance(images, (list, tuple)) else [cast(ImageSource, images)]
        )
        if not pictures:
            return []
        resolved = self.resolver.resolve(
            targets, len(pictures), templates, resolve_negatives(negatives)
        )
        explanations: list[Explanation] = []
        for start in range(0, len(pictures), _IMAGES_PER_BATCH):
            chunk = slice(start, start + _IMAGES_PER_BATCH)
            prepared = [self.prepare(picture, size, fit) for picture in pictures[chunk]]
            found: dict[int, Explanation] = {}
            for members in by_input_size(prepared):
                batch = [prepared[index] for index in members]
                trace = self.trace(batch, method=method, layers=layers, score=score)
                asked = [resolved[start + index] for index in members]
                found |= zip(members, self.attribute(trace, asked, heads=heads), strict=True)
            explanations += [found[index] for index in range(len(prepared))]
        return explanations

    def _tower_for(self, geometry: Geometry) -> Tower:
        width, height = geometry.input_size
        return self.tower.at((height, width))
