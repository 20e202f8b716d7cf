"""The cost metrics of a finished run, measured with this package's other modules."""

from collections.abc import Sequence
from math import prod

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from wasi.allocator import keep_freed_memory
from wasi.layers.quantized import QuantizedWeight
from wasi.linalg import tucker
from wasi.measure.accounting import paper_accounting
from wasi.measure.breakdown import Breakdown, Target
from wasi.measure.flops import inference_flops, step_flops
from wasi.measure.memory import inference_peak, train_peak
from wasi.measure.rss import MIB
from wasi.measure.stored_inputs import StoredInputs
from wasi.measure.timing import summary, synchronizer, time_steps
from wasi.methods.method import Method
from wasi.training.compile import run_until_compiled, uncompiled
from wasi.training.step import TrainStep
from wasi.training.subspace_iteration import SubspaceIteration

_WARMUP = 3  # first steps of a training, whose times are not used
SUBSPACE_WORK: list[Target] = [
    (tucker, "compress"),
    (SubspaceIteration, "tangents"),
    (SubspaceIteration, "finish"),
    (SubspaceIteration, "fold"),  # also called in the backward pass, under `train.step_in_backward`
]


def subspace_work(step: TrainStep) -> list[Target]:
    """Return `SUBSPACE_WORK` and what the optimizer declares as `subspace_work`: whitening, projections of moments."""
    return [*SUBSPACE_WORK, *getattr(step.optimizer, "subspace_work", ())]


def tracks_subspaces(step: TrainStep) -> bool:
    """Return whether steps of this model and optimizer do any subspace work."""
    work = step.subspace
    compresses = any(layer.state is not None for layer in work.layers)
    updates = work.coordinate_layers or work.tangent or work.truncating
    return bool(compresses or updates) or hasattr(step.optimizer, "subspace_work")


def measure_run(
    cfg: DictConfig, method: Method, step: TrainStep, batch: tuple[Tensor, Tensor], step_seconds: Sequence[float]
) -> dict[str, float]:
    """Return the metrics `memory/*`, `flops/*`, `time/*` and `model/*` of result.json, except the process's RSS.

    This trains `step.model` by a few more steps, so the run's weights must have been saved before.

    Args:
        method: the one that was applied; it defines how the model is deployed.
        batch: a whole training batch as the loader gives it (uint8 images, labels).
        step_seconds: durations of the training's own whole steps; empty if `step` has not run yet.
    """
    images, labels = step.prepare(*batch)
    normalised = step.normalize(batch[0].to(step.device))
    if not step_seconds:  # a trained run that is measured later: a first step does more, as projecting anew (GaLore)
        step(images, labels)
    metrics = {
        **counts(method, step, cfg.method.scope, (images, labels), normalised),
        **times(step, images, labels, step_seconds, cfg.device.compile),
        **train_peak(step.model, step.optimizer, step, images, labels).train_metrics(),
    }
    with method.deployed(step.model):
        metrics["time/inference_ms_p50"] = summary(inference_ms(step, normalised))["p50"]
        metrics["memory/inference_peak_mib"] = inference_peak(step.model, normalised).total / MIB
    return metrics


@uncompiled()
def counts(
    method: Method, step: TrainStep, scope: str, batch: tuple[Tensor, Tensor], normalised: Tensor
) -> dict[str, float]:
    """Return the metrics that are counted, not timed: parameters, stored inputs, the paper's accounting, FLOPs.

    Those of inference are of the deployed model (`Method.deployed`). This trains `step.model` by one more step.

    Args:
        scope: of the paper's accounting and of stored inputs.
        batch: images and labels as the step takes them.
        normalised: the same images as the model takes them.
    """
    stored = StoredInputs(step.model, scope)  # observes the same step whose FLOPs are counted
    found = {
        **count_parameters(step.model),
        **paper_accounting(step.model, scope, normalised, len(normalised)),
        **step_flops(step, *batch, normalised, subspace_work(step), stored),
    }
    found["memory/stored_inputs_mib"] = stored.mib
    with method.deployed(step.model):
        inference = paper_accounting(step.model, scope, normalised, len(normalised))
        found["memory/paper_inference_mib"] = inference["memory/paper_inference_mib"]
        found["flops/inference"] = inference_flops(step.model, normalised)
    return found


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return `model/parameters`, with shared ones counted once, and `model/trainable_parameters`.

    A quantised weight, whose codes are buffers, counts as many parameters as the weight that it represents.
    """
    parameters = list(model.parameters())
    quantised = sum(prod(module.shape) for module in model.modules() if isinstance(module, QuantizedWeight))
    return {
        "model/parameters": sum(p.numel() for p in parameters) + quantised,
        "model/trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }


def times(
    step: TrainStep, images: Tensor, labels: Tensor, step_seconds: Sequence[float], compiled: bool = False
) -> dict[str, float]:
    """Return `time/train_step_ms_p50`, `_p90` and, if there is subspace work, `time/subspace_ms_p50`.

    Step times are those of the training's own steps after the first `_WARMUP`, if there are at least five; else of
    further steps, which train the model. Subspace work is timed in further steps, but not of a `compiled` model.
    """
    samples = [1000 * s for s in step_seconds[_WARMUP:]]
    if len(samples) < 5:
        if compiled:
            run_until_compiled(lambda: step(images, labels), step.subspace.cycle)
        samples = time_steps(lambda: step(images, labels), 1, 5, 0.0, synchronizer(step.device.type))
    train = summary(samples)
    metrics = {
        "time/train_step_ms_p50": train["p50"],
        "time/train_step_ms_p90": train["p90"],
    }
    if tracks_subspaces(step) and not compiled:
        metrics["time/subspace_ms_p50"] = summary(subspace_ms(step, images, labels))["p50"]
    return metrics


@torch.no_grad()
def inference_ms(step: TrainStep, normalised: Tensor) -> list[float]:
    """Return the milliseconds of single forward passes of one batch in evaluation mode.

    As a side effect, the allocator keeps freed memory from now on (`wasi.allocator.keep_freed_memory`).
    """
    step.model.eval()
    keep_freed_memory()
    return time_steps(lambda: step.model(normalised), 1, 5, 0.0, synchronizer(step.device.type))


def subspace_ms(step: TrainStep, images: Tensor, labels: Tensor) -> list[float]:
    """Return the milliseconds of `subspace_work` in each of five whole steps, which train the model."""
    spent = []
    for _ in range(5):
        with Breakdown({"subspace": subspace_work(step)}, synchronizer(step.device.type)) as breakdown:
            step(images, labels)
        spent.append(breakdown.ms()["subspace"])
    return spent
