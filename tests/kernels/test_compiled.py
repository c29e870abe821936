"""Every configuration of every Triton kernel, compiled for an H100 that need not be here, and its machine code read.

The bounds are of what decides a kernel's speed and can be known without running it: tensor cores are used, no
register is spilled to memory, shared memory suffices, and the loop over tiles costs few instructions a score.
"""

import importlib.util
import re
from pathlib import Path

import aot
import pytest

from mmenc_plugin import kernels

SHARED = 227 * 1024  # bytes that a program may have on an H100
MODULES = [
    f"mmenc_plugin.kernels.{file.parent.name}.triton"
    for file in sorted(Path(kernels.__file__).parent.glob("*/triton.py"))
]
# pattern of a variant's whole name -> instructions of a thread for each score
PER_LOGIT = {
    r"score_loss forward.* (bf16|fp16) (56|64)": 6.6,
    r"score_loss queries.* (bf16|fp16) (56|64)": 6.2,
    r"score_loss items (bf16|fp16) (56|64)": 5.2,
    r"score_loss items\+bias.* (bf16|fp16) (56|64)": 7.6,  # and the bias's gradient
    r"score_loss symmetric .* (bf16|fp16) (56|64)": 13.0,
    r"score_loss symmetric .* (bf16|fp16) (120|128)": 17.5,
    r"score_loss forward.* (bf16|fp16) (120|128)": 10.0,
    r"score_loss (items|queries).* (bf16|fp16) (120|128)": 10.0,
    r"score_loss forward.* fp32 64": 18.0,  # three products of TF32 each
    r"score_loss (items|queries).* fp32 64": 38.0,
    r"score_topk .*": 2.6,
}

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.fixture(scope="module")
def compiled():
    """All variants, by name; each is compiled once."""
    return {variant.name: variant for variant in aot.compile_apart(MODULES)}


def test_every_module_has_variants(compiled):
    assert {name.split()[0] for name in compiled} == {module.split(".")[-2] for module in MODULES}


def test_tiles_are_multiplied_on_tensor_cores(compiled):
    assert not [c for c in compiled.values() if c.products and not c.tensor_instructions]


def test_no_register_is_spilled(compiled):
    assert not [c for c in compiled.values() if c.stack]


def test_shared_memory_suffices(compiled):
    assert not [c for c in compiled.values() if c.shared > SHARED]


def test_instructions_a_score(compiled):
    unbounded, above = [], []
    for c in compiled.values():
        if c.per_logit is None:
            continue
        bound = next((most for pattern, most in PER_LOGIT.items() if re.fullmatch(pattern, c.name)), None)
        unbounded += [c] if bound is None else []
        above += [c] if bound is not None and c.per_logit > bound else []
    assert not unbounded
    assert not above


def test_loops_are_found(compiled):
    """A kernel that goes through tiles has its loop, with the products of a tile in it."""
    assert all(c.per_logit for c in compiled.values() if c.name.startswith("score_loss") and c.products)


LOOP = """
/*0000*/ MOV R1, c[0x0][0x28] ;
/*0010*/ HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], R24 ;
/*0020*/ @P0 BRA 0x50 ;
/*0030*/ FADD R1, R1, R2 ;
/*0040*/ FADD R1, R1, R2 ;
/*0050*/ FMUL R3, R3, R4 ;
/*0060*/ @!P1 BRA 0x10 ;
/*0070*/ FADD R1, R1, R2 ;
/*0080*/ @P2 BRA 0x70 ;
/*0090*/ EXIT ;
/*00a0*/ BRA 0xa0;
"""


def test_the_frequent_way_round_a_loop():
    """Without what stands behind a condition, and not the loop that multiplies nothing."""
    loop = aot.Code(LOOP).frequent_loop()
    assert [text.split()[0] for text in loop] == ["HGMMA.64x64x16.F32.BF16", "BRA", "FMUL", "BRA"]
    assert aot.Code(LOOP.replace("HGMMA", "IMAD")).frequent_loop() is None
