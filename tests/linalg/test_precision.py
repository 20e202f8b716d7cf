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
    return str({allowed})
before = allowed()
with full_float32(), full_float32():
    inside = allowed()
assert inside in ("ieee", "False", "highest") and allowed() == before == "{expected}", (before, inside, allowed())
"""


@pytest.mark.parametrize(
    ("allow", "allowed", "expected"),
    [
        ("", "matmul.allow_tf32", "False"),
        ("matmul.allow_tf32 = True", "matmul.allow_tf32", "True"),
        ("torch.set_float32_matmul_precision('high')", "matmul.allow_tf32", "True"),
        ("torch.set_float32_matmul_precision('medium')", "torch.get_float32_matmul_precision()", "medium"),
        ("matmul.fp32_precision = 'tf32'", "matmul.fp32_precision", "tf32"),
        ("torch.backends.fp32_precision = 'tf32'", "matmul.fp32_precision", "tf32"),
    ],
)
def test_tf32_is_off_inside_and_as_it_was_outside(allow, allowed, expected):
    """In a process of its own, as torch refuses one interface once the other was used."""
    import torch

    if "fp32_precision" in allow and not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has one interface only")
    subprocess.run([sys.executable, "-c", CODE.format(allow=allow, allowed=allowed, expected=expected)], check=True)


def test_a_global_setting_is_still_the_one_that_counts_afterwards():
    import torch

    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has one interface only")
    code = """
import torch
from wasi.linalg.precision import full_float32

torch.backends.fp32_precision = "tf32"
with full_float32(), full_float32():
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
assert torch.backends.cuda.matmul.fp32_precision == "tf32"
torch.backends.fp32_precision = "ieee"
assert torch.backends.cuda.matmul.fp32_precision == "ieee"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
