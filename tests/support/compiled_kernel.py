"""Run by a test: compiles the Triton program for cards, without one, as the network calls it.

Each argument is a case: compute capability and type. Prints, for each, the bytes of shared memory
that a block takes, the bytes of registers that do not fit, and what multiplies matrices.
"""

import re
import subprocess
import sys
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from inference.models.birefnet.fast.deformable import KERNEL_WARPS, kernel_constants
from inference.models.birefnet.fast.triton_program import deformable_program

_POINTERS = ("x", "places", "weight", "bias", "out")
_NUMBERS = ("pixels", "height", "width", "channels", "outputs")
_CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
_ITEM_SIZES = {"fp16": 2, "bf16": 2, "fp32": 4}


def _spilled(cubin: bytes) -> int:
    file = Path(sys.argv[1], "kernel.cubin")
    file.write_bytes(cubin)
    usage = subprocess.check_output([_CUOBJDUMP, "-res-usage", file], text=True)
    return int(re.findall(r"STACK:(\d+)", usage)[0])


for case in sys.argv[2:]:
    capability, dtype = case.split()
    constants = kernel_constants(49, 256, 256, _ITEM_SIZES[dtype])
    signature = dict.fromkeys(_POINTERS, f"*{dtype}") | dict.fromkeys(_NUMBERS, "i32")
    aligned = {(at,): [["tt.divisibility", 16]] for at in range(len(signature))}
    source = ASTSource(
        deformable_program,
        signature | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs=aligned,
    )
    target = GPUTarget("cuda", int(capability), 32)
    made = triton.compile(source, target=target, options={"num_warps": KERNEL_WARPS})
    units = [unit for unit in ("wgmma", "mma.sync") if unit in made.asm["ptx"]]
    print(made.metadata.shared, _spilled(made.asm["cubin"]), *units[:1] or ["fma"])  # noqa: T201
