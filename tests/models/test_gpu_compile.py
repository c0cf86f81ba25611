"""The Triton kernels compile for a GPU, for which none is needed; the interpreter of other tests accepts more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

CODE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from zsad.models import clipseg_kernels, sam_decoder_kernels, sam_encoder_kernels, sam_mask_kernels

TYPES = {
    "*bf16": "queries folded keys pixels spread first second mix projected padding row_terms column_terms seen residual patches"
    " added normalised",
    "*fp32": "mix_bias norm1 norm1_bias norm2 norm2_bias first_bias weight bias second_bias low row_weights column_weights stability"
    " terms x total",
    "*i64": "owner chosen boxes places",
    "*i32": "reach row_spans column_spans row_entries column_entries found counts",
    "*u8": "within painted",
    "fp32": "eps eps1 eps2 level raised lowered scale",
    "i32": "rows side size width length masks low_height low_width height count",
}
TYPE_OF = {name: kind for kind, names in TYPES.items() for name in names.split()}
HEADS, LENGTH, D, C = 2, sam_decoder_kernels.LENGTH, 16, 32
SIZES = dict(HEADS=HEADS, LENGTH=LENGTH, R=HEADS * LENGTH, D=D, C=C, C1=C, C2=C, BLOCK=16)
SIZES |= dict(STRIPS=2, ROWS=4, COLUMNS=32, MASKS=128, WINDOW=14, SPAN=32, CHANNELS=24, WIDE=32, H=64, CHUNK=32, INNER=64, K=4)

for module in (sam_decoder_kernels, sam_mask_kernels, sam_encoder_kernels, clipseg_kernels):
    functions = [one for one in vars(module).values() if isinstance(one, triton.JITFunction)]
    for kernel in functions:
        if any(kernel.__name__ + "(" in other.src for other in functions if other is not kernel):
            continue  # Called by a kernel, so compiled with it.
        switches = {"FIRST", "LAST", "PADDED", "ADDS"} & set(kernel.arg_names)
        for switch in (True, False) if switches else (None,):
            sizes = SIZES | {name: switch for name in switches}
            if "PADDED" in switches and not switch:
                # As in the global layers.
                sizes |= dict(WINDOW=64, BLOCK=64, SPAN=128, ROWS=1)
            types = TYPE_OF | {"output": "*fp32" if kernel.__name__ in ("_upscale", "_split") else "*bf16"}
            if kernel.__name__ == "_finish":
                types["level"] = "*bf16"
            constants = {name: sizes[name] for name in kernel.arg_names if name.isupper()}
            signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
            # As torch's tensors are.
            aligned = {
                (i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")
            }
            source = ASTSource(kernel, signature, constants, aligned)
            assert triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["cubin"]
        print(kernel.__name__)
"""


def test_the_kernels_compile_for_a_gpu(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    kernels = [
        "_read",
        "_write",
        "_upscale",
        "extents",
        "measure",
        "conclude",
        "cover",
        "paint",
        "_attend",
        "_add_and_normalise",
        "_finish",
        "_split",
    ]
    assert done.stdout.split() == kernels
