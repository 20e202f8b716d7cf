"""`device.compile=true`: transformer blocks compiled by `torch.compile`, each kind of block once.

A transformer repeats its blocks, so compiling them alone (regional compilation in torch's documentation) takes less
time than compiling the whole model. All the rest runs in eager mode: patch embedding, head, loss, optimizer, subspace
iteration, gradient checkpointing and the chunks of `train.memory=lean` around the blocks. The autograd Functions of
low-rank layers are traced into the graphs of their block. One graph is made for each input shape and for each set of
bases that require a gradient (those updated at the end of the step); all graphs are made in the first steps.
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

_GRAPHS = 64  # the most graphs per kind of block; beyond that, blocks run in eager mode
COMPILE_OPTIONS: dict[str, Any] = {
    "backend": "inductor",
    "options": {"fallback_random": True},  # dropout draws from torch's generators, as in eager mode
    "dynamic": False,
}
_now = SimpleNamespace(eager=False)  # shared by all threads: on a GPU, blocks are recomputed in autograd's own thread


def check_compiler(wanted: bool, device: torch.device) -> None:
    """Check that `torch.compile` works, if `wanted`, by compiling one line: seconds, instead of a failure after set-up.

    Raises:
        UserError: it does not, for example because there is no C++ compiler or, on a GPU, no Triton.
    """
    if not wanted:
        return
    try:
        torch.compile(lambda x: x.sin() + 1, **COMPILE_OPTIONS)(torch.ones(8, device=device))
    except Exception as error:  # backends raise many types of errors
        reason = str(error).strip().partition("\n")[0]
        raise UserError("device.compile", "true", f"false here, where torch.compile does not work: {reason}") from error


def compile_blocks(model: nn.Module) -> None:
    """Replace the `forward` of every block of `model` by a compiled one; blocks of one class and shapes share graphs.

    Call it after the method has been applied and before anything else replaces a block's `forward`.
    """
    torch.compiler.reset()  # graphs of an earlier job in this process would count towards the limit
    compiled: dict[object, Callable] = {}
    for block in find_blocks(model).values():
        kind = type(block), tuple((name, tensor.shape) for name, tensor in block.state_dict().items())
        if kind not in compiled:
            compiled[kind] = _compiled(type(block).forward)
        block.forward = MethodType(compiled[kind], block)


def _allow_graphs() -> None:
    """Let the current thread compile up to `_GRAPHS` graphs per kind of block.

    From torch 2.12 on each thread has a limit of its own, also the one in which autograd recomputes blocks on a GPU.
    """
    config = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # its name in torch 2.6
    if getattr(config, limit) < _GRAPHS:
        setattr(config, limit, _GRAPHS)


def _compiled(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `forward` compiled; inside `uncompiled`, the result calls `forward` itself.

    A copy with its own code object is compiled, since torch attaches graphs, and the limit on them, to code objects.
    """
    own = FunctionType(
        forward.__code__.replace(), forward.__globals__, argdefs=forward.__defaults__, closure=forward.__closure__
    )
    own.__kwdefaults__ = forward.__kwdefaults__
    fast = torch.compile(own, **COMPILE_OPTIONS)

    @wraps(forward)
    def run(block: nn.Module, *args, **kwargs) -> Tensor:
        if _now.eager:
            return forward(block, *args, **kwargs)
        _allow_graphs()
        return fast(block, *args, **kwargs)

    run.compiled = True  # type: ignore[attr-defined]  # a mark, which `is_compiled` reads
    return run


def is_compiled(forward: Callable[..., Tensor]) -> bool:
    """Whether `forward` of a block was made by `compile_blocks`."""
    return hasattr(forward, "compiled")


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, blocks run in eager mode, for passes that hook or trace modules within a block.

    `torch.compiler.set_stance("force_eager")` is not enough: `torch.jit.trace` refuses compiled functions.
    """
    before, _now.eager = _now.eager, True
    try:
        yield
    finally:
        _now.eager = before


def graph_count() -> int:
    """Return the number of graphs that this process has compiled so far."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else dynamo.counters["stats"]["unique_graphs"]


def run_until_compiled(run: Callable[[], object], cycle: int = 1) -> None:
    """Call `run` until `cycle` calls in a row have compiled no new graph.

    Args:
        cycle: number of calls after which `run` repeats the same operations.
    """
    quiet = 0
    while quiet < cycle:
        before = graph_count()
        run()
        quiet = quiet + 1 if graph_count() == before else 0
