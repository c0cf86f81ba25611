"""IS-Net, the dichotomous image segmentation (DIS) network (Qin et al., ECCV 2022), and its use as a saliency model.

Members carry the names of the published network, so that ``isnet-general-use.pth`` loads strictly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from types import MappingProxyType
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from zsad.config import ModelConfig, Precision
from zsad.errors import UsageError
from zsad.models.device import DTYPES, host_tensor, place
from zsad.models.graphs import CUDAGraphs
from zsad.models.state_dicts import seeded
from zsad.models.weights import restore
from zsad.stretch import stretch
from zsad.threads import in_threads

_IMAGES_ON_GPU = 4

Block = tuple[int, bool, int, int, int]
"""Levels, dilated instead of pooled, and the channels in, inside and out of one residual U-block."""


class REBNCONV(nn.Module):
    """3 x 3 convolution, batch norm, ReLU: (N, C_in, H, W) -> (N, C_out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
        self.bn_s1: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(out_channels)
        self.relu_s1 = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        conv = self.conv_s1
        if isinstance(self.bn_s1, nn.Identity) and _fuses(features.device):
            # Nothing between convolution and ReLU: cuDNN computes both at once, in half the time.
            around = cast(tuple[int, int], conv.padding)
            fused: Tensor = torch.cudnn_convolution_relu(
                features, conv.weight, conv.bias, conv.stride, around, conv.dilation, conv.groups
            )
            return fused
        out: Tensor = self.relu_s1(self.bn_s1(conv(features)))
        return out


class RSU(nn.Module):
    """Residual U-block (Qin et al., U2-Net, 2020, Fig. 2): RSU7, RSU6, RSU5, RSU4 and the dilated RSU4F.

    Args:
        levels: encoder levels; the last is dilated by 2 and lies at the resolution of the one before.
        dilated: keep the resolution and dilate level i by 2^(i-1) (RSU4F) instead of pooling.
        in_channels, mid_channels, out_channels: widths at the entrance, inside and at the exit.
    """

    def __init__(self, levels: int, dilated: bool, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.levels = levels
        self.dilated = dilated
        self.rebnconvin = REBNCONV(in_channels, out_channels)
        for level in range(1, levels + 1):
            dilation = 2 ** (level - 1) if dilated else 1 + (level == levels)
            width = out_channels if level == 1 else mid_channels
            self.add_module(f"rebnconv{level}", REBNCONV(width, mid_channels, dilation))
        for level in range(levels - 1, 0, -1):
            dilation = 2 ** (level - 1) if dilated else 1
            width = out_channels if level == 1 else mid_channels
            self.add_module(f"rebnconv{level}d", REBNCONV(2 * mid_channels, width, dilation))

    def forward(self, features: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H, W)."""
        residual: Tensor = self.rebnconvin(features)
        skips: list[Tensor] = []
        x = residual
        for level in range(1, self.levels):
            if level > 1 and not self.dilated:
                x = _halve(x)
            x = self.get_submodule(f"rebnconv{level}")(x)
            skips.append(x)
        x = self.get_submodule(f"rebnconv{self.levels}")(x)
        for level in range(self.levels - 1, 0, -1):
            skip = skips[level - 1]
            x = self.get_submodule(f"rebnconv{level}d")(torch.cat((_upsample_like(x, skip), skip), 1))
        return x + residual


class ISNet(nn.Module):
    """IS-Net. With ``width=64``: 44,046,790 parameters, 798 state-dict entries, keys as published.

    Args:
        width: channels of the first stage; all others are in proportion. A multiple of 4.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        c = width
        encoder: list[Block] = [
            (7, False, c, c // 2, c),
            (6, False, c, c // 2, 2 * c),
            (5, False, 2 * c, c, 4 * c),
            (4, False, 4 * c, 2 * c, 8 * c),
            (4, True, 8 * c, 4 * c, 8 * c),
            (4, True, 8 * c, 4 * c, 8 * c),
        ]
        decoder: list[Block] = [
            (7, False, 2 * c, c // 4, c),
            (6, False, 4 * c, c // 2, c),
            (5, False, 8 * c, c, 2 * c),
            (4, False, 16 * c, 2 * c, 4 * c),
            (4, True, 16 * c, 4 * c, 8 * c),
        ]
        self.conv_in = nn.Conv2d(3, c, 3, stride=2, padding=1)
        for stage, block in enumerate(encoder, 1):
            self.add_module(f"stage{stage}", RSU(*block))
        for stage, block in reversed(list(enumerate(decoder, 1))):
            self.add_module(f"stage{stage}d", RSU(*block))
        for side, channels in enumerate((c, c, 2 * c, 4 * c, 8 * c, 8 * c), 1):
            self.add_module(f"side{side}", nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """First side output only, which is all that inference needs.

        Args:
            images: (N, 3, H, W) of the network's type, preprocessed.

        Returns:
            (N, 1, H, W) logits.
        """
        return self._side(1, self.decoder_features(images)[0], images)

    def forward_all(self, images: Tensor) -> list[Tensor]:
        """All six side outputs, finest first, for deep supervision: each (N, 1, H, W) logits."""
        features = self.decoder_features(images)
        return [self._side(number, feature, images) for number, feature in enumerate(features, 1)]

    def decoder_features(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> the inputs of the six side outputs, finest first, at strides 2, 4, ..., 64.

        The coarsest is the last encoder stage itself.
        """
        x = self.conv_in(images)
        skips: list[Tensor] = []
        for stage in range(1, 7):
            if stage > 1:
                x = _halve(x)
            x = self.get_submodule(f"stage{stage}")(x)
            skips.append(x)
        features = [x]
        for stage in range(5, 0, -1):
            skip = skips[stage - 1]
            x = self.get_submodule(f"stage{stage}d")(torch.cat((_upsample_like(x, skip), skip), 1))
            features.insert(0, x)
        return features

    def _side(self, number: int, features: Tensor, images: Tensor) -> Tensor:
        return _upsample_like(self.get_submodule(f"side{number}")(features), images)


@dataclass(frozen=True)
class ISNetModel:
    """IS-Net with its preprocessing.

    Attributes:
        network: from ``ready``: of the precision's type, on ``device``.
        input_size: side S of the square input in pixels.
        device: torch device.
        precision: ``fp32``, ``bf16`` or ``fp16``, of the whole network.
        sha256: of the weights file, or of the state dict of seeded random weights.
    """

    network: ISNet
    input_size: int
    device: str
    precision: Precision
    sha256: str

    @property
    def batch_size(self) -> int:
        """Images per forward.

        One in float32: a threshold follows, and a pixel on it must not depend on which images share a batch. On a CPU
        more would gain nothing; on a GPU in half precision the coarse levels of one image leave most of it idle.
        """
        return 1 if self.precision == "fp32" or torch.device(self.device).type == "cpu" else _IMAGES_ON_GPU

    def preprocess(self, images: Sequence[NDArray[np.uint8]], threads: int = 1) -> Tensor:
        """As the DIS authors' inference: bilinear without antialias, truncated to uint8, / 255, minus 0.5.

        Args:
            images: N of (H, W, 3) uint8 RGB.
            threads: how many are stretched at once.

        Returns:
            (N, 3, S, S) float32 in [-0.5, 0.5], on the host. The aspect is squashed.
        """
        side = self.input_size
        pixels = host_tensor((len(images), 3, side, side), self.device)
        work = partial(_stretched, side)
        in_threads(work, images, pixels.numpy(), threads=threads)
        return pixels

    @torch.no_grad()
    def predict(self, batch: Tensor) -> Tensor:
        """Saliency of preprocessed images.

        Args:
            batch: (N, 3, S, S) float32.

        Returns:
            (N, S, S) float32 on ``device``: sigmoid of the first side output, in [0, 1].
        """
        images = batch.to(self.device, non_blocking=True)
        saliency: Tensor = self._saliency(images.to(DTYPES[self.precision], memory_format=torch.channels_last))
        return saliency

    @cached_property
    def _saliency(self) -> CUDAGraphs:
        return CUDAGraphs(partial(_saliency, self.network))


_ARCHITECTURES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"isnet-general-use": (64, 1024), "mini-isnet": (8, 320), "random-isnet": (8, 320)}
)
"""Width and input size by name."""


def load(config: ModelConfig, device: str = "cpu", precision: Precision = "fp32") -> ISNetModel:
    """Build IS-Net and load the configured weights.

    Args:
        config: name ``isnet-general-use`` (1024 x 1024), ``mini-isnet`` (an eighth of the channels,
            320 x 320) or ``random-isnet``, optionally with a weights file.
        device: torch device.
        precision: ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        UsageError: another name, weights missing, or weights of another shape.
    """
    if config.name not in _ARCHITECTURES:
        raise UsageError(f"models.isnet.name: given {config.name!r}; expected one of: {', '.join(_ARCHITECTURES)}.")
    width, input_size = _ARCHITECTURES[config.name]
    network = seeded(lambda: ISNet(width))
    sha256 = restore(network, config)
    return ISNetModel(ready(network, device, precision), input_size, device, precision, sha256)


def ready(network: ISNet, device: str, precision: Precision) -> ISNet:
    """Make a network ready for inference, in place; in half precision without batch norms and all in that type.

    A batch norm between a convolution and its ReLU scales and shifts every channel, which the convolution can do: its
    weights are multiplied in float32 and rounded once.
    """
    network.eval().requires_grad_(False)
    if precision != "fp32":
        for block in [module for module in network.modules() if isinstance(module, REBNCONV)]:
            block.conv_s1 = fuse_conv_bn_eval(block.conv_s1, cast(nn.BatchNorm2d, block.bn_s1))
            block.bn_s1 = nn.Identity()
        network.to(DTYPES[precision])
    # Convolutions over few, wide channels at 1024 x 1024 are about 1.7 times as fast in this layout on a CPU.
    network.to(memory_format=torch.channels_last)
    return place(network, device, precision)


@cache
def _fuses(device: torch.device) -> bool:
    """Whether cuDNN fuses convolutions in every half precision: on NVIDIA GPUs from Ampere on."""
    on_nvidia = device.type == "cuda" and torch.version.cuda is not None
    return on_nvidia and torch.cuda.get_device_capability(device) >= (8, 0)


def _stretched(side: int, image: NDArray[np.uint8], output: NDArray[np.float32]) -> None:
    stretch(image, side, side, 255.0, 0.5, output)


def _saliency(network: nn.Module, images: Tensor) -> Tensor:
    return torch.sigmoid(network(images)[:, 0].float())


def _halve(features: Tensor) -> Tensor:
    return F.max_pool2d(features, 2, stride=2, ceil_mode=True)


def _upsample_like(features: Tensor, target: Tensor) -> Tensor:
    if features.shape[-2:] == target.shape[-2:]:
        return features
    return F.interpolate(features, target.shape[-2:], mode="bilinear", align_corners=False)
