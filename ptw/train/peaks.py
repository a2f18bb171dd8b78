"""What could a device do? Dense FLOP/s by its maker's data sheet; None where nobody says."""

import math
import os
import re

import torch

from ptw.errors import PtwError

OVERRIDE = "PTW_PEAK_TFLOPS"  # of one device, in the precision that is trained in
# (bf16 with sums in fp32, fp32 without TF32) in TFLOP/s, by a word of the device's name; the first one wins
TERA = 1e12
PEAKS: dict[str, tuple[float | None, float]] = {
    "GB300": (2500, 80),
    "GB200": (2500, 80),
    "B300": (2250, 75),
    "B200": (2250, 75),
    "GH200": (989, 67),
    "H200 NVL": (835, 60),
    "H200": (989, 67),
    "H100 NVL": (835, 60),
    "H100 PCIe": (756, 51),
    "H100": (989, 67),
    "H800": (989, 67),
    "H20": (148, 44),
    "A100": (312, 19.5),
    "A800": (312, 19.5),
    "A40": (149.7, 37.4),
    "A30": (165, 10.3),
    "A10": (125, 31.2),
    "A10G": (70, 35),
    "L40S": (362, 91.6),
    "L40": (181, 90.5),
    "L4": (121, 30.3),
    "RTX 6000 Ada": (364.2, 91.1),
    "RTX A6000": (154.8, 38.7),
    "RTX 5090": (209.5, 104.8),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71, 35.6),
    "V100": (None, 15.7),  # no bf16
    "T4": (None, 8.1),
    "MI355X": (2500, 157.3),
    "MI325X": (1307.4, 163.4),
    "MI300X": (1307.4, 163.4),
    "MI250X": (191.5, 23.9),  # torch sees half a card
}
# these names belong to parts of a device, or to slower ones
LESS = re.compile(r"\bMIG\b|Laptop|Max-Q|\bRTX \d+ D\b")


def peak(device: torch.device, precision: str) -> float | None:
    """FLOP/s of the device in "bf16" or "fp32"; PtwError names a variable that is no number."""
    if text := os.environ.get(OVERRIDE):
        return TERA * _number(text)
    return of_name(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


def of_name(name: str, precision: str) -> float | None:
    """By the name that the device says itself."""
    if LESS.search(name):
        return None
    known = next((peaks for part, peaks in PEAKS.items() if re.search(rf"\b{part}\b", name)), (None, None))
    found = known[0 if precision == "bf16" else 1]
    return None if found is None else TERA * found


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise PtwError(f"{OVERRIDE} = {text!r}: it must be TFLOP/s of one device, such as 989")
    return value
