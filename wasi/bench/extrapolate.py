"""Peak memory and time of a training step at any batch size, extrapolated from small steps.

Two steps of different batch sizes, from the same state, allocate and free the same tensors in the same order, each of
a size `a + b B` for `B` images. The live bytes after every allocation and release are therefore known for any `B`, and
the peak is their maximum. With `train.memory=lean` the number of these events before the optimizer's step grows with
the number of chunks; the events are then divided into equal parts, one for two transformer blocks, and the maxima of
corresponding parts are extrapolated. That is accurate to some 15 per cent in models of 12 blocks, and up to a third too
high in models of 24. A step's time is a straight line through two timed batch sizes.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from wasi.bench.subject import Subject
from wasi.errors import Diverged
from wasi.linalg.rank import explained_rank, weight_rank
from wasi.measure.memory import LiveMemory
from wasi.measure.rss import MIB
from wasi.measure.timing import synchronizer, time_steps
from wasi.methods.describe import describe_layers
from wasi.methods.scope import scope_linears
from wasi.models.header import header_of
from wasi.models.restart import give_factors
from wasi.models.saved import inference_state
from wasi.models.structure import find_blocks
from wasi.models.surrogate import singular_values
from wasi.training.build_step import build_step
from wasi.training.step import TrainStep

_SEGMENT = 2  # blocks in most segments, with the default of `train.segment_size`
_SHORT = 0.5  # seconds; shorter steps are timed three times and the fastest counts


def predict(subject: Subject, asked: dict) -> dict:
    """Predict memory and step time for each optimizer, memory policy and batch size.

    Args:
        subject: with its data loaded and no model built.
        asked: A dictionary of
            `optimizers`: name -> options;
            `memory`: values of `train.memory`;
            `batch_sizes`: if all are larger than the training set, the one size of the whole set is taken instead;
            `resident`: ratio of resident to live memory for everything but weights and buffers;
            `spare_mib`: resident memory available to a step; what needs more is not timed;
            `epsilon`: share of the squared singular values that a weight keeps; None: dense weights;
            `surrogate_spectrum`: whether ranks follow the surrogate weights' spectrum instead of the model's own;
            `chunk_size`: images per chunk with `lean`.

    Returns:
        `rows`, one dictionary per combination; `left_out`, a line for each optimizer and policy whose loss diverged;
        `model_mib`, the size of the model's file; `images`, the number of training images.
    """
    images = len(subject.data.train)
    asked = {**asked, "batch_sizes": _sizes(asked["batch_sizes"], images)}
    ranks = asked["epsilon"], asked["surrogate_spectrum"]
    model = subject.model(lambda dense: _give_random_factors(dense, subject.cfg, *ranks))
    layers = describe_layers(model, subject.cfg.method.scope)
    state = inference_state(model, header_of(subject.cfg, subject.spec, subject.data.classes, layers))
    least = _weights_mib(model) + sum(p.nbytes for p in model.parameters() if p.requires_grad) / MIB
    too_large = _resident(model, least, asked) > asked["spare_mib"]
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for policy in asked["memory"]:
        for name, options in asked["optimizers"].items():
            if too_large:
                rows += _too_large(model, least, policy, name, asked)
                continue
            try:
                rows += _rows(subject, model, policy, name, options, asked)
            except Diverged as error:  # possible with random factors and a learning rate for trained ones
                left_out.append(f"{name} {policy}: {error}")
    model_mib = sum(t.nbytes for t in state.values()) / MIB
    return {"rows": rows, "left_out": left_out, "model_mib": model_mib, "images": images}


def _sizes(asked: list[int], images: int) -> list[int]:
    """Return the batch sizes, or only the size of the whole set where all are larger than that."""
    return asked if min(asked) <= images else [images]


def _weights_mib(model: nn.Module) -> float:
    return sum(t.nbytes for t in [*model.parameters(), *model.buffers()]) / MIB


def _resident(model: nn.Module, live_mib: float, asked: dict) -> float:
    """Estimate the resident MiB of a step with this live peak: weights once, all else times `asked["resident"]`."""
    weights = _weights_mib(model)
    return weights + asked["resident"] * (live_mib - weights)


def _too_large(model: nn.Module, least: float, policy: str, name: str, asked: dict) -> list[dict]:
    """Return rows for a model that cannot fit: weights and gradients alone are a lower bound at every batch size."""
    row = {"optimizer": name, "memory": policy, "live_mib": least, "resident_mib": _resident(model, least, asked)}
    return [{**row, "at_least": True, "batch_size": size} for size in asked["batch_sizes"]]


def _give_random_factors(model: nn.Module, cfg: DictConfig, epsilon: float | None, surrogate_spectrum: bool) -> None:
    """Replace the weights in scope by random factors of the rank that `epsilon` keeps, scaled to the weights' norms.

    No weight is decomposed, as the values of the factors change neither memory nor time.
    """
    if not epsilon:
        return
    generator = torch.Generator().manual_seed(cfg.seed)
    for linear in scope_linears(model, cfg.method.scope).values():
        rows, columns = linear.weight.shape
        if surrogate_spectrum:
            rank = explained_rank(singular_values(rows, columns) ** 2, epsilon)
        else:
            rank = weight_rank(linear.weight, epsilon)
        left, right = torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)
        scale = linear.weight.detach().norm().cpu() / (left.norm() * right.norm() / rank**0.5)
        give_factors(linear.weight, left, scale * right)


def _rows(subject: Subject, model: nn.Module, policy: str, name: str, options: dict, asked: dict) -> list[dict]:
    cfg = subject.cfg.copy()
    with open_dict(cfg):
        cfg.optimizer = OmegaConf.create(options)
        cfg.train.memory, cfg.train.chunk_size = policy, asked["chunk_size"] if policy == "lean" else None
    sizes = (2, 4) if policy == "plain" else (3 * asked["chunk_size"], 4 * asked["chunk_size"])

    def tracked(size: int) -> tuple[TrainStep, Track]:
        step = build_step(copy.deepcopy(model), subject.normalize, cfg, subject.method)
        _step_seconds(step, subject, size)  # the first step allocates the optimizer's state
        return step, Track.of(step, subject, size)

    small = tracked(sizes[0])[1]
    step, larger = tracked(sizes[1])
    state = sum(t.nbytes for s in step.optimizer.state.values() for t in s.values() if isinstance(t, Tensor))
    parts = max(1, len(find_blocks(model)) // _SEGMENT)
    peaks = {size: peak_at(size, small, larger, parts) / MIB for size in asked["batch_sizes"]}
    resident = {size: _resident(model, peak, asked) for size, peak in peaks.items()}
    fitting = [size for size in peaks if resident[size] <= asked["spare_mib"]]
    timed = _times(step, subject, fitting, sizes[1])
    return [
        {
            "optimizer": name,
            "memory": policy,
            "batch_size": size,
            "live_mib": peak,
            "resident_mib": resident[size],
            "optimizer_state_mib": state / MIB,
            **({"step_ms": timed(size)} if timed is not None and size in fitting else {}),
        }
        for size, peak in peaks.items()
    ]


@dataclass(frozen=True)
class Track:
    """Live bytes after each allocation or release in a step of `size` images, split where `optimizer.step` begins."""

    size: int
    before: list[int]
    after: list[int]

    @classmethod
    def of(cls, step: TrainStep, subject: Subject, size: int) -> "Track":
        """Run one step of `size` images and record its live bytes."""
        batch, begins = step.prepare(*subject.first(size)), []
        hook = register_optimizer_step_pre_hook(lambda *_: begins.append(len(memory.totals)))
        with hook, LiveMemory(step.model, step.optimizer, batch) as memory:
            step(*batch)
        return cls(size, memory.totals[: begins[0]], memory.totals[begins[0] :])


def peak_at(size: int, small: Track, larger: Track, parts: int) -> float:
    """Return the peak in bytes at `size` images, by linear extrapolation from two tracks.

    Args:
        parts: number of parts that events are divided into where the tracks have different numbers of them.
    """
    share = (size - small.size) / (larger.size - small.size)
    pairs = [*_aligned(small.before, larger.before, parts), *_aligned(small.after, larger.after, parts)]
    return max(low + share * (high - low) for low, high in pairs)


def _aligned(small: list[int], larger: list[int], parts: int) -> Iterator[tuple[int, int]]:
    """Pair the bytes of two steps at corresponding events, or the maxima of corresponding parts."""
    if len(small) != len(larger):
        small, larger = _highest(small, parts), _highest(larger, parts)
    return zip(small, larger, strict=True)


def _highest(totals: list[int], parts: int) -> list[int]:
    cuts = [round(part * len(totals) / parts) for part in range(parts + 1)]
    return [max(totals[low:high]) for low, high in zip(cuts[:-1], cuts[1:], strict=True)]


def _times(step: TrainStep, subject: Subject, fitting: list[int], small: int) -> Callable[[int], float] | None:
    """Return a function from batch size to milliseconds of a step; None where no batch size fits."""
    if not fitting:
        return None
    large = max(min(max(fitting), subject.cfg.dataset.batch_size), small + 1)
    _step_seconds(step, subject, large)  # a warm-up; the small size has been run before
    seconds = {size: _step_seconds(step, subject, size) for size in (small, large)}
    for size in seconds:
        if seconds[size] < _SHORT:
            seconds[size] = min(seconds[size], *(_step_seconds(step, subject, size) for _ in range(2)))
    fixed = seconds[large] - large * (seconds[large] - seconds[small]) / (large - small)
    fixed = min(max(fixed, 0.0), seconds[large] / 2)  # a fixed cost of more than half is taken for noise
    return lambda size: 1000 * (fixed + (seconds[large] - fixed) * size / large)


def _step_seconds(step: TrainStep, subject: Subject, size: int) -> float:
    batch = step.prepare(*subject.first(size))
    (ms,) = time_steps(lambda: step(*batch), 0, 1, 0.0, synchronizer(subject.device.type))
    return ms / 1000
