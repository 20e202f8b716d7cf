"""Where a step's time is booked, on small models whose parts are made slow on purpose."""

from itertools import count
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch.optim import sgd

from tests.small import METHODS, applied, batch, has_own_layers
from tests.small import method as make
from wasi.bench import step_parts as parts
from wasi.bench.step_parts import PARTS, StepBreakdown, breakdown_steps, targets
from wasi.bench.work import Work
from wasi.layers.base import LowRankLayer
from wasi.linalg import subspace, tucker
from wasi.measure import breakdown
from wasi.measure.run import tracks_subspaces
from wasi.training.optimizer import build_optimizer
from wasi.training.step import TrainStep

MS = 1_000_000


def step_of(model):
    optimizer = build_optimizer(model, OmegaConf.create({"_target_": "torch.optim.SGD", "lr": 0.01}))
    return TrainStep(model, optimizer, normalize=None, clip_norm=1.0)


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self, monkeypatch):
        self.now, self._patch = 0, monkeypatch
        monkeypatch.setattr(breakdown, "time", SimpleNamespace(perf_counter_ns=lambda: self.now))

    def slow(self, owner, name, ms=1, backward=0):
        """Calls of `owner.name` take `ms`, and their backward passes `backward`."""
        original = getattr(owner, name)

        def call(*args, **kwargs):
            self.now += ms * MS
            result = original(*args, **kwargs)
            return SlowBackward.apply(result, self, backward) if backward else result

        self._patch.setattr(owner, name, call)


class SlowBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, clock, ms):
        ctx.clock, ctx.ms = clock, ms
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.clock.now += ctx.ms * MS
        return grad, None, None


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.mark.parametrize(
    ("model", "method"),
    [("swin", "wasi"), *(("timm_vit", name) for name in METHODS)],
)
def test_parts_of_every_method(model, method):
    step = step_of(applied(model, method))
    (found,) = breakdown_steps(step, batch(), 1, make(method).step_parts())
    assert tuple(found) == PARTS and all(ms >= 0 for ms in found.values())
    replaced = any(isinstance(m, LowRankLayer) for m in applied(model, method).modules())
    assert (found["factor_algebra"] > 0) == replaced or has_own_layers(step.model)
    assert (found["decomposition"] > 0) == tracks_subspaces(step)
    assert found["attention"] > 0 and found["optimizer"] > 0 and found["rest"] > 0


@pytest.mark.parametrize(
    ("owner", "name", "part", "calls"),
    [
        (tucker, "compress", "decomposition", 8),
        (subspace, "fold_", "decomposition", 8),
        (tucker, "weight_coordinates", "factor_algebra", 8),
        (sgd, "sgd", "optimizer", 3),  # what `step` calls for each of its groups
        (torch.nn.utils, "clip_grads_with_norm_", "optimizer", 1),
        (F, "scaled_dot_product_attention", "attention", 2),
        (F, "gelu", "rest", 2),
    ],
)
def test_what_takes_time_is_booked_where_it_belongs(clock, owner, name, part, calls):
    step = step_of(applied("timm_vit", "wasi"))
    clock.slow(owner, name)
    (found,) = breakdown_steps(step, batch(), 1)
    assert found == {**dict.fromkeys(PARTS, 0.0), part: calls}


@pytest.mark.parametrize("model", ["torchvision_vit", "timm_vit"])
def test_backward_passes_of_attention_are_attentions(clock, model):
    clock.slow(F, "scaled_dot_product_attention", 1, backward=10)
    (found,) = breakdown_steps(step_of(applied(model, "vanilla")), batch(), 1)
    assert found == {**dict.fromkeys(PARTS, 0.0), "attention": 22}


def test_attention_that_is_one_function(clock):
    clock.slow(F, "softmax", 1, backward=10)
    (found,) = breakdown_steps(step_of(applied("swin", "vanilla")), batch(), 1)
    assert found == {**dict.fromkeys(PARTS, 0.0), "attention": 44}  # four blocks


@pytest.mark.parametrize("model", ["torchvision_vit", "swin"])
def test_projections_are_no_part_of_attention(clock, model):
    clock.slow(F, "linear", 1, backward=10)
    (found,) = breakdown_steps(step_of(applied(model, "vanilla")), batch(), 1)
    assert found["attention"] == 0 and found["rest"] == sum(found.values()) > 11 * 4


def test_the_step_is_the_same_with_and_without():
    plain, watched = (step_of(applied("swin", "wasi")) for _ in range(2))
    losses = [plain(*batch()).loss for _ in range(3)]
    seen = []
    for _ in range(3):
        with StepBreakdown(targets(watched)):
            seen.append(watched(*batch()).loss)
    assert seen == losses
    assert "step" not in vars(watched.optimizer) and not hasattr(F.scaled_dot_product_attention, "__wrapped__")


def test_parts_sum_to_the_step():
    step = step_of(applied("timm_vit", "wasi"))
    step(*batch())
    clock = count()  # one further at every look, so that nothing may be lost or told twice
    with StepBreakdown(targets(step), read=lambda: next(clock)) as watched:
        step(*batch())
        step(*batch())
    looks = next(clock)
    spent = watched.spent
    assert spent.pop(parts._DENSE) == 0
    assert sum(spent.values()) == looks - 1 > 100 and all(spent[part] > 0 for part in PARTS)


@pytest.mark.parametrize("milliseconds, untimed", [(400.0, 1), (600.0, 0)])
def test_a_long_step_is_looked_into_without_another_before_it(milliseconds, untimed, monkeypatch):
    steps, work = [], Work()
    monkeypatch.setattr(TrainStep, "__call__", lambda step, *_: steps.append(step))
    monkeypatch.setattr("wasi.bench.work.time_steps", lambda *_: [milliseconds])
    work._cfg = OmegaConf.create({"device": {"compile": False}})
    work.subject = SimpleNamespace(
        step=step_of(applied("timm_vit", "wasi")), batch=batch(), method=make("wasi"), device=torch.device("cpu")
    )
    work.time_train(warmup=0, min_count=1, min_seconds=0.0)
    assert len(work.breakdown(3)) == 3 and len(steps) == 3 + untimed


@pytest.mark.parametrize("milliseconds, untimed", [(400.0, 1), (600.0, 0)])
def test_steps_that_showed_the_memory_are_warm_up_enough_where_they_are_long(milliseconds, untimed, monkeypatch):
    warmups = []

    def times(run, warmup, *_):
        warmups.append(warmup)
        return [milliseconds]

    monkeypatch.setattr("wasi.bench.work.time_steps", times)
    monkeypatch.setattr(Work, "_build", lambda work: None)
    work = Work()
    work.subject = SimpleNamespace(
        step=lambda *_: None, batch=(), device=torch.device("cpu"), free_data=lambda: None
    )
    work.rss_peak(steps=2)
    for asked in (0, 2):
        work.time_train(warmup=asked, min_count=1, min_seconds=0.0)
    assert warmups == [0, untimed, 2]


@pytest.mark.parametrize("device, warmup", [("cpu", 0), ("cuda", 1)])
def test_a_gpus_memory_that_was_given_back_is_allocated_before_a_step_is_timed(device, warmup, monkeypatch):
    warmups, work = [], Work()
    monkeypatch.setattr("wasi.bench.work.time_steps", lambda run, warmup, *_: warmups.append(warmup) or [600.0])
    work.subject = SimpleNamespace(step=None, batch=(), device=torch.device(device))
    for _ in range(2):
        work.time_train(warmup=0, min_count=1, min_seconds=0.0)
    work.release()
    work.time_train(warmup=0, min_count=1, min_seconds=0.0)
    assert warmups == [1, 0, warmup]
