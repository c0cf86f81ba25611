"""State dicts: read without running code, loaded strictly, hashed."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zsad.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

ResultT = TypeVar("ResultT")


def sha256_of_state_dict(state_dict: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of all entries, in order of name."""
    import torch

    digest = hashlib.sha256()
    for key in sorted(state_dict):
        tensor = state_dict[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Plain tensors from a safetensors file or a ``torch.save`` file (read without running any code).

    ``{"state_dict": ...}`` wrappers and ``module.`` prefixes are taken off; half-precision entries come
    back as float32.

    Raises:
        UsageError: the file is unreadable or holds more than tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            loaded: Any = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError) as error:
        raise UsageError(
            f"{path} holds more than plain tensors or is not a weights file; expected safetensors or a "
            f"torch file that loads with weights_only=True. ({str(error).splitlines()[0]})"
        ) from None
    except (OSError, RuntimeError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"Cannot read the weights {path}: {reason}") from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise UsageError(f"{path} is not a state dict: expected a mapping from names to tensors.")
    state = {str(key): value for key, value in loaded.items()}
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    half = (torch.float16, torch.bfloat16)
    return {key: value.float() if value.dtype in half else value for key, value in state.items()}


def load_into(module: nn.Module, state_dict: Mapping[str, Tensor], name: str) -> None:
    """Strict load: the same names and shapes, or an error that says what differs.

    Raises:
        UsageError: entries missing, unexpected or of another shape.
    """
    expected = module.state_dict()
    problems = []
    for label, keys in (
        ("missing", [key for key in expected if key not in state_dict]),
        ("unexpected", [key for key in state_dict if key not in expected]),
        (
            "another shape",
            [
                f"{key} {tuple(value.shape)}, expected {tuple(expected[key].shape)}"
                for key, value in state_dict.items()
                if key in expected and value.shape != expected[key].shape
            ],
        ),
    ):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            problems.append(f"\n  {label} ({len(keys)}): {'; '.join(keys[:3])}{more}")
    if problems:
        raise UsageError(
            f"The weights do not fit {name}: given {len(state_dict)} entries, expected {len(expected)}."
            + "".join(problems)
        )
    module.load_state_dict(dict(state_dict), strict=True)


def seeded(build: Callable[[], ResultT], seed: int = 0) -> ResultT:
    """``build()`` under a fixed seed on the CPU; the caller's random state is untouched."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
