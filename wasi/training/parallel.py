"""Data-parallel training (`torchrun`): one process per device, each with its share of every batch.

Every process holds the whole model. All that a step needs of the batch is a sum over images: gradients of parameters
and of coordinates `C`, subspace iterates `A_m^T A_m U_m`, the loss. Each process computes the sum over its share, the
sums are all-reduced, and then all processes do the same computation on the same numbers. So a step equals, up to
rounding, that of one process with the whole batch, but for `rank.batch_mode=cut`, which compresses the images of each
process by themselves, and for dropout, whose masks each process draws. Without other processes, all functions act as in
a world of size 1.

Numbers of the host, such as the size of the batch, are sent as tensors of the CPU, by gloo: no GPU is waited for.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from wasi import signals
from wasi.config.hardware import launched

T = TypeVar("T")

_TIMEOUT = timedelta(hours=1)  # long, as the others wait while the first process measures or decodes a data set


def join() -> None:
    """Initialise the process group, if `torchrun` started several processes and it is not initialised yet."""
    if launched().world_size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=_TIMEOUT)


def leave() -> None:
    """Destroy the process group, if there is one."""
    if is_parallel():
        dist.destroy_process_group()


def broadcast_model(model: nn.Module) -> None:
    """Copy parameters and buffers of the first process's model to the models of all others."""
    if is_parallel():
        for tensor in model.state_dict().values():
            whole = tensor.contiguous()  # NCCL refuses other layouts, such as that of a factor from LAPACK
            dist.broadcast(whole, src=0)
            tensor.copy_(whole)


def rank() -> int:
    """Return this process's rank in the group; 0 if there is no group."""
    return dist.get_rank() if is_parallel() else 0


def world_size() -> int:
    """Return the number of processes in the group; 1 if there is no group."""
    return dist.get_world_size() if is_parallel() else 1


def is_parallel() -> bool:
    """Whether the process group is initialised."""
    return dist.is_available() and dist.is_initialized()


def broadcast_from_first(value: T) -> T:
    """Return the first process's `value`, which must be picklable; all processes must call this."""
    values = [value]
    if is_parallel():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait until every process has called this."""
    if is_parallel():
        dist.barrier()


def shard(batch: Tensor) -> Tensor:
    """Return this process's share of `batch` along the first axis; it may be empty in a batch of few samples."""
    return batch.tensor_split(world_size())[rank()] if is_parallel() else batch


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum `values` over the processes, in place, and return them."""
    if is_parallel():
        dist.all_reduce(values)
    return values


def total(count: int) -> int:
    """Return the sum of `count` over the processes."""
    return int(all_reduce_sum(torch.tensor(count))) if is_parallel() else count


def largest(count: int) -> int:
    """Return the maximum of `count` over the processes."""
    most = torch.tensor(count)
    if is_parallel():
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most)


def zero_gradients_except_first(parameters: Iterable[Tensor]) -> list[int | None]:
    """Zero existing gradients in all processes but the first, before a backward pass.

    A gradient may hold a momentum to which the new gradient is added; so `sum_gradients` counts it only once.

    Returns:
        The version of each gradient, which autograd raises when it adds to it; None where there is none yet.
    """
    if rank():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()
    return [_version(parameter.grad) for parameter in parameters]


def sum_gradients(parameters: Sequence[Tensor], versions: Sequence[int | None]) -> list[Tensor]:
    """Replace every gradient by its sum over the processes; a gradient that no process has remains None.

    All gradients of one type are sent in one message, which is faster than many small ones.

    Args:
        versions: of the gradients before the backward passes, from `zero_gradients_except_first`.

    Returns:
        The parameters with a gradient to which no process has added anything.
    """
    if not parameters:
        return []
    has = [p.grad is not None for p in parameters]
    has_new = [_version(p.grad) != before for p, before in zip(parameters, versions, strict=True)]
    counts = all_reduce_sum(torch.tensor([has, has_new], dtype=torch.int64)).tolist()
    some = [(p, before) for p, before, processes in zip(parameters, versions, counts[0], strict=True) if processes]
    chosen = [parameter for parameter, _ in some]
    for parameter, before in some:
        if before is None:
            _align_gradient(parameter)
    for dtype in dict.fromkeys(p.dtype for p in chosen):
        gradients = [p.grad for p in chosen if p.grad is not None and p.dtype == dtype]
        together = all_reduce_sum(torch.cat([g.flatten() for g in gradients]))
        parts = together.split([g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])
    return [p for p, processes, with_new in zip(parameters, *counts, strict=True) if processes and not with_new]


def _align_gradient(parameter: Tensor) -> None:
    """Give the gradient the strides of its parameter; one that is missing becomes zeros.

    Those that autograd gives it depend on what this process has computed, and the rounding of the step depends on them.
    """
    gradient = parameter.grad
    aligned = torch.empty_like(parameter, device="meta").stride()  # dense, also for coordinates, whose strides are 0
    if gradient is None:
        parameter.grad = torch.zeros_like(parameter)
    elif gradient.stride() != aligned:
        parameter.grad = torch.empty_like(parameter).copy_(gradient)


def _version(gradient: Tensor | None) -> int | None:
    return None if gradient is None else gradient._version


def stop_together() -> bool:
    """Return whether a signal is pending in some process: the same in all, so that they stop after the same step.

    It is pending in all of them then. This is to be called inside `wasi.signals.uninterrupted`.
    """
    if not is_parallel():
        return False
    signum = largest(signals.pending() or 0)
    signals.hold(signum)
    return signum > 0
