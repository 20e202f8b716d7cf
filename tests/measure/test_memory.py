"""The live-tensor peak against nets whose peak is worked out by hand, to the byte. All sizes in bytes."""

import _thread
import gc
import inspect
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from wasi.layers.activation import TuckerState
from wasi.layers.factored import FactoredLinear
from wasi.measure.memory import LiveMemory, MemoryPeak, inference_peak, train_peak
from wasi.measure.rss import MIB
from wasi.measure.storages import StorageLog
from wasi.training.optimizer import coordinate_groups
from wasi.training.step import TrainStep

# The loss, which the step holds, and the 1.0 from which its backward pass starts.
LOSS_AND_SEED = 4 + 4


def size(*shape: int) -> int:
    n = 4
    for s in shape:
        n *= s
    return n


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 512), nn.ReLU(), nn.Linear(512, 10)
    )


W1, W2, W3 = size(513, 2048), size(2049, 512), size(513, 10)


def batch(n: int, features: int = 512) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, features), torch.randint(0, 4, (n,))


def make_step(net: nn.Module, optimizer: torch.optim.Optimizer):
    def step(x, y):
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()

    return step


def measure(net: nn.Module, optimizer: torch.optim.Optimizer, n: int, features: int = 512, steps: int = 2):
    x, y = batch(n, features)
    return train_peak(net, optimizer, make_step(net, optimizer), x, y, steps), x.nbytes + y.nbytes


def test_mlp_with_sgd():
    """The peak is in the backward pass of the first ReLU: its result, its gradient and what it makes of it."""
    net, n = mlp(), 4096
    peak, data = measure(net, torch.optim.SGD(net.parameters(), lr=0.1), n)
    hidden = size(n, 2048)
    assert peak == MemoryPeak(
        weights=W1 + W2 + W3,
        gradients=W2 + W3,
        optimizer=0,
        activations=data + hidden + LOSS_AND_SEED,
        temporary=2 * hidden,
    )
    assert peak.total / MIB == pytest.approx(116.082, abs=5e-4)
    metrics = peak.train_metrics()
    total = metrics.pop("memory/train_peak_mib")
    assert sum(metrics.values()) == pytest.approx(total, rel=1e-12) and len(metrics) == 5


def test_frozen_first_layer():
    """Nothing goes back through the first layer: the peak is its forward ReLU, whose result is saved later."""
    net, n = mlp(), 4096
    net[0].requires_grad_(False)
    peak, data = measure(net, torch.optim.SGD(net[2:].parameters(), lr=0.1), n)
    hidden = size(n, 2048)
    # The second step begins with the first one's loss freed.
    assert peak == MemoryPeak(W1 + W2 + W3, 0, 0, data + hidden, hidden)


@pytest.mark.parametrize("foreach", [False, True])
def test_adamw_state_made_in_the_first_step(foreach):
    """With two samples the peak is in the second step of AdamW, over gradients and all of its state."""
    net = mlp()
    peak, data = measure(net, torch.optim.AdamW(net.parameters(), foreach=foreach), 2)
    weights = W1 + W2 + W3
    # Square root and quotient of one weight at a time, over what is left of the bias before it; or the
    # square roots of all weights at once.
    temporary = weights if foreach else 2 * size(512, 2048) + size(2048)
    assert peak == MemoryPeak(weights, weights, 2 * weights + 6 * 4, data + LOSS_AND_SEED - 4, temporary)


def test_momentum_is_there_at_the_peak_of_the_second_step():
    net, n = mlp(), 512
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    first, _ = measure(net, optimizer, n, steps=1)
    second, data = measure(net, optimizer, n, steps=1)
    hidden, weights = size(n, 2048), W1 + W2 + W3
    # The first step makes the buffers after its activations have gone, so it peaks lower.
    assert second.total > first.total
    assert second == MemoryPeak(weights, W2 + W3, weights, data + hidden + LOSS_AND_SEED, 2 * hidden)


class Twice(nn.Module):
    """Two products with one weight, held by one layer that is called twice or as a bare matrix."""

    def __init__(self, linear: bool):
        super().__init__()
        self.linear = nn.Linear(256, 256, bias=False) if linear else None
        self.second = nn.Linear(256, 256, bias=False) if linear else None
        self.matrix = None if linear else nn.Parameter(torch.randn(256, 256))
        if linear:
            self.second.weight = self.linear.weight

    def forward(self, x):
        return self.second(self.linear(x)) if self.linear else x @ self.matrix @ self.matrix


@pytest.mark.parametrize("linear", [True, False])
def test_tied_weights_count_once(linear):
    """The shared weight gets two gradients. Autograd adds them in place unless both are views, as a linear's."""
    net = Twice(linear)
    x, y = batch(2, 256)
    peak = train_peak(net, None, lambda x, y: net(x).sum().backward(), x, y, steps=1)
    weight, hidden = size(256, 256), size(2, 256)
    assert peak.weights == weight and peak.gradients == weight
    assert peak.activations == x.nbytes + y.nbytes + LOSS_AND_SEED  # the hidden input is used up by then
    assert peak.temporary == (2 * weight if linear else weight + hidden)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))
        self.norm = nn.LayerNorm(64)

    def forward(self, x):
        for a, b in zip(self.layers[::2], self.layers[1::2], strict=True):
            x = x + b(F.gelu(a(self.norm(x))))
        return x


@pytest.mark.parametrize("make", [Residual, lambda: Twice(True), lambda: Twice(False)])
def test_total_is_the_allocators(make):
    """Cumulated allocations and frees as the profiler records them, without any dispatch mode around."""
    net = make()
    features = next(net.parameters()).shape[-1]
    x, y = batch(256 if features == 64 else 2, features)
    step = make_step(net, torch.optim.SGD(net.parameters(), lr=0.01))
    step(x, y)
    peak = train_peak(net, None, step, x, y, steps=1)
    for p in net.parameters():
        p.grad = None
    gc.collect()  # what earlier tests left would be freed within the profile, at a time that depends on all allocations
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step(x, y)
    total = highest = sum(p.nbytes for p in net.parameters()) + x.nbytes + y.nbytes
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            highest = max(highest, total)
    assert peak.total == highest


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 64))
        self.first, self.head = nn.Linear(16, 64), nn.Linear(64, 4)

    def forward(self, x):
        return self.head(checkpoint(self.inner, self.first(x), use_reentrant=False))


def test_checkpointed_block():
    """Kept between forward and backward: the block's input and output. Its hidden layer comes back in backward."""
    net, n = Checkpointed(), 256
    peak, data = measure(net, torch.optim.SGD(net.parameters(), lr=0.1), n, features=16)
    hidden, outer = size(n, 1024), size(n, 64)
    assert peak.weights == sum(p.nbytes for p in net.parameters())
    # As in the MLP: the ReLU's recomputed result, its gradient and what it makes of it.
    assert peak.temporary == 2 * hidden
    assert peak.activations == data + outer + hidden + LOSS_AND_SEED
    assert peak.gradients == size(1025, 64) + size(65, 4)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, keep_hidden):
        if keep_hidden:
            ctx.mine = x + 0  # not through save_for_backward, and a storage of its own
        else:
            ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        x = ctx.mine if hasattr(ctx, "mine") else ctx.saved_tensors[0]
        return 2 * x * grad, None


@pytest.mark.parametrize("keep_hidden", [False, True])
def test_custom_function(keep_hidden):
    """Peak in its backward: the saved input, the gradient, `2 * x` and the product."""
    net = nn.Linear(8, 512)
    x, y = batch(64, 8)
    peak = train_peak(net, None, lambda x, y: Square.apply(net(x), keep_hidden).sum().backward(), x, y, steps=1)
    wide = size(64, 512)
    assert peak.activations == x.nbytes + y.nbytes + wide + LOSS_AND_SEED
    # The gradient of a sum is one expanded number.
    assert peak.temporary == 2 * wide
    assert peak.gradients == 0


class SumInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return (grad * 2) + (grad * 3)


def test_a_sum_in_python_takes_room_of_its_own():
    """Unlike the engine's own sums of gradients, it is not made in place."""
    net = nn.Linear(8, 512)
    x, y = batch(64, 8)
    peak = train_peak(net, None, lambda x, y: SumInBackward.apply(net(x)).sum().backward(), x, y, steps=1)
    assert peak.temporary == 3 * size(64, 512)


@pytest.mark.parametrize("unwrapped", [lambda method: method, inspect.unwrap])  # older releases of torch do not wrap it
def test_a_sum_in_a_thread_without_python_code_is_the_engines(unwrapped, monkeypatch):
    """The backward pass on a GPU runs in such a thread of the engine's own."""
    monkeypatch.setattr(torch._C, "_current_graph_task_id", lambda: 1)
    log, begun = StorageLog("cpu", lambda: None), threading.Event()
    monkeypatch.setattr(log, "_begin_sum", lambda operands, result: begun.set())
    dispatch, operands = unwrapped(StorageLog.__torch_dispatch__), (torch.ones(2), torch.ones(2))
    _thread.start_new_thread(dispatch, (log, torch.ops.aten.add.Tensor, (), operands))
    assert begun.wait(60)


def test_gradient_that_a_hook_drops_at_once_is_a_gradient():
    net = nn.Linear(512, 512, bias=False)

    def apply_and_drop(p):
        p.data.add_(p.grad, alpha=-0.1)
        p.grad = None

    net.weight.register_post_accumulate_grad_hook(apply_and_drop)
    x, y = batch(2)
    peak = train_peak(net, None, lambda x, y: net(x).sum().backward(), x, y, steps=1)
    assert peak.gradients == peak.weights == size(512, 512)
    assert peak.temporary == 0


class Handover(torch.autograd.Function):
    """Gives its weight no gradient."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(weight)
        return x @ weight

    @staticmethod
    def backward(ctx, grad):
        return grad @ ctx.saved_tensors[0].mT, None


def test_parameter_whose_function_returns_no_gradient():
    net = nn.Linear(64, 64, bias=False)
    x, y = batch(2, 64)
    x.requires_grad_()
    peak = train_peak(net, None, lambda x, y: Handover.apply(x, net.weight).sum().backward(), x, y)
    assert (peak.weights, peak.gradients) == (size(64, 64), 0)


def test_accumulation_adds_a_temporary_gradient():
    net = nn.Linear(512, 512, bias=False)
    x, y = batch(4)

    def step(x, y):
        for part in x.split(2):
            net(part).sum().backward()

    peak = train_peak(net, None, step, x, y, steps=1)
    weight = size(512, 512)
    assert (peak.weights, peak.gradients, peak.temporary) == (weight, weight, weight)
    # The parts are views of the batch.
    assert peak.activations == x.nbytes + y.nbytes + LOSS_AND_SEED


def test_views_in_place_and_resized_storages():
    holder = nn.Linear(1, 1, bias=False)
    x = torch.zeros(1000)

    def step(x, y):
        a = x + 1  # 4000
        b = a.view(10, 100).mul_(2).t()  # the same storage
        c = torch.empty(500)  # 2000
        a.untyped_storage().resize_(0)
        c.resize_(1750)  # 7000
        del a, b, c
        return torch.empty(1)

    peak = train_peak(holder, None, step, x, x, steps=1)
    assert (peak.weights, peak.activations, peak.temporary) == (4, x.nbytes, 7000)


def test_buffer_replaced_inside_is_a_weight():
    net = nn.Linear(4, 4, bias=False)
    net.register_buffer("state", torch.zeros(1000))

    def step(x, y):
        net(x).sum().backward()
        net.state = net.state + 1

    x, y = batch(2, 4)
    peak = train_peak(net, None, step, x, y, steps=1)
    assert peak.weights == size(4, 4) + 2 * 4000 and peak.temporary == 0


def test_batch_in_every_form_it_is_held():
    """The raw batch and the normalised one, which a frozen net does not save."""
    net = nn.Sequential(nn.Linear(512, 4), nn.Linear(4, 4))
    net[0].requires_grad_(False)
    raw, y = torch.zeros(64, 512, dtype=torch.uint8), torch.zeros(64, dtype=torch.int64)

    def step(raw, y):
        x = raw.float()
        net(x).sum().backward()

    peak = train_peak(net, None, step, raw, y, steps=1)
    assert peak.activations == raw.nbytes + y.nbytes + size(64, 512) + size(64, 4) + 4  # and the loss
    assert peak.temporary == size(64, 4)


def test_wasi_layer():
    """Weight rank 8, feature rank 4: the gradient is `M`, 4 wide; the coordinates hold no memory between steps."""
    x, y = batch(64, 512)
    layer = FactoredLinear(
        nn.Parameter(torch.linalg.qr(torch.randn(512, 8))[0]),
        nn.Parameter(torch.randn(8, 512)),
        None,
        TuckerState(torch.randn(64, 512), (64, 4)),
    )
    optimizer = torch.optim.SGD(coordinate_groups(layer), lr=1e-3)
    step = TrainStep(layer, optimizer, lambda x: x)
    peak = train_peak(layer, optimizer, step, x, y)
    # `L`, `R`, the feature basis and its age
    assert peak.weights == size(512, 8) + size(8, 512) + size(512, 4) + 8
    assert peak.optimizer == 0
    with LiveMemory(layer, optimizer, (x, y)) as memory:
        layer(x).sum().backward()
        held = memory._log.alive.values()
        # `M`, and what moves the basis on
        assert sum(block.nbytes for block in held if block.part == "gradients") == size(512, 4)


def test_inference_holds_no_gradient_and_restores_the_mode():
    net, n = mlp(), 1024
    x, y = batch(n)
    F.cross_entropy(net(x), y).backward()
    net[1].eval()
    peak = inference_peak(net, x)
    assert peak == MemoryPeak(W1 + W2 + W3, 0, 0, x.nbytes, 2 * size(n, 2048))
    assert net.training and not net[1].training


@pytest.mark.parametrize("peak", [10_000, 0])
def test_a_gpus_peak_without_what_the_step_does_not_use(peak, monkeypatch):
    """The emulated allocator holds 5000 bytes of something else, and at its peak 10000 bytes more than at the start."""
    net, (x, _), used = nn.Linear(512, 512), batch(2), torch.ones(100)
    held = size(513, 512) + x.nbytes + used.nbytes
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held + 5000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: held + 5000 + peak)
    memory = LiveMemory(net, inputs=x)
    memory._device = torch.device("cuda")
    with torch.no_grad(), memory:
        net(x), used * 2
    activations = x.nbytes + used.nbytes
    known = size(2, 512) + used.nbytes  # also where the allocator's statistics are reset meanwhile
    assert memory.peak == MemoryPeak(size(513, 512), 0, 0, activations, max(peak, known))


def test_training_is_not_changed_and_everything_is_put_back():
    hooks, resize = torch.autograd.graph.saved_tensors_hooks.__enter__, torch.UntypedStorage.resize_
    results = []
    for tracked in (False, True):
        torch.manual_seed(0)
        net = Checkpointed()
        step = make_step(net, torch.optim.SGD(net.parameters(), lr=0.1))
        x, y = batch(8, 16)
        if tracked:
            with LiveMemory(net, None, (x, y)):
                step(x, y)
        else:
            step(x, y)
        results.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert torch.autograd.graph.saved_tensors_hooks.__enter__ is hooks
    assert torch.UntypedStorage.resize_ is resize
    assert not any(p._post_accumulate_grad_hooks for p in net.parameters())


def test_an_exception_inside_leaves_nothing_behind():
    net = nn.Linear(4, 4)
    with pytest.raises(RuntimeError, match="stop"), LiveMemory(net):
        raise RuntimeError("stop")
    assert not net._forward_pre_hooks and torch._C._len_torch_dispatch_stack() == 0
