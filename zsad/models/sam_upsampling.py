"""Geometry of SAM's two upsamplings: which pixels each output is made of, and their weights.

SAM upsamples its low-resolution logits twice with ``F.interpolate(mode="bilinear")``: to the padded square input,
then, with the padding cut off, to the image. The taps found here are those of torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zsad.models.sam_masks_cpu import Geometry, Stage

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in native pixels, end exclusive."""

NOWHERE: Box = (0, 0, 0, 0)
"""The box of an empty mask."""

_SMALL_OUTPUT = 128
"""Up to this height + width of the output, torch always takes its joint kernel on a CPU."""


@dataclass(frozen=True)
class Taps:
    """Bilinear interpolation along one axis: output i = left_weight[i] * x[left[i]] + right_weight[i] * x[right[i]].

    Attributes:
        left, right: (M,) int64 indices into the input.
        left_weight, right_weight: (M,) float32.
    """

    left: Tensor
    right: Tensor
    left_weight: Tensor
    right_weight: Tensor

    def part(self, start: int, stop: int, offset: int = 0) -> Taps:
        """The taps of outputs ``start`` to ``stop`` into an input whose first ``offset`` entries are cut off."""
        cut = slice(start, stop)
        return Taps(self.left[cut] - offset, self.right[cut] - offset, self.left_weight[cut], self.right_weight[cut])


@dataclass(frozen=True)
class Axis:
    """Both upsamplings along one axis of one image.

    Attributes:
        coarse: taps from low resolution to the padded input.
        fine: taps from the input without padding to native pixels.
        first, last: (size,) int64, the first and last low-resolution entry that a native pixel depends on.
        starts, stops: the range of input pixels that a native pixel reads, on the host.
        low_size: number of low-resolution entries.
    """

    coarse: Taps
    fine: Taps
    first: Tensor
    last: Tensor
    starts: tuple[int, ...]
    stops: tuple[int, ...]
    low_size: int

    @cached_property
    def entries(self) -> Tensor:
        """The low-resolution entries left and right of the left, then of the right input pixel: (4, size) int32."""
        coarse, fine = self.coarse, self.fine
        return torch.stack(
            [coarse.left[fine.left], coarse.right[fine.left], coarse.left[fine.right], coarse.right[fine.right]]
        ).int()

    @cached_property
    def weights(self) -> Tensor:
        """The weights of the four ``entries`` in their input pixels, then of those two pixels: (6, size) float32."""
        coarse, fine = self.coarse, self.fine
        both = [part for at in (fine.left, fine.right) for part in (coarse.left_weight[at], coarse.right_weight[at])]
        return torch.stack([*both, fine.left_weight, fine.right_weight])

    @cached_property
    def spans(self) -> Tensor:
        """Which native pixels depend on which low-resolution entries: (2, low_size + 1) int32.

        For every entry i, row 0 holds the first native pixel that depends on entry i or a later one, and row 1 the
        first native pixel that depends on no entry before i. Where there is no such pixel, it is the number of pixels.
        """
        entries = torch.arange(self.low_size + 1, device=self.first.device)
        return torch.stack(
            [torch.searchsorted(self.last, entries), torch.searchsorted(self.first, entries - 1, right=True)]
        ).int()


@dataclass(frozen=True)
class Upsampling:
    """Geometry of the two upsamplings of one image.

    Attributes:
        rows, columns: per axis.
        low_size: (height, width) of the low-resolution logits.
        native_size: (height, width) of the image.
        coarse_joint, fine_joint: which of its two kernels torch takes on a CPU, where they round differently: one sum
            of four taps (joint), or along the columns and then along the rows. Elsewhere false.
    """

    rows: Axis
    columns: Axis
    low_size: tuple[int, int]
    native_size: tuple[int, int]
    coarse_joint: bool
    fine_joint: bool

    @cached_property
    def geometry(self) -> Geometry:
        """The same for ``sam_masks_cpu``."""
        first, last = self.columns.first.numpy(), self.columns.last.numpy()
        low = np.arange(self.low_size[1])
        return Geometry(
            coarse=_stage(self.rows.coarse, self.columns.coarse, self.coarse_joint),
            fine=_stage(self.rows.fine, self.columns.fine, self.fine_joint),
            first_row=self.rows.first.numpy(),
            last_row=self.rows.last.numpy(),
            first_column=first,
            last_column=last,
            begin=np.searchsorted(first, low),
            end=np.searchsorted(last, low, side="right"),
        )


def upsampling(
    low_size: tuple[int, int],
    padded_size: int,
    input_size: tuple[int, int],
    native_size: tuple[int, int],
    device: str | torch.device = "cpu",
) -> Upsampling:
    """Plan the upsampling from ``low_size`` over ``padded_size``, cut to ``input_size``, to ``native_size``.

    Plans are kept: they take a hundred kernels on a GPU, and wait for it.
    """
    return _plan(low_size, padded_size, input_size, native_size, torch.device(device), torch.get_num_threads())


@lru_cache(maxsize=16)
def _plan(
    low_size: tuple[int, int],
    padded_size: int,
    input_size: tuple[int, int],
    native_size: tuple[int, int],
    device: torch.device,
    threads: int,
) -> Upsampling:
    """``upsampling``; on a CPU it depends on torch's threads."""
    coarse_joint = _joint((padded_size, padded_size), device)
    fine_joint = _joint(native_size, device)
    axes = []
    for low, cut, native in zip(low_size, input_size, native_size, strict=True):
        # Torch copies where the sizes are equal. So a NaN does not spread to its neighbours by a weight of 0 there.
        fine = _copy(native, device) if input_size == native_size else taps(cut, native, fine_joint, device)
        axes.append(_axis(taps(low, padded_size, coarse_joint, device), fine, low))
    if device.type != "cpu":
        for axis in axes:
            # Computed now, on the stream of the plan: they may first be read on another one.
            axis.entries, axis.weights, axis.spans  # noqa: B018 - kept by the axis
    return Upsampling(axes[0], axes[1], low_size, native_size, coarse_joint, fine_joint)


def taps(size_in: int, size_out: int, joint: bool, device: str | torch.device = "cpu") -> Taps:
    """The taps that ``F.interpolate`` uses along an axis, read off its own output.

    Its weights depend on how it rounds pixel positions in float32. Interpolating the indicator of
    ``index mod 3 = c`` gives them exactly; the position, known to far less than a pixel, tells which indices.
    """
    # Beyond the end, the two taps of the last outputs would coincide and hide their weights.
    index = torch.arange(size_in + 2, device=device)
    indicators = torch.stack([(index % 3 == c).float() for c in range(3)])
    # On a CPU, a single row makes torch take its joint kernel (or, for a long one, decide by the threads as
    # it does for SAM's three masks per prompt: hence three channels), and many rows keep it from doing so.
    rows = indicators[None, :, None].expand(1, 3, 1 if joint else _SMALL_OUTPUT, -1)
    scale = (1.0, size_out / size_in)
    weights = F.interpolate(rows, scale_factor=scale, mode="bilinear", recompute_scale_factor=False)
    weights = weights[0, :, 0, :size_out]

    outputs = torch.arange(size_out, device=device, dtype=torch.float64)
    position = ((outputs + 0.5) * size_in / size_out - 0.5).clamp(min=0)
    used = weights > 0
    both = used.sum(0) == 2
    residue = torch.where(both, used & used.roll(-1, 0), used).int().argmax(0)
    near = torch.where(both, position.floor(), position.round()).long()
    left = near + (residue - near + 1) % 3 - 1
    left_weight = weights.gather(0, (left % 3)[None])[0]
    right_weight = torch.where(both, weights.gather(0, ((left + 1) % 3)[None])[0], 0.0)
    last = size_in - 1
    return Taps(left.clamp(max=last), (left + 1).clamp(max=last), left_weight, right_weight)


def _copy(size: int, device: str | torch.device) -> Taps:
    index = torch.arange(size, device=device)
    return Taps(index, index, torch.ones(size, device=device), torch.zeros(size, device=device))


def _axis(coarse: Taps, fine: Taps, low_size: int) -> Axis:
    return Axis(
        coarse,
        fine,
        first=coarse.left[fine.left],
        last=coarse.right[fine.right],
        starts=tuple(fine.left.tolist()),
        stops=tuple((fine.right + 1).tolist()),
        low_size=low_size,
    )


def _stage(rows: Taps, columns: Taps, joint: bool) -> Stage:
    return Stage(
        top=rows.left.numpy(),
        bottom=rows.right.numpy(),
        upper=rows.left_weight.numpy(),
        lower=rows.right_weight.numpy(),
        left=columns.left.numpy().astype(np.uint32),
        right=columns.right.numpy().astype(np.uint32),
        before=columns.left_weight.numpy(),
        after=columns.right_weight.numpy(),
        joint=joint,
    )


def _joint(size_out: tuple[int, int], device: str | torch.device) -> bool:
    """Whether torch takes its joint kernel for three channels of this output size (UpSampleKernel.cpp)."""
    if torch.device(device).type != "cpu":
        return False
    return torch.get_num_threads() == 1 or sum(size_out) <= _SMALL_OUTPUT
