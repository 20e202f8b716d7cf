"""A step waits for its device once, and decomposes the matrices of all layers together.

Shown without a GPU. On torch's device `meta`, which has no values to be read and cannot be mixed with a CPU's tensors,
with the forms of the decompositions that accelerators get; and that these forms train as the CPU's do.
"""

import traceback
from collections import Counter

import pytest
import torch
from omegaconf import OmegaConf
from timm.models.vision_transformer import VisionTransformer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.gpu.emulated import WAITING, without_autocast
from tests.small import CLASSES, METHODS, applied, batch, method
from wasi.layers.activation import TuckerState
from wasi.linalg import batched, orthonormal
from wasi.training import subspace_iteration, swan
from wasi.training.lean import LeanStep
from wasi.training.optimizer import build_optimizer
from wasi.training.step import TrainStep

OPTIMIZERS = {
    "sgd": {"_target_": "torch.optim.SGD", "lr": 0.1},
    "sgd with momentum": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9},
    "adamw": {"_target_": "torch.optim.AdamW", "lr": 1e-3},
    "swan": {"_target_": "wasi.training.swan.Swan", "lr": 1e-3},
    "swan with momentum": {"_target_": "wasi.training.swan.Swan", "lr": 1e-3, "momentum": 0.9},
}
READ = [1.0, 2.0, 3.0]  # in place of loss, correct predictions and norm


class Operations(TorchDispatchMode):
    """Counts operations by name, and says where one makes the host wait: decompositions that look at their success."""

    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[str(function).removeprefix("aten.")] += 1
        is_here = any(t.is_meta for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor))
        if is_here and str(function).startswith(WAITING):  # AdamW keeps its count of steps on the host
            places = [f"{f.filename}:{f.lineno}" for f in traceback.extract_stack() if "/wasi/" in f.filename]
            self.waits.append((str(function), places[-1]))
        return function(*args, **(kwargs or {}))


@pytest.fixture
def reads(monkeypatch):
    """Lengths of what is read; autocast does not know the device."""
    lengths = []
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: lengths.append(tensor.numel()) or READ)
    with without_autocast():
        yield lengths


def second_step(model, optimizer, kind=TrainStep, **options) -> Operations:
    """Operations of the second step on a batch of the model's device."""
    step = kind(model, build_optimizer(model, OmegaConf.create(OPTIMIZERS[optimizer])), lambda x: x, 2.0, **options)
    images, labels = (tensor.to("meta") for tensor in batch())
    step(images, labels)
    with Operations() as operations:
        assert step(images, labels).loss == READ[0]
    return operations


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_reads_once(method, optimizer, reads):
    operations = second_step(applied("timm_vit", method).to("meta"), optimizer, micro_batch_size=4)
    assert (reads, operations.waits) == ([3, 3], [])


@pytest.mark.parametrize("optimizer", ["adamw", "swan"])
@pytest.mark.parametrize("method", METHODS)
def test_a_lean_step_reads_once(method, optimizer, reads):
    options = {"chunk_size": 3, "segment_size": 1, "storage": torch.bfloat16}
    operations = second_step(applied("timm_vit", method).to("meta"), optimizer, LeanStep, **options)
    assert (reads, operations.waits) == ([3, 3], [])


def test_with_a_chunk_of_twice_the_size_a_lean_step_has_about_half_the_operations(reads):
    counts = []
    for size in (1, 2):
        options = {"chunk_size": size, "segment_size": 1, "storage": torch.bfloat16}
        operations = second_step(applied("timm_vit", "vanilla").to("meta"), "sgd", LeanStep, **options)
        counts.append(sum(operations.counts.values()))
    assert 0.5 < counts[1] / counts[0] < 0.6


@pytest.mark.parametrize("optimizer", ["sgd", "swan"])
def test_deeper_models_have_no_more_decompositions(optimizer, reads):
    found = []
    for depth in (2, 5):
        torch.manual_seed(0)
        model = VisionTransformer(16, 4, embed_dim=32, depth=depth, num_heads=2, num_classes=CLASSES)
        counts = second_step(method("wsi").apply(model, [batch()]).to("meta"), optimizer).counts
        found.append({name: count for name, count in counts.items() if "cholesky_ex" in name})
    assert found[0] == found[1] and sum(found[0].values()) < 10


@pytest.mark.parametrize("optimizer", ["sgd", "swan", "swan with momentum"])
@pytest.mark.parametrize(
    ("method", "options"), [("wasi", {"preconditioner": "step"}), ("wasi", {"preconditioner": "basis"}), ("wsi", {})]
)
def test_training_is_the_same_with_and_without_reading(method, options, optimizer, monkeypatch):
    losses = []
    for on_cpu in (True, False):
        monkeypatch.setattr(batched, "is_on_cpu", lambda a, on_cpu=on_cpu: on_cpu)
        model = applied("timm_vit", method, torch.float64, **options)
        for state in (module for module in model.modules() if isinstance(module, TuckerState)):
            state.update_gap = 3
        step = TrainStep(model, build_optimizer(model, OmegaConf.create(OPTIMIZERS[optimizer])), lambda x: x)
        losses.append([step(*batch(dtype=torch.float64)).loss for _ in range(4)])
    # Swan: noise in a gradient is damped a little differently
    assert losses[0] == pytest.approx(losses[1], rel=1e-9 if optimizer == "sgd" else 1e-7)


def test_dependent_columns_leave_the_basis_where_it_was(monkeypatch):
    monkeypatch.setattr(batched, "is_on_cpu", lambda a: False)
    start = torch.linalg.qr(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)))[0]
    tall = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(orthonormal.independent_columns(tall[:, [0, 1, 1]], otherwise=start), start)
    moved = orthonormal.independent_columns(tall, otherwise=start)
    assert torch.allclose(moved.mT @ moved, torch.eye(3), atol=1e-5)


@pytest.mark.parametrize(
    ("method", "optimizer", "in_backward", "expected"),
    [
        ("wasi", "swan", False, ["advance", "fold_layers_", "polar_factors", "retract_layers_"]),
        ("wasi", "swan", True, ["advance", "fold_layers_", "polar_factors", "retract_layers_"]),
        ("wsi", "sgd", False, ["retract_layers_", "project_gradients_"]),
    ],
)
def test_subspace_work_is_not_in_tf32(method, optimizer, in_backward, expected, monkeypatch):
    matmul, seen = torch.backends.cuda.matmul, set()

    def noting(function):
        def noted(arguments, *others):
            if arguments:
                seen.add((function.__name__, matmul.allow_tf32))
            return function(arguments, *others)

        return noted

    monkeypatch.setattr(swan, "polar_factors", noting(swan.polar_factors))
    for name in ("advance", "fold_layers_", "retract_layers_", "project_gradients_"):
        monkeypatch.setattr(subspace_iteration, name, noting(getattr(subspace_iteration, name)))
    model = applied("timm_vit", method)
    found = build_optimizer(model, OmegaConf.create(OPTIMIZERS[optimizer]))
    step = TrainStep(model, found, lambda images: images, step_in_backward=in_backward)
    matmul.allow_tf32 = True
    try:
        step(*batch())
        assert matmul.allow_tf32
    finally:
        matmul.allow_tf32 = False
    assert seen == {(name, False) for name in expected}
