"""Data-parallel training: one process per device, each with its share of every batch (`torchrun`).

Every process holds the whole model. What a step needs of the batch is a sum over images: gradients of parameters and of
coordinates, the products that move activation bases, the loss. Each process adds up its own share, the sums are
added over the processes, and from there on all of them do the same with the same numbers. So a step is, to rounding,
that of one process with the whole batch.
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

_TIMEOUT = timedelta(hours=1)  # the first process may measure or decode for long while the others wait


def join() -> None:
    """Meet the other processes; nothing to do where there are none."""
    if launched().world_size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=_TIMEOUT)


def leave() -> None:
    """The opposite of `join`."""
    if is_parallel():
        dist.destroy_process_group()


def broadcast_model(model: nn.Module) -> None:
    """Every process's model becomes the first one's."""
    if is_parallel():
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


def rank() -> int:
    return dist.get_rank() if is_parallel() else 0


def world_size() -> int:
    """Processes that have met; 1 without any other."""
    return dist.get_world_size() if is_parallel() else 1


def is_parallel() -> bool:
    return dist.is_available() and dist.is_initialized()


def broadcast_from_first(value: T) -> T:
    """What the first process gave; every process calls this at the same place."""
    values = [value]
    if is_parallel():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait until every process has come here."""
    if is_parallel():
        dist.barrier()


def shard(batch: Tensor) -> Tensor:
    """This process's part of a batch, by its first axis; empty where there are more processes than samples."""
    return batch.tensor_split(world_size())[rank()] if is_parallel() else batch


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sums over the processes, in place."""
    if is_parallel():
        dist.all_reduce(values)
    return values


def total(count: int, device: torch.device) -> int:
    """A number's sum over the processes."""
    return int(all_reduce_sum(torch.tensor(count, device=device))) if is_parallel() else count


def largest(count: int, device: torch.device) -> int:
    """A number's maximum over the processes."""
    most = torch.tensor(count, device=device)
    if is_parallel():
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most)


def keep_sums_once(parameters: Iterable[Tensor]) -> None:
    """Before a backward pass: what its gradients are added to, as a momentum, counts in the first process only."""
    if rank():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Every gradient becomes its sum over the processes; one that no process has stays away.

    In one message for each type: many small ones would take longer.
    """
    if not parameters:
        return
    has = all_reduce_sum(torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device))
    chosen = [p for p, processes in zip(parameters, has.tolist(), strict=True) if processes]
    for parameter in chosen:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
    for dtype in dict.fromkeys(p.dtype for p in chosen):
        gradients = [p.grad for p in chosen if p.grad is not None and p.dtype == dtype]
        together = all_reduce_sum(torch.cat([g.flatten() for g in gradients]))
        for gradient, part in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def stop_together(device: torch.device) -> None:
    """A signal that one process has seen stops all of them after the same step."""
    if is_parallel():
        signals.hold(largest(signals.pending() or 0, device))
