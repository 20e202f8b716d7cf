"""Every number that a finished run reports about its cost; the instruments are this package's other modules."""

from collections.abc import Sequence

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from wasi.linalg import tucker
from wasi.measure.accounting import paper_accounting
from wasi.measure.breakdown import Breakdown, Target
from wasi.measure.flops import inference_flops, step_flops
from wasi.measure.memory import inference_peak, train_peak
from wasi.measure.stored_inputs import stored_inputs_mib
from wasi.measure.timing import summary, synchronizer, time_steps
from wasi.training import swan
from wasi.training.step import TrainStep
from wasi.training.subspace import SubspaceIteration

_WARMUP = 3  # steps of a run's own that are not yet at speed
SUBSPACE_WORK: list[Target] = [
    (tucker, "compress"),
    (swan, "whitened"),
    (SubspaceIteration, "tangents"),
    (SubspaceIteration, "finish"),
]


def measure_run(
    cfg: DictConfig, step: TrainStep, batch: tuple[Tensor, Tensor], step_seconds: Sequence[float]
) -> dict[str, float]:
    """Metrics of section `memory`, `flops`, `time` and `model` of result.json, but for the process's RSS.

    Trains `step.model` a few steps further, so the run's weights must have been saved.

    Args:
        batch: a whole training batch as the loader gives it (uint8 images, labels).
        step_seconds: whole steps of the training itself.
    """
    images, labels = step.prepare(*batch)
    batch_size = len(labels)  # less than asked for where there are fewer training images
    normalised = step.normalize(batch[0].to(step.device))
    return {
        **count_parameters(step.model),
        **paper_accounting(step.model, cfg.method.scope, normalised, batch_size),
        "memory/stored_inputs_mib": stored_inputs_mib(step.model, cfg.method.scope, step, images, labels),
        **flops(step, images, labels, normalised),
        **times(step, images, labels, normalised, step_seconds),
        **train_peak(step.model, step.optimizer, step, images, labels).train_metrics(),
        "memory/inference_peak_mib": inference_peak(step.model, normalised).total / 1024**2,
    }


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Numbers held as parameters, tied ones once; those that train."""
    parameters = list(model.parameters())
    return {
        "model/parameters": sum(p.numel() for p in parameters),
        "model/trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }


def flops(step: TrainStep, images: Tensor, labels: Tensor, normalised: Tensor) -> dict[str, int]:
    """FLOPs of a whole step as it really runs, which trains the model that step further, and of inference."""
    return {
        **step_flops(step, images, labels, normalised, SUBSPACE_WORK),
        "flops/inference": inference_flops(step.model, normalised),
    }


def times(
    step: TrainStep, images: Tensor, labels: Tensor, normalised: Tensor, step_seconds: Sequence[float]
) -> dict[str, float]:
    """Whole steps of the training after warm-up, where there were enough of them; otherwise of further steps."""
    samples = [1000 * s for s in step_seconds[_WARMUP:]]
    if len(samples) < 5:
        samples = time_steps(lambda: step(images, labels), 1, 5, 0.0, synchronizer(step.device.type))
    train, inference = summary(samples), summary(inference_ms(step, normalised))
    metrics = {
        "time/train_step_ms_p50": train["p50"],
        "time/train_step_ms_p90": train["p90"],
        "time/inference_ms_p50": inference["p50"],
    }
    if step.subspace.layers:
        metrics["time/subspace_ms_p50"] = summary(subspace_ms(step, images, labels))["p50"]
    return metrics


@torch.no_grad()
def inference_ms(step: TrainStep, normalised: Tensor) -> list[float]:
    """One batch in eval mode, several times."""
    step.model.eval()
    return time_steps(lambda: step.model(normalised), 1, 5, 0.0, synchronizer(step.device.type))


def subspace_ms(step: TrainStep, images: Tensor, labels: Tensor, count: int = 5) -> list[float]:
    """Decomposition, tangent projection and retraction within whole steps, seen from outside."""
    spent = []
    for _ in range(count):
        with Breakdown({"subspace": SUBSPACE_WORK}, synchronizer(step.device.type)) as breakdown:
            step(images, labels)
        spent.append(breakdown.ms()["subspace"])
    return spent
