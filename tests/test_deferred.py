"""torch._dynamo stays out of training, and out of nobody else's way: each case in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wasi.deferred import eager

TRAINING = """
import sys, torch
from wasi.models import timm_models, torchvision_models
from wasi.deferred import eager
from wasi.training.swan import Swan
timm_models.create("vit_tiny_patch16_224", 32, 2)
model = torchvision_models.create("vit_b_32", 32, 2)
head = list(model.heads.parameters())
for kind, options in ((eager(torch.optim.SGD), {}), (eager(torch.optim.AdamW), {}), (Swan, {})):
    optimizer = kind([{"params": head, "whiten": False}], lr=0.1, **options)
    model.heads(torch.ones(1, 768)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
print([name for name in ("torch._dynamo", "torch._inductor", "wandb") if name in sys.modules])
"""

DOWNLOADING = """
import socket, sys, tempfile
from omegaconf import OmegaConf
from wasi.config.files import CONF
from wasi.data.catalogue import load_data
from wasi.data.spec import InputSpec
from wasi.errors import UserError
def without_network(*_, **__):
    raise OSError("no network")
socket.getaddrinfo = socket.create_connection = without_network
for name in ("fashion_mnist", "cub200", "cifar10", "flowers102", "pets"):
    with tempfile.TemporaryDirectory() as root:
        given = OmegaConf.merge(OmegaConf.load(CONF / "dataset" / f"{name}.yaml"), {"root": root, "download": True})
        try:
            load_data(given, InputSpec(8, (0.5,) * 3, (0.5,) * 3, "bilinear"), 0)
        except UserError as error:
            assert str(error).startswith("dataset.download=true: "), error
        else:
            raise AssertionError(name)
print([name for name in ("torch._dynamo", "wandb") if name in sys.modules])
"""

OUTLINED = """
import sys, torch
from wasi.data.spec import InputSpec
from wasi.models import timm_models
from wasi.models.header import ModelHeader
from wasi.models.outline import outline
spec = timm_models.input_spec("vit_tiny_patch16_224", 32)
for library, name in (("wasi", "vit_micro"), ("torchvision", "swin_t"), ("timm", "vit_tiny_patch16_224")):
    assert all(p.is_meta for p in outline(ModelHeader(library, name, "wasi", "all", "ab", spec, ())).parameters())
print([name for name in ("torch._dynamo", "triton", "wandb") if name in sys.modules])
torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1, device="meta").normal_())
"""

COMPILING = """
import sys, torch
from wasi.deferred import import_light
torchvision = import_light("torchvision")
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

MARKED = """
import torch
@torch.compiler.disable
def inner(x):
    "What the compiler leaves alone."
    return x.sin()
class Layer(torch.nn.Module):
    @torch.compiler.disable
    def forward(self, x):
        return inner(x) * 2
layer = Layer()
disable = torch.compiler.disable
"""

LOOKED_INTO = """
import importlib, sys, torch
from wasi.deferred import import_light
light = sys.argv[-1] == "light"
marked = (import_light if light else importlib.import_module)("marked")
x = torch.linspace(0, 1, 5)
expected = marked.layer(x + 1).cos()
assert light == ("torch._dynamo" not in sys.modules)
assert marked.inner.__doc__ == "What the compiler leaves alone."
graphs = []
def record(graph, _):
    graphs.append([str(node.target) for node in graph.graph.nodes if node.op.startswith("call")])
    return graph.forward
compiled = torch.compile(lambda x: marked.layer(marked.inner(x) + 1).cos(), backend=record)
for _ in range(2):
    torch.testing.assert_close(compiled(x), marked.layer(marked.inner(x) + 1).cos(), rtol=0, atol=0)
assert torch.compiler.disable is not marked.disable or not light
print(len(graphs), *graphs)
"""

# Runs each program that it is given in a fork of a process that has imported torch, which takes seconds, and no more.
FORKING = """
import json, os, sys, traceback
import torch
for line in sys.stdin:
    program, before, arguments = json.loads(line)
    if (child := os.fork()) == 0:
        sys.path[:0], sys.argv[1:] = before, arguments
        try:
            exec(program, {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc(file=sys.stdout)
            sys.stdout.flush()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    print("\\nEND", os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def printed_by():
    """`printed_by(program, *folders, arguments=[])`: what a program prints, with the folders first in `sys.path`."""
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {list(filter(None, sys.path))}\n{FORKING}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def run(program: str, *before: Path, arguments=()) -> str:
            process.stdin.write(json.dumps([program, [*map(str, before)], [*arguments]]) + "\n")
            process.stdin.flush()
            lines = []
            while not (line := process.stdout.readline()).startswith("END "):
                assert line, "the process that forks has died"
                lines.append(line)
            assert line == "END 0\n", "".join(lines)
            return " ".join("".join(lines).split())

        yield run
        process.stdin.close()


@pytest.mark.parametrize(
    "program, printed", [(TRAINING, "[]"), (DOWNLOADING, "[]"), (OUTLINED, "[]"), (COMPILING, "1.0 2.0")]
)
def test_what_only_a_compiler_needs_is_imported_where_it_is_used_and_nowhere_else(program, printed, printed_by):
    assert printed_by(program) == printed


def test_functions_that_are_no_business_of_the_compiler_stay_so(tmp_path, printed_by):
    """The same graphs, with none of what the marked functions do, as by the module imported as usual."""
    (tmp_path / "marked.py").write_text(MARKED)
    light, usual = (printed_by(LOOKED_INTO, tmp_path, arguments=[how]) for how in ("light", "usual"))
    assert light == usual and int(light[0]) >= 2 and "sin" not in light.replace("asin", "")


ASKING_FOR_MORE = {
    "submodule": "from torch._dynamo.eval_frame import innermost_fn as found",
    "attribute": "import torch; found = torch._dynamo.allow_in_graph",
    "not_a_function": "from torch._dynamo.utils import counters as found",
    "no_function_yet": "import torch; found = torch.compiler.disable(recursive=False)",
    "by_name": "import torch; found = torch.compiler.disable(fn=lambda: 1)",
    "used": "import wandb; found = wandb.here",
    "used_from": "from wandb import here as found",
    "sub_package": "import wandb.sub; found = wandb.sub.there",
}

ASKED = """
import importlib, os, sys, torch
from wasi.deferred import import_light
for name in sys.argv[1:]:
    if (child := os.fork()) == 0:
        light = import_light(name).found
        del sys.modules[name]
        print(name, type(light) is type(importlib.import_module(name).found), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_a_release_that_asks_for_more_at_its_import_gets_it(tmp_path, printed_by):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "__init__.py").write_text("here = 1\n")
    (tmp_path / "wandb" / "sub.py").write_text("there = 1\n")
    for name, line in ASKING_FOR_MORE.items():
        (tmp_path / f"{name}.py").write_text(f"{line}\n")
    expected = " ".join(f"{name} True" for name in ASKING_FOR_MORE)
    assert printed_by(ASKED, tmp_path, arguments=list(ASKING_FOR_MORE)) == expected


def test_nothing_is_put_off_where_there_is_nothing_to_put_off(tmp_path, printed_by):
    """A torch without `torch.compiler`, an installation without wandb; a module that is missing is told as ever."""
    (tmp_path / "library.py").write_text(
        "import torch\ntry:\n    import wandb\nexcept ImportError:\n    wandb = None\n"
    )
    program = "import importlib.util, sys, torch\nfrom wasi.deferred import import_light\n"
    program += "del torch.compiler\nfind = importlib.util.find_spec\n"
    program += "importlib.util.find_spec = lambda name: None if name == 'wandb' else find(name)\n"
    program += "class NoWandb:\n    def find_spec(self, name, *_):\n"
    program += "        if name == 'wandb':\n            raise ModuleNotFoundError(name)\n"
    program += "sys.meta_path.insert(0, NoWandb())\nprint(import_light('library').wandb)\n"
    program += "try:\n    import_light('nowhere')\nexcept ImportError as error:\n    print(error.name)"
    assert printed_by(program, tmp_path) == "None nowhere"


def test_counting_flops_imports_no_triton_and_leaves_it_to_others(tmp_path, printed_by):
    (tmp_path / "triton.py").write_text("here = 'here'\n")
    assert printed_by(COUNTING, tmp_path) == "False here"


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
