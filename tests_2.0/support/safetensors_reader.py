"""Reads safetensors without MLX and without the code under test: name -> shape and numbers, quantized weights multiplied out."""

from __future__ import annotations

import json
import struct
from pathlib import Path

FORMS = {"F32": ("f", 4), "F16": ("e", 2), "U32": ("I", 4)}
Arrays = dict[str, tuple[tuple[int, ...], list[float]]]


def read_safetensors(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Read every array, and the file's metadata."""
    raw = path.read_bytes()
    size = struct.unpack_from("<Q", raw)[0]
    header = json.loads(raw[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    found: Arrays = {}
    for name, entry in header.items():
        letter, width = FORMS[entry["dtype"]]
        begin, end = entry["data_offsets"]
        values = struct.unpack_from(f"<{(end - begin) // width}{letter}", raw, 8 + size + begin)
        found[name] = (tuple(entry["shape"]), list(values))
    return found, metadata


def multiplied_out(arrays: Arrays, group_size: int = 32) -> Arrays:
    """Replace weight, scales and biases by the numbers they stand for: scale * level + bias."""
    found: Arrays = {}
    for name, (shape, values) in arrays.items():
        module = name.rsplit(".", 1)[0]
        if name.endswith((".scales", ".biases")):
            continue
        if f"{module}.scales" not in arrays:
            found[name] = (shape, values)
            continue
        (_, scales), (_, biases) = arrays[f"{module}.scales"], arrays[f"{module}.biases"]
        bits = len(values) * 32 // (len(scales) * group_size)
        levels = [int(word) >> shift & (1 << bits) - 1 for word in values for shift in range(0, 32, bits)]
        numbers = [scales[i // group_size] * level + biases[i // group_size] for i, level in enumerate(levels)]
        found[name] = ((shape[0], shape[1] * 32 // bits), numbers)
    return found
