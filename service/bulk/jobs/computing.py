"""Explaining listed pictures with one loaded model: reading and decoding ahead. Knows no Ray."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from legrad_engine import Explainer, LegradError
from legrad_engine.errors import in_one_line
from legrad_engine.images.decoding import DEFAULT_MAX_PIXELS
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.presence import PresenceCalibration
from service.bulk.batches import BatchExplainer, Explained
from service.bulk.jobs.listed import Listed
from service.bulk.jobs.reading import Reader, UnreadableError
from service.bulk.jobs.rows import MapType, error_row, explained_row
from service.bulk.questions import Question
from service.pictures.decoding import decode_picture
from service.settings.values import PictureRules

_THREADS = 4
_PICTURES = PictureRules(DEFAULT_MAX_PIXELS)
_NOT_COMPUTED = "not-computed"


@dataclass
class Outcome:
    """The rows of some pictures.

    Attributes:
        rows: rows of explained pictures, and of those that no other attempt can explain.
        failures: reasons by id of pictures that another attempt may explain.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


class ListedExplainer:
    """Explains listed pictures. Safe to share between threads: the model computes one batch.

    While one thread's batch is computed, the pictures of the next one are read and decoded, and so
    are the first ones of other threads.
    """

    def __init__(
        self,
        explainer: Explainer,
        question: Question,
        batch: int,
        maps: MapType,
        calibration: PresenceCalibration | None = None,
    ) -> None:
        """Take a model and a question that the model accepts.

        Args:
            explainer: the model.
            question: the question.
            batch: most pictures in one forward pass.
            maps: type of the maps' values.
            calibration: tells the presence of the prompts; None to leave it out.
        """
        self._explainer = explainer
        self._question = question
        self._batches = BatchExplainer(explainer, question, calibration)
        self._batch = batch
        self._maps = maps
        self._input_rules = explainer.input_rules(question.size, question.fit)
        self._reader = Reader()
        self._pool = ThreadPoolExecutor(_THREADS)
        self._computing = threading.Lock()

    def explain(self, pictures: Sequence[Listed]) -> Outcome:
        """Explain pictures.

        Raises:
            Exception: the device or the engine failed, and the process should not go on.
        """
        done = Outcome()
        chunks = [
            pictures[start : start + self._batch] for start in range(0, len(pictures), self._batch)
        ]
        ahead = self._prepare_all(chunks[0]) if chunks else []
        for number, chunk in enumerate(chunks):
            waiting, ahead = ahead, []
            if chunks[number + 1 :]:
                ahead = self._prepare_all(chunks[number + 1])
            ready: list[tuple[str, PreparedImage]] = []
            for listed, future in zip(chunk, waiting, strict=True):
                prepared = self._result(listed, future, done)
                if prepared is not None:
                    ready.append((listed.id, prepared))
            if ready:
                with self._computing:
                    explained = self._batches.explain(ready)
                by_id = {listed.id: listed for listed in chunk}
                done.rows += [self._row(by_id[key], each) for key, each in explained.items()]
        return done

    def _prepare_all(self, chunk: Sequence[Listed]) -> list[Future[PreparedImage]]:
        return [self._pool.submit(self._prepare, listed) for listed in chunk]

    def _prepare(self, listed: Listed) -> PreparedImage:
        """Read and decode a picture.

        Raises:
            UnreadableError: the storage does not give the picture.
            LegradError: it cannot be decoded, or not fitted to the model.
        """
        if listed.error is not None:
            raise UnreadableError(listed.error)
        encoded = self._reader.read(listed)
        decoded = decode_picture(encoded, _PICTURES, self._input_rules, None, None)
        self._explainer.check_geometry(decoded.geometry)
        if decoded.prepared is None:
            raise UnreadableError("The picture was not prepared.")
        return decoded.prepared

    @staticmethod
    def _result(
        listed: Listed, future: Future[PreparedImage], done: Outcome
    ) -> PreparedImage | None:
        """Return a prepared picture, or note why it is not."""
        try:
            return future.result()
        except LegradError as error:
            done.rows.append(error_row(listed, str(error), error.code))
        except UnreadableError as error:
            done.failures[listed.id] = str(error)
        # A picture of hostile bytes may raise anything in a decoder.
        except Exception as error:
            done.failures[listed.id] = f"The picture cannot be prepared: {in_one_line(error)}."
        return None

    def _row(self, listed: Listed, explained: Explained | str) -> dict[str, Any]:
        if isinstance(explained, str):
            return error_row(listed, explained, _NOT_COMPUTED)
        return explained_row(listed, self._question.prompts, explained, self._maps)
