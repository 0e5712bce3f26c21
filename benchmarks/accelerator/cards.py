"""The device: its name, its driver, and how many multiplications it can do."""

import subprocess
import time

import torch

from legrad_engine.devices import dtype_name

# Dense FLOP/s of half precision with accumulation in float32, as the makers state them. The first
# name that is contained in the card's counts.
_PEAKS = {
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A30": 165e12,
    "A10G": 70e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "T4": 65e12,
    "V100": 125e12,
}
_HALF = (torch.float16, torch.bfloat16)
_SIDE = 8192
_PRODUCTS = 10


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def stated_peak(name: str, dtype: torch.dtype) -> float | None:
    """Return the peak of a card in FLOP/s as its maker states it; None if unknown."""
    if dtype not in _HALF:
        return None
    return next((peak for part, peak in _PEAKS.items() if part in name), None)


def measured_peak(device: torch.device, dtype: torch.dtype, side: int = _SIDE) -> float:
    """Measure the FLOP/s of a large matrix product."""
    factor = torch.randn(side, side, device=device).to(dtype)
    factor @ factor
    synchronize(device)
    began = time.perf_counter()
    for _ in range(_PRODUCTS):
        factor @ factor
    synchronize(device)
    return 2 * side**3 * _PRODUCTS / (time.perf_counter() - began)


def describe(device: torch.device, dtype: torch.dtype, side: int = _SIDE) -> dict[str, object]:
    """Describe the device, with the peak that the shares refer to."""
    name, driver = "cpu", "none"
    if device.type == "cuda":
        name, driver = torch.cuda.get_device_name(device), _driver()
    stated, measured = stated_peak(name, dtype), measured_peak(device, dtype, side)
    return {
        "device": name,
        "driver": driver,
        "cuda": torch.version.cuda,
        "dtype": dtype_name(dtype),
        "peak_flops": stated or measured,
        "peak_source": "stated by the maker" if stated else "a large matrix product, measured",
        "measured_matrix_product_flops": measured,
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.split("\n")[0].strip()
