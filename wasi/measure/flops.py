"""Work of a training step and of an inference pass, in FLOPs (2 per multiply-add), without running the step.

The forward pass is counted by fvcore, the backward pass and the subspace work by closed forms:
- a product with k operands that need gradients costs k times its forward in the backward pass;
- fused attention computes its scores again: five products for the gradients of query, key and value;
- what needs no gradient costs nothing, so nothing is counted below the first trainable operand;
- what is computed again (gradient checkpointing) counts as backward;
- low-rank layers have forms of their own (`layer_flops`).
Products, attention and decompositions count. Elementwise work, norms, losses and the optimizer do not.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from wasi.layers.recompute import call_positions, repeat_from
from wasi.measure import layer_flops
from wasi.measure.trace import Operator, trace
from wasi.models.modes import evaluating, without_fast_path


def inference_flops(model: nn.Module, example: Tensor, batch_size: int) -> int:
    """One batch in eval mode.

    Args:
        example: normalised images, of which the first gives shape and device.
    """
    with evaluating(model), without_fast_path():
        traces = _traces(model, example)
    return sum(operator.forward for operator in _at_batch(traces, batch_size))


def step_flops(
    model: nn.Module,
    example: Tensor,
    batch_size: int,
    micro_batch_size: int | None = None,
    repeated: Iterable[str] = (),
    chunk_size: int | None = None,
) -> dict[str, int]:
    """The contract's `flops/*` of one whole step and of inference.

    Args:
        model: as it trains: after the method was applied and the step was built, with whole blocks.
        repeated: names of modules whose forward is repeated in the backward pass.
        chunk_size: images at a time in repeated modules that first run without a graph (lean), and so are
            repeated to their end; None for checkpointing, which repeats up to the last tensor needed.
    """
    sizes = Counter(_pieces(batch_size, micro_batch_size, chunk_size))
    repeated = list(repeated)
    with _training_untouched(model):
        traces = _traces(model, example)
    counts = dict.fromkeys(("flops/train_forward", "flops/train_backward"), 0)
    counts["flops/train_subspace"] = _once_per_step(traces[0]) + layer_flops.truncations(model)
    for size, times in sizes.items():
        operators = _at_batch(traces, size)
        again = sum(_repetition(operators, name, to_the_end=chunk_size is not None) for name in repeated)
        counts["flops/train_forward"] += times * sum(op.forward for op in operators)
        counts["flops/train_backward"] += times * (again + sum(op.backward for op in operators))
        counts["flops/train_subspace"] += times * sum(_compression(op, gather=True) for op in operators)
    counts["flops/train_step"] = sum(counts.values())
    return {**counts, "flops/inference": inference_flops(model, example, batch_size)}


def _pieces(batch_size: int, micro_batch_size: int | None, chunk_size: int | None) -> list[int]:
    """Sizes of the pieces in which a batch goes through the model."""
    micro = _split(batch_size, micro_batch_size or batch_size)
    return [piece for size in micro for piece in _split(size, chunk_size or size)]


def _split(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def _once_per_step(operators: list[Operator]) -> int:
    """Bases and factors move on once, however often a layer is called and whoever shares its factors."""
    layers = {id(operator.layer): operator for operator in operators if operator.layer is not None}
    return sum(layer_flops.step(operator.layer, operator.shape[1:]) for operator in layers.values())


def _repetition(operators: list[Operator], name: str, to_the_end: bool) -> int:
    """Forward again; of a module in which nothing is saved, nothing."""
    inside = [op for op in operators if op.scope == name or op.scope.startswith(f"{name}.")]
    last = max((position for position, op in enumerate(inside) if op.saves), default=-1)
    if last < 0:
        return 0
    if to_the_end:  # the first forward did not keep inputs for the backward pass, so compression is not repeated
        return sum(op.forward for op in inside)
    again = inside[:last] if inside[last].early else inside[: last + 1]
    return sum(op.forward + _compression(op, gather=False) for op in again)


def _compression(operator: Operator, gather: bool) -> int:
    return 0 if operator.layer is None else layer_flops.compression(operator.layer, operator.shape, gather)


def _traces(model: nn.Module, example: Tensor) -> tuple[list[Operator], list[Operator]]:
    """Operators for two and for three images, from which those of any batch follow."""
    few, more = (trace(model, example[:1].expand(n, *example.shape[1:]).contiguous()) for n in (2, 3))
    if [op.scope for op in few] != [op.scope for op in more]:
        raise RuntimeError("flops: the model does not run the same operators for 2 images and for 3")
    return few, more


def _at_batch(traces: tuple[list[Operator], list[Operator]], batch_size: int) -> list[Operator]:
    """Costs are linear in the batch, but for low-rank layers, which are worked out from their input's shape."""

    def at(two: int, three: int) -> int:
        return two + (batch_size - 2) * (three - two)

    operators = []
    for a, b in zip(*traces, strict=True):
        forward, backward, shape = at(a.forward, b.forward), at(a.backward, b.backward), a.shape
        if a.layer is not None:
            shape = (at(a.shape[0], b.shape[0]), *a.shape[1:])
            forward = layer_flops.forward(a.layer, shape)
            backward = layer_flops.backward(a.layer, shape, a.needs_input)
        operators.append(replace(a, forward=forward, backward=backward, shape=shape))
    return operators


@contextmanager
def _training_untouched(model: nn.Module) -> Iterator[None]:
    """Training mode with gradients; random state, buffers, modes and call counters return to what they were."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    try:
        with torch.random.fork_rng(), torch.enable_grad(), repeat_from(call_positions(model)):
            yield
    finally:
        for module, training in modes:
            module.training = training
        for buffer, before in buffers:
            buffer.copy_(before)
