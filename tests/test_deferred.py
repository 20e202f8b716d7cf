"""torch._dynamo stays out of training, and out of nobody else's way: each case in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wasi.deferred import eager

TRAINING = """
import sys, torch
from wasi.models import torchvision_models
from wasi.deferred import eager
from wasi.training.swan import Swan
model = torchvision_models.create("vit_b_32", 32, 2)
head = list(model.heads.parameters())
for kind, options in ((eager(torch.optim.SGD), {}), (eager(torch.optim.AdamW), {}), (Swan, {})):
    optimizer = kind([{"params": head}], lr=0.1, **options)
    model.heads(torch.ones(1, 768)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules, "torch._inductor" in sys.modules)
"""

COMPILING = """
import sys, torch
from wasi.deferred import dynamo_deferred
with dynamo_deferred():
    import torchvision
assert "torch._dynamo" not in sys.modules
print(torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), [torch.tensor([[0.0, 0.0, 3.0, 3.0]])], 1).item())
import torch._dynamo
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
"""


COUNTING = """
import sys
from wasi.measure import dispatch_flops
print("triton" in sys.modules)
import triton
print(triton.here)
"""


@pytest.mark.parametrize("program, printed", [(TRAINING, "False False"), (COMPILING, "1.0 2.0")])
def test_dynamo_is_imported_where_it_is_used_and_nowhere_else(program, printed):
    assert printed_by(program) == printed


def test_counting_flops_imports_no_triton_and_leaves_it_to_others(tmp_path):
    (tmp_path / "triton.py").write_text("here = 'here'\n")
    assert printed_by(COUNTING, tmp_path) == "False here"


def printed_by(program: str, *before: Path) -> str:
    path = [*map(str, before), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path}\n{program}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


@pytest.mark.parametrize(
    "kind, options",
    [
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
        (torch.optim.Adagrad, {}),
        (torch.optim.RMSprop, {"momentum": 0.5}),
    ],
)
def test_an_eager_optimizer_does_the_same_to_the_last_bit(kind, options):
    def trained(of: type) -> tuple[torch.Tensor, dict]:
        parameter = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
        optimizer = of([{"params": [parameter]}], lr=0.1, **options)
        steps = []
        optimizer.register_step_post_hook(lambda *_: steps.append(1))
        for number in range(3):
            (parameter.sin() * number).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert len(steps) == 3 and parameter.grad is None
        return parameter.detach(), optimizer.state_dict()

    (ours, our_state), (theirs, their_state) = trained(eager(kind)), trained(kind)
    assert torch.equal(ours, theirs) and our_state.keys() == their_state.keys()
    assert issubclass(eager(kind), kind) and eager(kind).__name__ == kind.__name__ and eager(kind) is eager(kind)
