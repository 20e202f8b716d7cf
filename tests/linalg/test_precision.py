"""Products of float32 matrices in full precision, whichever of torch's two interfaces has allowed TF32."""

import subprocess
import sys

import pytest

CODE = """
import torch
from wasi.linalg.precision import full_float32

matmul = torch.backends.cuda.matmul
{allow}
def allowed():
    return matmul.fp32_precision if hasattr(matmul, "fp32_precision") else str(matmul.allow_tf32)
before = allowed()
with full_float32(), full_float32():
    inside = allowed()
assert inside in ("ieee", "False") and allowed() == before and before in {expected}, (before, inside, allowed())
{read}
"""


@pytest.mark.parametrize(
    ("allow", "expected", "read"),
    [
        ("", "('none', 'False')", "assert not matmul.allow_tf32"),
        ("matmul.allow_tf32 = True", "('tf32', 'True')", "assert matmul.allow_tf32"),
        ("torch.set_float32_matmul_precision('high')", "('tf32', 'True')", "assert matmul.allow_tf32"),
        ("matmul.fp32_precision = 'tf32'", "('tf32',)", ""),
        ("torch.backends.fp32_precision = 'tf32'", "('tf32',)", ""),
    ],
)
def test_tf32_is_off_inside_and_as_it_was_outside(allow, expected, read):
    """In a process of its own, as torch refuses one interface once the other was used."""
    import torch

    if "fp32_precision" in allow and not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has one interface only")
    subprocess.run([sys.executable, "-c", CODE.format(allow=allow, expected=expected, read=read)], check=True)
