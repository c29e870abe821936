"""Compiling kernels for a GPU that is not here, and reading what came out.

Run as a program (in a process without TRITON_INTERPRET, where `triton.jit` gives kernels that compile), it compiles
the variants of the named modules and prints one JSON line each.
"""

import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CAPABILITY = 90  # Hopper


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a variant became.

    Attributes:
        name: of the variant, after that of its module.
        shared: bytes of shared memory of a program.
        registers: of a thread.
        stack: bytes of a thread's stack: registers that did not fit.
        tensor_instructions: how many instructions of the code multiply matrices on the tensor cores.
        per_logit: instructions of the hot loop times 32 threads, of a logit; None without such a loop.
    """

    name: str
    shared: int
    registers: int
    stack: int
    tensor_instructions: int
    per_logit: float | None


def compile_all(modules, part=0, parts=1):
    """Compile every variant of the modules whose number is `part` modulo `parts`."""
    import importlib

    variants = [(name, v) for name in modules for v in importlib.import_module(name).variants()]
    for module, variant in variants[part::parts]:
        yield _compile(module.split(".")[-2], *variant)


def _compile(kernel, name, function, signature, constexprs, num_warps, num_stages, logits):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    places = [k for k, (_, kind) in enumerate(signature.items()) if kind.startswith("*")]
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs=constexprs,
        attrs={(k,): [["tt.divisibility", 16]] for k in places},  # as torch allocates
    )
    options = {"num_warps": num_warps, "num_stages": num_stages}
    kernel_ = triton.compile(source, target=GPUTarget("cuda", CAPABILITY, 32), options=options)
    sass, usage = disassemble(kernel_.asm["cubin"])
    return Compiled(
        name=f"{kernel} {name}",
        shared=kernel_.metadata.shared,
        registers=int(re.search(r"REG:(\d+)", usage)[1]),
        stack=int(re.search(r"STACK:(\d+)", usage)[1]),
        tensor_instructions=sum(op.startswith(("HGMMA", "HMMA")) for _, op in instructions(sass)),
        per_logit=_per_logit(sass, num_warps, logits),
    )


def disassemble(cubin):
    """The machine code and the resource usage of a compiled kernel, as text."""
    import triton

    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return tuple(
            subprocess.run([tools / "cuobjdump", flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("-sass", "-res-usage")
        )


def instructions(sass):
    """(address, instruction without its predicate) in order."""
    lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([^;]+);", sass)
    return [(int(address, 16), op.strip()) for address, op in lines]


def loops(sass):
    """The (first, last) addresses of what a backward branch runs again, innermost ones only."""
    found = []
    for address, op in instructions(sass):
        target = re.match(r"BRA\S*\s+(?:!?U?P\w+,\s+)?`?\(?\.?(?:L_x_\d+\)?|(0x[0-9a-f]+))", op)
        if target and target[1] and int(target[1], 16) < address:
            found.append((int(target[1], 16), address))
    return [a for a in found if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in found)]


def _per_logit(sass, num_warps, logits):
    return None


if __name__ == "__main__":
    for compiled in compile_all(sys.argv[3:], int(sys.argv[1]), int(sys.argv[2])):
        print(json.dumps(dataclasses.asdict(compiled)))
