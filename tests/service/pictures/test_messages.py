"""Messages of picture processes: values and errors of this program, and nothing else."""

import asyncio
import fractions
import os
import pickle
import socket
import struct
import threading
from typing import Any

import numpy as np
import pytest

from legrad_engine.errors import ImageDecodeError
from service.pictures.jobs import Decode, Order, Refused
from service.pictures.messages import pack, receive, receive_answer, send
from tests.support.picture_workers import decoding


def answered(message: object) -> Any:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        sender = threading.Thread(target=send, args=(theirs, message))
        sender.start()
        try:
            return asyncio.run(receive_answer(ours))
        finally:
            sender.join()


def test_large_arrays_and_encoded_pictures_are_not_copied_into_the_pickle() -> None:
    data = os.urandom(1_000_000)
    array = np.zeros((1000, 1000), np.float32)
    for message, large in ((Order(decoding(data), 0, ()), data), (array, array.tobytes())):
        head, pickled, buffer = pack(message)
        assert len(head) + len(pickled) < 1500
        assert bytes(buffer) == large


def test_orders_and_answers_arrive_as_they_were_sent() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(ours, Order(decoding(b"a picture"), 3, (1, 2)))
        order = receive(theirs)
        assert (order.number, order.dropped) == (3, (1, 2))
        assert isinstance(order.job, Decode)
        assert bytes(order.job.encoded) == b"a picture"
        ours.close()
        assert receive(theirs) is None
    large = np.random.default_rng(0).normal(size=(300, 400, 3))
    np.testing.assert_array_equal(answered(large), large)
    refused = answered(Refused(ImageDecodeError("no picture", field="image")))
    assert isinstance(refused.error, ImageDecodeError)
    assert (str(refused.error), refused.error.field) == ("no picture", "image")


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
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        theirs.sendall(struct.pack("<QIQ", len(pickled), 1, len(pickled)) + pickled)
        with pytest.raises(pickle.UnpicklingError, match="does not belong"):
            asyncio.run(receive_answer(ours))
