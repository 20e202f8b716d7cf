"""Steps on CUDA without a GPU: fake tensors, which have shapes, types and devices but no values.

Under torch's `FakeTensorMode` an operation on a tensor of `cuda` and one of the CPU is an error, as on a GPU, and so is
whatever needs a value: the host would wait for the GPU there. Autocast is CUDA's, with its own lists of operators, that
the emulated accelerator of `emulated.py` lacks. torch's autograd engine needs a driver, so `backward` stands in for it.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

READ = [1.0, 2.0, 3.0]  # in place of loss, correct predictions and norm


@contextmanager
def fake_cuda() -> Iterator[FakeTensorMode]:
    """Inside, tensors are fake, `cuda` has autocast, and backward passes run here."""
    mode = FakeTensorMode()
    with (
        patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        patch("torch.cuda.is_bf16_supported", lambda *_, **__: True),
        patch.object(torch.Tensor, "backward", backward),
        patch.object(FakeTensor, "tolist", lambda tensor: READ),
        patch("wasi.training.chunked_checkpoint.get_device_states", lambda x: ([], [])),
        mode,
    ):
        yield mode


def on_cuda(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Replace parameters and buffers by fake ones on `cuda`; shared ones stay shared."""
    found: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None and id(tensor) not in found:
                    there = mode.from_tensor(tensor).detach().to("cuda")
                    there = nn.Parameter(there) if isinstance(tensor, nn.Parameter) else there
                    found[id(tensor)] = there.requires_grad_(tensor.requires_grad)
                own[name] = None if tensor is None else found[id(tensor)]
    return model


def backward(output: torch.Tensor, gradient: torch.Tensor | None = None) -> None:
    """Add the gradient of `output` to the `.grad` of the leaves behind it, as torch's engine does, node by node."""
    assert output.grad_fn is not None
    received: dict = defaultdict(dict)  # node -> number of its argument -> the gradient so far
    received[output.grad_fn][output.output_nr] = torch.ones_like(output) if gradient is None else gradient
    for node in _in_order(output.grad_fn):
        if not received[node]:  # nothing behind it gets a gradient
            continue
        if hasattr(node, "variable"):
            leaf, grad = node.variable, received[node][0].detach()
            leaf.grad = grad if leaf.grad is None else leaf.grad + grad
            continue
        given = [received[node].get(number) for number in range(len(node._input_metadata))]
        for (following, number), grad in _edges(node, given):
            if following is not None and grad is not None:
                grad = _fitted(grad, following._input_metadata[number])
                before = received[following].get(number)
                received[following][number] = grad if before is None else before + grad


@torch.no_grad()
def _edges(node, given: list) -> Iterator[tuple]:
    """Call the node, and pair what follows it with the gradients for that.

    A custom Function returns one for each argument, but only tensors that require one have an edge that leads on.
    """
    is_custom, edges = hasattr(node, "needs_input_grad"), node.next_functions
    grads = node.apply(*given) if is_custom else node(*given)
    grads = grads if isinstance(grads, tuple) else (grads,)
    if is_custom:
        grads = [grad for grad, needed in zip(grads, node.needs_input_grad, strict=True) if needed]
        edges = [edge for edge in edges if edge[0] is not None]
    return zip(edges, grads, strict=True)


def _fitted(grad: torch.Tensor, wanted) -> torch.Tensor:
    """Sum over what was broadcast and convert the type, as the engine does; it does not move a gradient."""
    assert grad.device == wanted.device
    return grad.sum_to_size(wanted.shape).to(wanted.dtype)


def _in_order(root) -> list:
    """The nodes behind `root`, each after all that lead to it."""
    found: list = []
    seen = set()
    pending = [(root, False)]
    while pending:
        node, done = pending.pop()
        if done:
            found.append(node)
        elif node not in seen:
            seen.add(node)
            pending.append((node, True))
            pending += [(following, False) for following, _ in node.next_functions if following is not None]
    return found[::-1]
