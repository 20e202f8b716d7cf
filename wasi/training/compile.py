"""`device.compile=true`: transformer blocks compiled by `torch.compile`, each kind of block on its own.

Blocks are what a transformer repeats, so compiling them one by one (torch's documentation calls it regional
compilation) takes less time than the whole model and leaves everything else as it is: patch embedding, head, loss,
optimizer, subspace iteration, gradient checkpointing and the chunks of `train.memory=lean` around the blocks. The
autograd Functions of low-rank layers are traced into the graphs of their block. A graph is made for each shape and
for each set of bases that are about to move; all of them are made in the first steps.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from wasi.errors import UserError
from wasi.models.structure import find_blocks

_GRAPHS = 64  # per kind of block, at most; what would need more runs as it is
COMPILE_OPTIONS: dict[str, Any] = {
    "backend": "inductor",
    "options": {"fallback_random": True},  # dropout draws from torch's generators, as it does without a compiler
    "dynamic": False,
}
_now = SimpleNamespace(eager=False)  # of all threads: a GPU's backward pass, which may repeat blocks, runs in its own


def check_compiler(wanted: bool, device: torch.device) -> None:
    """Compile a line, if compiling is `wanted`: seconds, in place of a failure after minutes of set-up.

    Raises:
        UserError: that failed, for example because there is no C++ compiler or, on a GPU, no Triton.
    """
    if not wanted:
        return
    try:
        torch.compile(_tried, **COMPILE_OPTIONS)(torch.ones(8, device=device))
    except Exception as error:  # whatever a compiler may come to say
        told = str(error).strip().partition("\n")[0]
        raise UserError("device.compile", "true", f"false here, where torch.compile does not work: {told}") from error


def _tried(x: Tensor) -> Tensor:
    return x.sin() + 1


def compile_blocks(model: nn.Module) -> None:
    """Every block of `model` computes what it did, compiled; blocks of one class and equal shapes share their graphs.

    To be called with the method applied, and before anything else replaces a block's `forward`.
    """
    torch.compiler.reset()  # what an earlier job of this process compiled would count against the limits
    compiled: dict[object, Callable] = {}
    for block in find_blocks(model).values():
        kind = type(block), tuple((name, tensor.shape) for name, tensor in block.state_dict().items())
        if kind not in compiled:
            compiled[kind] = _compiled(type(block).forward)
        block.forward = MethodType(compiled[kind], block)
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _GRAPHS)


def _compiled(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`forward`, compiled, which inside `uncompiled` is itself.

    What is compiled is a copy with a code object of its own, to which torch ties graphs and their number.
    """
    own = FunctionType(
        forward.__code__.replace(), forward.__globals__, argdefs=forward.__defaults__, closure=forward.__closure__
    )
    own.__kwdefaults__ = forward.__kwdefaults__
    fast = torch.compile(own, **COMPILE_OPTIONS)

    @wraps(forward)
    def run(block: nn.Module, *args, **kwargs) -> Tensor:
        return (forward if _now.eager else fast)(block, *args, **kwargs)

    run.compiled = True  # type: ignore[attr-defined]
    return run


def is_compiled(forward: Callable[..., Tensor]) -> bool:
    """Whether `forward` of a block is what `compile_blocks` has made of it."""
    return hasattr(forward, "compiled")


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, blocks run as if they had never been compiled: for passes that look into a model's modules.

    `torch.compiler.set_stance("force_eager")` is not enough for that: `torch.jit.trace` refuses what was compiled.
    """
    before, _now.eager = _now.eager, True
    try:
        yield
    finally:
        _now.eager = before


def graph_count() -> int:
    """How many graphs this process has compiled so far."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else dynamo.counters["stats"]["unique_graphs"]


def settle(run: Callable[[], object], cycle: int = 1) -> None:
    """Call `run`, whose calls repeat themselves every `cycle` times, until all that they do is compiled."""
    quiet = 0
    while quiet < cycle:
        before = graph_count()
        run()
        quiet = quiet + 1 if graph_count() == before else 0
