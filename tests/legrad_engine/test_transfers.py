"""Copies between host and device: the same values and times, on any device."""

import time
import weakref
from typing import Any

import torch
from torch import Tensor

from legrad_engine.transfers import Copies, Download, Instant, Uploads, index_on, to_device

CPU = torch.device("cpu")


def test_all_tensors_come_back_from_one_copy() -> None:
    tensors = [torch.rand(2, 3, 4), torch.rand(2, 3), torch.rand(5)]
    download = Download.start(tensors)
    assert download.done
    found = download.wait()
    assert all(torch.equal(*pair) for pair in zip(found, tensors, strict=True))
    assert {each.untyped_storage().data_ptr() for each in found} == {
        download.buffer.untyped_storage().data_ptr()
    }


def test_values_of_several_precisions_come_back_in_the_widest() -> None:
    exact = torch.tensor([1 / 3], dtype=torch.float64)
    found = Download.start([torch.tensor([0.5]), exact]).wait()
    assert [each.dtype for each in found] == [torch.float64] * 2
    assert torch.equal(found[1], exact)


def test_an_upload_has_the_same_values() -> None:
    pixels = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    assert torch.equal(Uploads(CPU).upload(pixels), pixels)
    assert to_device(torch.tensor([0.1]), CPU, torch.bfloat16).dtype == torch.bfloat16


def test_an_index_selects_like_a_list() -> None:
    values = torch.rand(5, 3)
    assert torch.equal(values[index_on(CPU, [4, 0, 0])], values[[4, 0, 0]])


def test_the_time_between_instants_is_measured() -> None:
    before = time.perf_counter()
    first, second = Instant.of(CPU), Instant.of(CPU)
    after = time.perf_counter()
    assert 0 <= first.until(second) <= after - before


class SimulatedEvent:
    """An event of a device that is not there: not over, over, or never known because it failed."""

    def __init__(self) -> None:
        self.over: bool | None = False

    def query(self) -> bool:
        if self.over is None:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return self.over


def test_memory_of_a_copy_is_kept_until_it_is_over() -> None:
    copies, first, second = Copies(), SimulatedEvent(), SimulatedEvent()
    memory = kept(copies, first)
    kept(copies, second)
    assert memory() is not None
    first.over = True
    kept(copies, second)
    assert memory() is None


def test_memory_of_a_copy_of_a_failed_device_is_never_freed() -> None:
    copies, failed = Copies(), SimulatedEvent()
    memory = kept(copies, failed)
    failed.over = None
    for _ in range(3):
        kept(copies, SimulatedEvent())
    assert memory() is not None


def kept(copies: Copies, event: Any) -> weakref.ref[Tensor]:
    tensor = torch.zeros(3)
    copies.keep(event, tensor)
    return weakref.ref(tensor)
