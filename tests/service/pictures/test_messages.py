"""Messages of picture processes: values and errors of this program, and nothing else."""

import fractions
import itertools
import os
import pickle
import socket
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legrad_engine.errors import ImageDecodeError
from legrad_engine.images.statistics import Statistics
from service.pictures.drawing import DrawnImage, DrawnTarget
from service.pictures.jobs import Decode, Done, Order, Refused
from service.pictures.messages import AnswerReader, pack, receive, send
from tests.support.picture_workers import decoding

FILE = 500_000
# What one read of a socket returns.
PIECE = 200_000
STATISTICS = Statistics(1.0, (2, 3), 0.5, 0.25, 0.125)
MAP = np.arange(12, dtype=np.float32).reshape(3, 4)


def answered(message: object) -> Any:
    return AnswerReader().feed(b"".join(pack(message)))


def test_large_arrays_and_encoded_pictures_are_not_copied_into_the_pickle() -> None:
    data = os.urandom(1_000_000)
    array = np.zeros((1000, 1000), np.float32)
    for message, large in ((Order(decoding(data), 0, 0, ()), data), (array, array.tobytes())):
        head, pickled, buffer = pack(message)
        assert len(head) + len(pickled) < 1500
        assert bytes(buffer) == large


def drawn(*files: bytes | None) -> Done:
    """Return an answer of targets with the same map and these files as heatmap and overlay."""
    return Done(
        DrawnImage([DrawnTarget(MAP.copy(), each, each, None, STATISTICS) for each in files], 0.1)
    )


def in_pieces(message: bytes) -> Any:
    """Return an answer that arrives in pieces, as from a socket."""
    reader = AnswerReader()
    for start in range(0, len(message), PIECE):
        answer = reader.feed(message[start : start + PIECE])
    return answer


def test_drawn_files_are_not_copied_into_the_pickle() -> None:
    file = os.urandom(FILE)
    head, pickled, *buffers = pack(drawn(file, None, file))
    assert len(head) + len(pickled) < 1500
    assert sorted(map(len, buffers)) == [MAP.nbytes] * 3 + [FILE] * 4


def test_drawn_files_arrive_as_bytes() -> None:
    file = os.urandom(1000)
    for answer in (answered(drawn(file, None)), pickle.loads(pickle.dumps(drawn(file, None)))):
        first, second = answer.value.targets
        assert type(first.overlay) is bytes
        assert (first.heatmap, first.overlay, second.overlay) == (file, file, None)
        np.testing.assert_array_equal(second.map, MAP)
        assert first.statistics == STATISTICS


def test_an_answer_holds_its_files_once_and_a_map_holds_none_of_them() -> None:
    message = b"".join(pack(drawn(*(os.urandom(FILE) for _ in range(4)))))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        answer = in_pieces(message)
        held = tracemalloc.get_traced_memory()[0] - before
        assert 8 * FILE < held < 8 * FILE + 100_000
        file, map_ = answer.value.targets[1].overlay, answer.value.targets[0].map
        del answer
        held = tracemalloc.get_traced_memory()[0] - before
        assert FILE < held < FILE + 100_000
        del file
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(map_, MAP)


def test_orders_and_answers_arrive_as_they_were_sent() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("rb") as stream:
        send(ours, Order(decoding(b"a picture"), 3, 9, (1, 2)))
        order = receive(stream)
        assert (order.number, order.max_bytes, order.dropped) == (3, 9, (1, 2))
        assert isinstance(order.job, Decode)
        assert bytes(order.job.encoded) == b"a picture"
        ours.close()
        assert receive(stream) is None
    large = np.random.default_rng(0).normal(size=(300, 400, 3))
    np.testing.assert_array_equal(answered(large), large)
    refused = answered(Refused(ImageDecodeError("no picture", field="image")))
    assert isinstance(refused.error, ImageDecodeError)
    assert (str(refused.error), refused.error.field) == ("no picture", "image")


@pytest.mark.parametrize(("count", "side"), [(3000, 1), (3, 1000)])
def test_many_and_large_parts_arrive(count: int, side: int) -> None:
    sent = [np.full((side, side), each, np.float32) for each in range(count)]
    for one, other in zip(answered(sent), sent, strict=True):
        np.testing.assert_array_equal(one, other)


class Harmful:
    def __init__(self, function: Any, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.mark.parametrize(
    "message",
    [
        Harmful(os.getpid),
        Harmful(eval, "1"),
        fractions.Fraction(1, 2),
        Harmful(socket.socketpair),
        # Functions, and names that lead out of the module.
        Harmful(pack, b""),
    ],
)
def test_a_taken_over_process_cannot_make_the_server_call_anything(message: object) -> None:
    with pytest.raises(pickle.UnpicklingError, match="does not belong"):
        answered(message)


@pytest.mark.parametrize("name", ["Image", "Image.Image", "plan"])
def test_modules_of_this_program_give_their_own_classes_alone(name: str) -> None:
    # The opcodes of: push a module, push a name, find the name in the module, stop.
    module = b"legrad_engine.images.inputs"
    pickled = b"\x80\x04" + b"".join(
        pickle.SHORT_BINUNICODE + bytes([len(text)]) + text for text in (module, name.encode())
    )
    pickled += pickle.STACK_GLOBAL + pickle.STOP
    message = struct.pack("<QIQ", len(pickled), 1, len(pickled)) + pickled
    with pytest.raises(pickle.UnpicklingError, match="does not belong"):
        AnswerReader().feed(message)


@given(st.lists(st.integers(0, 4096), max_size=8))
def test_answers_arrive_in_pieces_of_any_size_one_after_the_other(cuts: list[int]) -> None:
    large = np.random.default_rng(0).integers(0, 255, (30, 40), np.uint8)
    message = b"".join(pack(large))
    reader = AnswerReader()
    for _ in range(2):
        places = sorted({0, len(message), *(min(cut, len(message)) for cut in cuts)})
        pieces = [message[start:stop] for start, stop in itertools.pairwise(places)]
        *early, last = map(reader.feed, pieces)
        assert all(each is None for each in early)
        np.testing.assert_array_equal(last, large)


@pytest.mark.parametrize(
    "message",
    [
        b"".join(pack(1)) + b"!",
        struct.pack("<QI", 1 << 62, 1),
        b"\xff" * 64,
        # Parts that are longer than the message.
        struct.pack("<QIQQ", 20, 2, 10, 1 << 40) + bytes(20),
    ],
)
def test_bytes_that_are_no_answer_are_refused_at_once(message: bytes) -> None:
    with pytest.raises(ValueError, match="message"):
        AnswerReader().feed(message)
