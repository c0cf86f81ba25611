"""Loops that NumPy has no word for, compiled when they are first called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core.errors import NumbaError
from numba.extending import intrinsic
from numpy.typing import NDArray


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` compiled to machine code, which is kept on disk for other processes where there is a place for it."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        kernel = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        kernel = numba.njit(**options)(function)

    def call(*arguments: Any) -> Any:
        nonlocal kernel
        try:
            return kernel(*arguments)
        except NumbaError:
            raise
        except Exception:
            # What is kept is damaged, or nothing more can be kept; this one does without.
            kernel = numba.njit(**options)(function)
            return kernel(*arguments)

    return call


def _fused(_: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c in float32, rounded once, for use in compiled functions.

    Those of other files that are kept on disk do not notice a change here.
    """
    single = numba.types.float32
    return single(single, single, single), lambda context, builder, signature, arguments: builder.fma(*arguments)


fma: Any = intrinsic(_fused)


def to_float16(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """``values.astype(np.float16)``, bit for bit; several times as fast where all lie in [0, 1]."""
    values = np.ascontiguousarray(values)
    bits = np.empty(values.shape, np.uint16)
    if _round_all(values.reshape(-1), values.reshape(-1).view(np.uint32), bits.reshape(-1)):
        return bits.view(np.float16)
    return values.astype(np.float16)


@compiled
def _round_all(values: Any, singles: Any, halves: Any) -> Any:  # pragma: no cover - compiled
    """The bits of (N,) float32 rounded to float16, half to even; whether all lie in [0, 1], else they are wrong."""
    other = np.uint32(0)
    for i in range(len(values)):
        bits = singles[i]
        # Read as integers, the negative ones and what is no number lie above 1.0.
        other |= np.uint32(bits > np.uint32(0x3F800000))
        # Drop 13 bits of the fraction, and 112 of the exponent.
        normal = (bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) >> np.uint32(13)
        # Below 2^-14 a step is 2^-24, which is that of float32 from 0.5 to 1: the sum is rounded alike.
        tiny = np.uint32(np.int32(((values[i] + np.float32(0.5)) - np.float32(0.5)) * np.float32(1 << 24)))
        halves[i] = tiny if bits < np.uint32(0x38800000) else normal - np.uint32(112 << 10)
    return other == 0
