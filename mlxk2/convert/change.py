"""What weights may become: the bits, the groups and the float types there are. Knows no file and no array."""

from __future__ import annotations

from dataclasses import dataclass

from mlxk2.errors import UsageError

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
DEFAULT_BITS, DEFAULT_GROUP_SIZE = 4, 64
DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
DTYPES = tuple(DTYPE_BYTES)


@dataclass(frozen=True)
class WeightChange:
    """What the weights become. `bits` None: not quantized anew; `dtype` None: as in the source."""

    bits: int | None = None
    group_size: int = DEFAULT_GROUP_SIZE
    dtype: str | None = None
    dequantize: bool = False

    @property
    def is_none(self) -> bool:
        return self.bits is None and self.dtype is None and not self.dequantize


def resolve_change(bits: int | None, group_size: int | None, dtype: str | None, *, dequantize: bool) -> WeightChange:
    """Put defaults in the place of what was not asked for: a group size alone asks for the usual bits.

    Raises: UsageError for values and combinations that make no sense.
    """
    for flag, value, allowed in (
        ("--bits", bits, BITS),
        ("--group-size", group_size, GROUP_SIZES),
        ("--dtype", dtype, DTYPES),
    ):
        if value is not None and value not in allowed:
            raise UsageError(f"{flag} must be one of {', '.join(map(str, allowed))}, not {value}")
    quantizes = bits is not None or group_size is not None
    if dequantize and quantizes:
        raise UsageError(
            "--dequantize and --bits exclude each other", hint="dequantize into one folder, then quantize that one"
        )
    return WeightChange(
        (bits or DEFAULT_BITS) if quantizes else None, group_size or DEFAULT_GROUP_SIZE, dtype, dequantize
    )
