"""Devices and dtypes: the decisions, with and without accelerators at hand."""

from collections.abc import Iterator

import pytest
import torch

from legrad_engine.devices import (
    automatic_dtype,
    bind_thread,
    check_devices,
    cuda_dtype,
    disable_cudnn_attention,
    is_device_failure,
    is_out_of_memory,
    release_cached_memory,
    resolve_devices,
    use_tensor_float32,
    worker_names,
)
from legrad_engine.errors import InvalidOptionError

CPU, MPS = torch.device("cpu"), torch.device("mps")


def cuda(*indices: int) -> list[torch.device]:
    return [torch.device("cuda", index) for index in indices]


@pytest.mark.parametrize(("given", "count"), [("cpu", 1), (" cpu , cpu ", 2), ("cpu,cpu,cpu", 3)])
def test_a_cpu_may_have_several_workers(given: str, count: int) -> None:
    assert resolve_devices(given) == (CPU,) * count


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("auto,cpu", "stand alone"),
        ("all,cuda:0", "stand alone"),
        ("gpu", "cannot be used here"),
        ("cpu,gpu", "cannot be used here"),
        ("cpu,meta", "mixes kinds"),
        (",", "at least one device"),
    ],
)
def test_devices_that_cannot_serve_are_refused(given: str, reason: str) -> None:
    with pytest.raises(InvalidOptionError, match=reason) as caught:
        resolve_devices(given)
    assert caught.value.field == "device"


def test_all_means_every_cuda_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert resolve_devices("all") == tuple(cuda(0, 1, 2))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InvalidOptionError, match="there is none here"):
        resolve_devices("all")


def test_cuda_devices_get_their_index() -> None:
    assert check_devices([torch.device("cuda")]) == tuple(cuda(0))
    assert check_devices(cuda(1, 0)) == tuple(cuda(1, 0))


@pytest.mark.parametrize("devices", [[torch.device("cuda"), *cuda(0)], cuda(1, 2, 1), [MPS, MPS]])
def test_a_repeated_accelerator_is_refused(devices: list[torch.device]) -> None:
    with pytest.raises(InvalidOptionError, match="repeats"):
        check_devices(devices)


@pytest.mark.parametrize("devices", [[CPU, *cuda(0)], [MPS, CPU], [*cuda(0), MPS]])
def test_devices_of_several_kinds_are_refused(devices: list[torch.device]) -> None:
    with pytest.raises(InvalidOptionError, match="mixes kinds"):
        check_devices(devices)


def test_workers_have_distinct_names() -> None:
    assert worker_names([CPU]) == ("cpu",)
    assert worker_names([CPU, CPU]) == ("cpu#0", "cpu#1")
    assert worker_names(cuda(0, 1)) == ("cuda:0", "cuda:1")


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ([(8, 0)], torch.bfloat16),
        ([(9, 0), (12, 0)], torch.bfloat16),
        ([(7, 5)], torch.float16),
        ([(9, 0), (7, 0)], torch.float16),
    ],
)
def test_cuda_devices_compute_in_bfloat16_where_all_of_them_can(
    capabilities: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    assert cuda_dtype(capabilities) == dtype


def test_the_automatic_dtype_follows_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert automatic_dtype([CPU, CPU]) == torch.float32
    assert automatic_dtype([MPS]) == torch.float16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7 + device.index, 0))
    assert automatic_dtype(cuda(1, 2)) == torch.bfloat16
    assert automatic_dtype(cuda(0, 1)) == torch.float16


@pytest.fixture
def float32_products() -> Iterator[None]:
    """Restore how CUDA multiplies float32."""
    before = torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.usefixtures("float32_products")
def test_only_cuda_multiplies_float32_in_tensor_float32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    assert not use_tensor_float32([CPU], torch.float32)
    assert not use_tensor_float32(cuda(0), torch.bfloat16)
    assert not torch.backends.cuda.matmul.allow_tf32
    assert use_tensor_float32(cuda(0, 1), torch.float32)
    assert torch.backends.cuda.matmul.allow_tf32


@pytest.fixture
def planned_attention() -> Iterator[None]:
    """Restore whether CUDA devices may use cuDNN's attention."""
    before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.usefixtures("planned_attention")
def test_cuda_devices_do_not_use_attention_that_plans_for_each_shape() -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    disable_cudnn_attention([CPU])
    assert torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    disable_cudnn_attention(cuda(0))
    assert not torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `gemm`"),
            True,
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasGemm`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (torch.AcceleratorError("CUDA error: out of memory"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasGemm`"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLt`"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), False),
        (torch.AcceleratorError("CUDA error: invalid configuration argument"), False),
        (torch.AcceleratorError("CUDA error: too many resources requested for launch"), False),
        (RuntimeError("CUDA error: operation not permitted when stream is capturing"), False),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("CUDA error"), False),
    ],
    ids=str,
)
def test_a_failed_device_is_told_from_other_errors(error: Exception, failed: bool) -> None:
    assert is_device_failure(error) is failed


@pytest.mark.parametrize(
    ("error", "exhausted"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        # Pinned memory, and kernels that CUDA loads when they are first used.
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
    ids=str,
)
def test_exhausted_memory_is_told_from_other_errors(error: Exception, exhausted: bool) -> None:
    assert is_out_of_memory(error) is exhausted


def test_a_working_device_passes_its_check() -> None:
    bind_thread(CPU)


def test_memory_that_a_failed_device_does_not_release_hides_no_other_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", failing)
    release_cached_memory()
    assert "illegal memory access" in caplog.text
