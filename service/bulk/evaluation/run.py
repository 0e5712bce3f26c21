"""Evaluate methods on a data set, sample by sample; runs can resume."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from legrad_engine.errors import LegradError
from legrad_engine.evaluation.errors import DataSetError
from legrad_engine.evaluation.registry import find_protocol, open_data_set
from legrad_engine.evaluation.samples import DataSet, Entry
from legrad_engine.models.identity import ModelIdentity
from service.bulk.evaluation.journal import Journal, Line
from service.bulk.evaluation.question import EvaluationQuestion, data_digest, files_digest

if TYPE_CHECKING:
    from legrad_engine import Explainer
    from legrad_engine.evaluation.protocols.base import Protocol, Record
    from legrad_engine.evaluation.subject import Case, Subject

BATCH = 16
_THREADS = 2


@dataclass(frozen=True, slots=True)
class Run:
    """One method by one protocol.

    Attributes:
        protocol: the protocol.
        method: name of the method.
        digest: of everything except the sample.
    """

    protocol: "Protocol"
    method: str
    digest: str


@dataclass(frozen=True, slots=True)
class Read:
    """A sample, ready to be measured; or the reason why it is not.

    Attributes:
        entry: the sample in its data set.
        data: hash of its files; empty if they cannot be read.
        missing: the runs that have not measured it.
        case: the prepared sample; None if nothing is missing or it failed.
        error: the reason why it failed, or None.
    """

    entry: Entry
    data: str
    missing: Sequence[Run] = ()
    case: "Case | None" = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one sample.

    Attributes:
        key: the sample.
        data: hash of its files.
        is_new: whether this evaluation measured it, not an earlier one.
        error: the reason why it failed, or None.
    """

    key: str
    data: str
    is_new: bool
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RunRecords:
    """The measurements of one run.

    Attributes:
        run: the run.
        records: of the samples that were measured.
        empty: keys of samples without an annotation.
        failed: keys of samples that failed, with the reasons.
    """

    run: Run
    records: "list[Record]" = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class Evaluation:
    """One evaluation: a question about an opened data set, over a journal."""

    def __init__(self, question: EvaluationQuestion, journal: Journal) -> None:
        """Open the data set and choose the samples.

        Raises:
            LegradError: an unknown name, or data that is missing or does not fit a protocol.
        """
        question.check()
        self.question = question
        self.data_set: DataSet = open_data_set(question.data, question.within)
        self.protocols = [find_protocol(name)() for name in question.protocols]
        for protocol in self.protocols:
            if not protocol.needs & self.data_set.provides:
                raise DataSetError(
                    f"The protocol {protocol.name} needs {_either(protocol.needs)}; "
                    f"{self.data_set.title} has {_either(self.data_set.provides)}.",
                    field="protocol",
                )
        if not len(self.data_set) or not self.data_set.classes:
            raise DataSetError(f"{question.data} has no sample or no class.", field="data")
        self.samples = min(len(self.data_set), question.limit or len(self.data_set))
        self.weights = ""
        self._journal = journal
        self._data_digest = data_digest(self.data_set)

    def outcomes(self, load: "Callable[[EvaluationQuestion], Explainer]") -> Iterator[Outcome]:
        """Measure all samples that no earlier evaluation has measured; yield them in order.

        Args:
            load: loads the model; called only if a sample is left to measure.

        Raises:
            LegradError: of the model or its options, or its files changed while they were read.
            JournalError: another evaluation writes into the folder.
            OSError: the journal cannot be written.
        """
        question, journal = self.question, self._journal
        before = ModelIdentity.of(question.reference, journal.weights_of(question.model))
        with ThreadPoolExecutor(_THREADS) as pool:
            done: list[Outcome] = []
            if before is not None:
                done = self._done_at_first(self._runs(before.weights), pool)
            if before is None or len(done) < self.samples:
                subject = self._subject(load(question))
                identity = ModelIdentity.of_loaded(question.reference, before)
                if before is None or before.weights != identity.weights:
                    # Loading has fetched other weights from the hub than those of earlier results.
                    done = self._done_at_first(self._runs(identity.weights), pool)
                before = identity
            self.weights = before.weights
            yield from done
            if len(done) < self.samples:
                yield from self._measure_from(len(done), subject, pool)

    def records(self, outcomes: Sequence[Outcome]) -> list[RunRecords]:
        """Return the measurements of samples, by run."""
        found = [RunRecords(run) for run in self._runs(self.weights)]
        for each in found:
            for outcome in outcomes:
                line = self._journal.find(each.run.digest, outcome.key, outcome.data)
                if line is None or line.error is not None:
                    reason = line.error if line is not None else outcome.error
                    each.failed[outcome.key] = reason or "It was not measured."
                elif line.record is None:
                    each.empty.append(outcome.key)
                else:
                    each.records.append(line.record)
        return found

    def _runs(self, weights: str) -> list[Run]:
        return [
            Run(
                protocol,
                method,
                self.question.digest(weights, self._data_digest, protocol.definition, method),
            )
            for protocol in self.protocols
            for method in self.question.methods
        ]

    def _subject(self, explainer: "Explainer") -> "Subject":
        # Imported here, because they load torch.
        from legrad_engine import Explainer
        from legrad_engine.evaluation.subject import Subject

        reference, dtype = self.question.reference, self.question.score_dtype
        scorer = None
        if dtype is not None:
            scorer = Explainer.load(reference, device=explainer.device, dtype=dtype)
        subject = Subject(explainer, self.data_set, self.question.maps, scorer)
        subject.check(
            self.question.methods,
            all_classes=any(protocol.compares_classes for protocol in self.protocols),
        )
        return subject

    def _entries(self, start: int = 0) -> Iterator[Entry]:
        """Yield the chosen samples, spread evenly over the data set."""
        total = len(self.data_set)
        chosen = iter([index * total // self.samples for index in range(start, self.samples)])
        wanted = next(chosen, None)
        for index, entry in enumerate(self.data_set.entries()):
            if index == wanted:
                yield entry
                wanted = next(chosen, None)

    def _done_at_first(self, runs: Sequence[Run], pool: ThreadPoolExecutor) -> list[Outcome]:
        """Return the samples before the first one that is left to measure."""
        done: list[Outcome] = []
        entries = self._entries()
        while chunk := list(islice(entries, BATCH)):
            for read in pool.map(lambda entry: self._find(entry, runs), chunk):
                if read.error is not None or read.missing:
                    return done
                done.append(Outcome(read.entry.key, read.data, is_new=False))
        return done

    def _find(self, entry: Entry, runs: Sequence[Run]) -> Read:
        """Hash the files of a sample, and find the runs that have not measured it."""
        try:
            data = files_digest(entry.files)
        except DataSetError as error:
            return Read(entry, "", runs, error=str(error))
        missing = [run for run in runs if not self._journal.is_done(run.digest, entry.key, data)]
        return Read(entry, data, missing)

    def _measure_from(
        self, start: int, subject: "Subject", pool: ThreadPoolExecutor
    ) -> Iterator[Outcome]:
        runs = self._runs(self.weights)

        def read(entry: Entry) -> Read:
            found = self._find(entry, runs)
            if found.error is not None or not found.missing:
                return found
            try:
                case = subject.case(entry.key, entry.load())
            except (LegradError, MemoryError) as error:
                reason = str(error) or "There is not enough memory."
                return Read(entry, found.data, found.missing, error=reason)
            return Read(entry, found.data, found.missing, case)

        entries = self._entries(start)

        def read_ahead() -> list[Future[Read]]:
            return [pool.submit(read, entry) for entry in islice(entries, BATCH)]

        ahead = read_ahead()
        while ahead:
            waiting, ahead = ahead, read_ahead()
            chunk = [future.result() for future in waiting]
            lines = self._measure(chunk, subject)
            self._journal.append(lines)
            failed = {line.sample: line.error for line in lines if line.error is not None}
            for each in chunk:
                key = each.entry.key
                yield Outcome(key, each.data, bool(each.missing), failed.get(key))

    def _measure(self, chunk: Sequence[Read], subject: "Subject") -> list[Line]:
        # Imported here, because they load torch.
        from legrad_engine.evaluation.subject import Batch
        from service.bulk.dividing import in_parts

        lines: list[Line] = []
        batches: dict[tuple[str, ...], Batch] = {}

        def line(run: Run, read: Read, found: "Record | str | None") -> Line:
            return Line(
                run=run.digest,
                model=self.question.model,
                weights=self.weights,
                sample=read.entry.key,
                data=read.data,
                record=None if isinstance(found, str) else found,
                error=found if isinstance(found, str) else None,
            )

        # By method, because a batch keeps the trace of the latest one.
        for run in sorted(
            self._runs(self.weights), key=lambda run: self.question.methods.index(run.method)
        ):
            wanted: dict[str, Read] = {}
            for read in chunk:
                if run not in read.missing:
                    continue
                if read.case is None:
                    lines.append(line(run, read, read.error))
                elif not read.case.sample.annotations:
                    lines.append(line(run, read, None))
                else:
                    wanted[read.entry.key] = read

            def measure(cases: "Sequence[Case]", run: Run = run) -> "Sequence[Record]":
                # Protocols that measure the same cases share their maps.
                keys = tuple(case.key for case in cases)
                batch = batches.setdefault(keys, Batch(subject, cases))
                for other in batches.values():
                    if other is not batch:
                        other.release()
                return run.protocol.measure(batch, run.method)

            cases = [read.case for read in wanted.values() if read.case is not None]
            found = in_parts(cases, measure)
            lines += [
                line(run, read, each) for read, each in zip(wanted.values(), found, strict=True)
            ]
        return lines


def _either(names: Iterable[str]) -> str:
    return " or ".join(sorted(names))
