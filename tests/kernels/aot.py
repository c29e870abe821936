"""Compiling kernels for a GPU that is not here, and reading what came out.

As a program, in a process without TRITON_INTERPRET (where `triton.jit` gives kernels that compile), it compiles the
variants of kernel modules and prints a line of JSON for each: `aot.py part parts module ...`.
"""

import collections
import dataclasses
import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CAPABILITY = 90  # Hopper
WARP = 32  # threads


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a variant became.

    Attributes:
        name: the kernel's folder, then the variant's name.
        shared: bytes of shared memory of a program.
        registers: of a thread.
        stack: bytes of a thread's memory for registers that did not fit.
        products: whether it is to multiply tiles.
        tensor_instructions: instructions that multiply tiles on the tensor cores.
        per_logit: instructions of a thread in its most frequent way round the loop over tiles, times the threads,
            over the logits of a tile; None for a kernel without such a loop.
    """

    name: str
    shared: int
    registers: int
    stack: int
    products: bool
    tensor_instructions: int
    per_logit: float | None


def compile_apart(modules, parts=2):
    """Compile every variant of the modules in `parts` processes of their own; in no order."""
    import os

    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, str(part), str(parts), *modules],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for part in range(parts)
    ]  # fmt: skip
    found = []
    for process in running:
        out, errors = process.communicate()
        assert process.returncode == 0, errors[-3000:]
        found += [Compiled(**json.loads(line)) for line in out.splitlines()]
    return found


def compile_part(part, parts, modules):
    """Those of the variants whose number is `part` modulo `parts`."""
    variants = [(name.split(".")[-2], v) for name in modules for v in importlib.import_module(name).variants()]
    for kernel, variant in variants[part::parts]:
        yield compile_variant(kernel, *variant)


def compile_variant(kernel, name, function, signature, constants, num_warps, num_stages, logits):
    """See the kernels' `variants`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = [(k,) for k, kind in enumerate(signature.values()) if kind.startswith("*")]
    source = ASTSource(
        fn=function, signature=signature, constexprs=constants,
        attrs={place: [["tt.divisibility", 16]] for place in pointers},  # as torch allocates
    )  # fmt: skip
    options = {"num_warps": num_warps, "num_stages": num_stages}
    done = triton.compile(source, target=GPUTarget("cuda", CAPABILITY, WARP), options=options)
    text = disassemble(done.asm["cubin"])
    code = Code(text)
    loop = code.frequent_loop() if logits else None
    return Compiled(
        name=f"{kernel} {name}",
        shared=done.metadata.shared,
        registers=int(re.search(r"REG:(\d+)", text)[1]),
        stack=int(re.search(r"STACK:(\d+)", text)[1]),
        products="tt.dot" in done.asm["ttir"],
        tensor_instructions=len(code.products),
        per_logit=None if loop is None else round(len(loop) * num_warps * WARP / logits, 2),
    )


def disassemble(cubin):
    """The machine code and the resource usage of a compiled kernel, as text."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool, "-sass", "-res-usage", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Code:
    """Machine code as a graph of instructions.

    Attributes:
        text: of each instruction, without the predicate.
        following: the numbers of those that may come next.
        products: the numbers of those that multiply on the tensor cores.
    """

    def __init__(self, sass):
        found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([^;]+);", sass)
        self.text = [text.strip() for _, _, text in found]
        number = {int(address, 16): k for k, (address, _, _) in enumerate(found)}
        self.following = [self._following(k, bool(predicate), number) for k, (_, predicate, _) in enumerate(found)]
        self.products = [k for k, text in enumerate(self.text) if text.startswith(("HGMMA", "HMMA"))]

    def _following(self, k, conditional, number):
        text = self.text[k]
        branch = re.match(r"BRA\b.*?(0x[0-9a-f]+)", text)
        out = [number[int(branch[1], 16)]] if branch and int(branch[1], 16) in number else []
        conditional |= bool(re.match(r"BRA\S*\s+!?U?P", text)) or text.startswith("BRA.DIV")
        ends = text.startswith(("EXIT", "BRA"))
        return out if (ends and not conditional) or k + 1 == len(self.text) else [*out, k + 1]

    def frequent_loop(self):
        """The instructions of the smallest loop with products, by the shortest way round; None without one.

        The shortest way leaves out what stands behind a condition: a tile that holds an event.
        """
        ways = [
            way
            for last, following in enumerate(self.following)
            for first in following
            if first <= last and any(first <= k <= last for k in self.products)
            and (way := self._way(first, last)) and any(k in way for k in self.products)
        ]  # fmt: skip
        return [self.text[k] for k in min(ways, key=len)] if ways else None

    def _way(self, first, last):
        """Fewest instructions from the first to the last, within them."""
        before, waiting = {first: None}, collections.deque([first])
        while waiting and last not in before:
            k = waiting.popleft()
            for following in self.following[k]:
                if following not in before and first <= following <= last:
                    before[following] = k
                    waiting.append(following)
        way, k = [], last if last in before else None
        while k is not None:
            way.append(k)
            k = before[k]
        return way[::-1]


if __name__ == "__main__":
    for compiled in compile_part(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]):
        print(json.dumps(dataclasses.asdict(compiled)), flush=True)
