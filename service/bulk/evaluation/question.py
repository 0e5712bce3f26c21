"""The question of an evaluation, and its digests. Importing this module loads no torch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from legrad_engine.errors import InvalidOptionError, in_one_line
from legrad_engine.evaluation.errors import DataSetError
from legrad_engine.evaluation.options import MapOptions
from legrad_engine.evaluation.samples import DataSet, Options
from legrad_engine.models.reference import ModelReference
from service.bulk.questions import digest_of

_HASH = "blake2b"


@dataclass(frozen=True, slots=True)
class EvaluationQuestion:
    """Methods to measure on a data set, by protocols.

    Attributes:
        model: reference of the model.
        data: the data set, `KIND:PATH`.
        protocols: names of the protocols.
        methods: names of the methods, and of baselines.
        within: choices within the data set.
        maps: how maps are computed.
        limit: largest number of samples, spread evenly over the data set; None for all.
        score_dtype: dtype in which changed pictures are scored, for speed; None for the model's.
    """

    model: str
    data: str
    protocols: tuple[str, ...]
    methods: tuple[str, ...] = ("legrad",)
    within: Options = field(default_factory=Options)
    maps: MapOptions = field(default_factory=MapOptions)
    limit: int | None = None
    score_dtype: str | None = None

    @property
    def reference(self) -> ModelReference:
        """The model.

        Raises:
            UnknownModelError: its text has no known form.
        """
        return ModelReference.parse(self.model)

    @property
    def kind(self) -> str:
        """The kind of the data set."""
        return self.data.partition(":")[0]

    def check(self) -> None:
        """Check the numbers and names that need neither data nor model.

        Raises:
            InvalidOptionError: one of them cannot be.
        """
        if not self.protocols or not self.methods:
            raise InvalidOptionError("Give at least one protocol and one method.", field="method")
        for name, values in (("protocol", self.protocols), ("method", self.methods)):
            if len(set(values)) != len(values):
                raise InvalidOptionError(f"A {name} is given twice.", field=name)
        if self.limit is not None and self.limit < 1:
            raise InvalidOptionError(f"limit={self.limit} is below 1.", field="limit")

    def digest(self, weights: str, data: str, protocol: str, method: str) -> str:
        """Hash everything except the sample that the results of one run depend on.

        Args:
            weights: identity of the weights, see
                :class:`~legrad_engine.models.identity.ModelIdentity`.
            data: from :func:`data_digest`.
            protocol: definition of the protocol.
            method: name of the method.
        """
        maps = self.maps
        # Without folders: the content of local files is in the weights.
        name = self.reference.without_folders(self.model)
        asked = [name, weights, data, protocol, method]
        options = [maps.layers, maps.score, maps.size, maps.fit, maps.templates]
        # Left out where it is not set, so that earlier results stay valid.
        scored = [] if self.score_dtype is None else [self.score_dtype]
        return digest_of([*asked, *options, *scored])


def data_digest(data_set: DataSet) -> str:
    """Hash the classes and the lists of a data set, without the files of single samples.

    Raises:
        DataSetError: a list cannot be read.
    """
    return digest_of([data_set.kind, list(data_set.classes), files_digest(data_set.index)])


def files_digest(files: Sequence[Path]) -> str:
    """Hash the content of files, without their names.

    Raises:
        DataSetError: one of them cannot be read.
    """
    whole = hashlib.blake2b(digest_size=16)
    for path in files:
        try:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, _HASH).digest())
        except FileNotFoundError as error:
            raise DataSetError(f"There is no file {path}.", field="data") from error
        except OSError as error:
            raise DataSetError(
                f"{path} cannot be read: {in_one_line(error)}.", field="data"
            ) from error
    return whole.hexdigest()
