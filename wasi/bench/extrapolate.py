"""What a training step would take at other batch sizes, from small steps that were really taken.

Two tracked steps of different batch sizes, from one and the same state, allocate and free the same tensors in the same
order, each of a size `a + b B` (`B` images). So the live bytes after every event are known for any `B`, and their
maximum is the peak. Under `lean` the number of events before the optimizer grows with the number of chunks: there the
highest bytes of equal parts of that stretch are compared, one part for two blocks, which is right to some 15 per cent
in nets of twelve blocks, and up to a third too much in nets of 24. A step's time is a straight line through two timed
sizes.
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
from wasi.measure.memory import MIB, LiveMemory
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

_SEGMENT = 2  # blocks in most segments: what `train.segment_size=null` is
_SHORT = 0.5  # seconds below which a step is timed three times


def predict(subject: Subject, asked: dict) -> dict:
    """Rows of live memory and step time, and the size of the model's file.

    Args:
        asked: `optimizers` (name -> options), `memory` (policies), `batch_sizes`, `resident` (what the allocator
            holds for what a step holds beside its weights), `spare_mib` (what needs more is not timed), `epsilon`
            (None: full weights), `surrogate_spectrum` (of the weights, in place of their own), `chunk_size` (images,
            under `lean`). Where each of `batch_sizes` is more than there are training images, their number is taken.
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
            except Diverged as error:  # at a rate that was made for weights other than these random ones
                left_out.append(f"{name} {policy}: {error}")
    model_mib = sum(t.nbytes for t in state.values()) / MIB
    return {"rows": rows, "left_out": left_out, "model_mib": model_mib, "images": images}


def _sizes(asked: list[int], images: int) -> list[int]:
    """One batch of the whole set, where no batch size that was asked for is as small as that."""
    return asked if min(asked) <= images else [images]


def _weights_mib(model: nn.Module) -> float:
    return sum(t.nbytes for t in [*model.parameters(), *model.buffers()]) / MIB


def _resident(model: nn.Module, live_mib: float, asked: dict) -> float:
    """What a step of this peak takes of the system: weights stay where they are, the rest comes and goes."""
    weights = _weights_mib(model)
    return weights + asked["resident"] * (live_mib - weights)


def _too_large(model: nn.Module, least: float, policy: str, name: str, asked: dict) -> list[dict]:
    """Rows of what need not be tried: every step holds weights and gradients together, whatever the batch."""
    row = {"optimizer": name, "memory": policy, "live_mib": least, "resident_mib": _resident(model, least, asked)}
    return [{**row, "at_least": True, "batch_size": size} for size in asked["batch_sizes"]]


def _give_random_factors(model: nn.Module, cfg: DictConfig, epsilon: float | None, surrogate_spectrum: bool) -> None:
    """Of the rank that `epsilon` keeps, without decomposing the weights: their values change neither size nor time."""
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
        _step_seconds(step, subject, size)  # makes the optimizer's state
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
    """Live bytes after each event of a step of `size` images: before the optimizer's own step, and from it on."""

    size: int
    before: list[int]
    after: list[int]

    @classmethod
    def of(cls, step: TrainStep, subject: Subject, size: int) -> "Track":
        batch, begins = step.prepare(*subject.first(size)), []
        hook = register_optimizer_step_pre_hook(lambda *_: begins.append(len(memory.totals)))
        try:
            with LiveMemory(step.model, step.optimizer, batch) as memory:
                step(*batch)
        finally:
            hook.remove()
        return cls(size, memory.totals[: begins[0]], memory.totals[begins[0] :])


def peak_at(size: int, small: Track, larger: Track, parts: int) -> float:
    """Peak in bytes at `size` images; `parts` of a stretch are compared where its events are not the same."""
    share = (size - small.size) / (larger.size - small.size)
    pairs = [*_aligned(small.before, larger.before, parts), *_aligned(small.after, larger.after, parts)]
    return max(low + share * (high - low) for low, high in pairs)


def _aligned(small: list[int], larger: list[int], parts: int) -> Iterator[tuple[int, int]]:
    """Bytes of the two steps at the same moments."""
    if len(small) != len(larger):
        small, larger = _highest(small, parts), _highest(larger, parts)
    return zip(small, larger, strict=True)


def _highest(totals: list[int], parts: int) -> list[int]:
    cuts = [round(part * len(totals) / parts) for part in range(parts + 1)]
    return [max(totals[low:high]) for low, high in zip(cuts[:-1], cuts[1:], strict=True)]


def _times(step: TrainStep, subject: Subject, fitting: list[int], small: int) -> Callable[[int], float] | None:
    """Milliseconds of a step as a function of the batch size."""
    if not fitting:
        return None
    large = max(min(max(fitting), subject.cfg.dataset.batch_size), small + 1)
    _step_seconds(step, subject, large)  # the small size has been run before
    seconds = {size: _step_seconds(step, subject, size) for size in (small, large)}
    for size in seconds:
        if seconds[size] < _SHORT:
            seconds[size] = min(seconds[size], *(_step_seconds(step, subject, size) for _ in range(2)))
    fixed = seconds[large] - large * (seconds[large] - seconds[small]) / (large - small)
    fixed = min(max(fixed, 0.0), seconds[large] / 2)  # beyond that it is noise
    return lambda size: 1000 * (fixed + (seconds[large] - fixed) * size / large)


def _step_seconds(step: TrainStep, subject: Subject, size: int) -> float:
    batch = step.prepare(*subject.first(size))
    (ms,) = time_steps(lambda: step(*batch), 0, 1, 0.0, synchronizer(subject.device.type))
    return ms / 1000
