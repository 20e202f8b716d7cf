"""What a measuring process can be asked to do: every public method is a request, its result goes through JSON."""

import gc
import os

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn

from wasi.allocator import keep_freed_memory, release_memory
from wasi.bench.subject import Subject
from wasi.measure import contention, rss
from wasi.measure.timing import synchronizer, time_steps
from wasi.models.modes import evaluating
from wasi.training.compile import settle

_LONG_MS = 500.0  # a call that fills the caches many times over is timed without an untimed one before it


class Work:
    """State between requests: the subject, and how long its calls took last."""

    def __init__(self):
        self._last_ms: dict[str, float] = {}
        self._ran = self._waited = 0  # ns in timed calls, of all threads

    def load(self, config: dict, smaller: bool = False) -> dict:
        """Everything but the model, see `Subject`. What the process is like then."""
        self._cfg = OmegaConf.create(config)
        self.subject = Subject(self._cfg, smaller)
        return {
            "threads": torch.get_num_threads(),
            "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
            "denormals_flushed": _denormals_are_flushed(),
            "device": str(self.subject.device),
            **_cuda_name(self.subject.device),
            **({"compiled": True} if self._cfg.device.compile else {}),
        }

    def build(self) -> None:
        self.subject.build()
        if self._cfg.device.compile:
            step, batch = self.subject.step, self.subject.batch
            settle(lambda: step(*batch), step.subspace.cycle)
        self.release()

    def resident(self) -> float:
        """MiB of this process, with what the allocator keeps of freed memory."""
        return rss.current_rss_mib()

    def release(self) -> float:
        """Give freed memory back, at the cost of steps meanwhile; MiB that stay resident."""
        gc.collect()
        release_memory()
        return self.resident()

    def time_train(self, warmup: int | None, min_count: int, min_seconds: float) -> list[float]:
        """Milliseconds of whole steps, see `time_steps`; warmup: None is one where steps are short (`_LONG_MS`)."""
        step, batch = self.subject.step, self.subject.batch
        return self._time("train", lambda: step(*batch), warmup, min_count, min_seconds)

    def time_inference(self, warmup: int | None, min_count: int, min_seconds: float) -> list[float]:
        """Milliseconds of a batch in eval mode without gradients, adapters merged. No step is timed as before after it.

        Freed memory is kept from now on: `train.memory=lean` is a policy of training, not of what is deployed.
        """
        model, images = self.subject.step.model, self.subject.images()
        keep_freed_memory()
        with self.subject.method.deployed(model), evaluating(model):
            if self._cfg.device.compile:
                settle(lambda: model(images))
            if self._cfg.train.memory == "lean":  # its steps left no free memory to find
                warmup = max(warmup or 0, 1)
            return self._time("inference", lambda: model(images), warmup, min_count, min_seconds)

    def waited(self) -> float | None:
        """Share of the time in timed calls that threads waited for a processor; None where it is not known."""
        return contention.share(self._ran, self._waited)

    def count(self) -> dict[str, float]:
        """What is counted of model and step. Trains a few steps further, as timing does."""
        from wasi.measure.run import counts  # here, so that resident memory is without it

        step, images = self.subject.step, self.subject.images()
        return counts(self.subject.method, step, self._cfg.method.scope, self.subject.batch, images)

    def breakdown(self, count: int) -> list[dict[str, float]]:
        """Milliseconds per part of single steps, seen from outside; none of a compiled model, whose parts are one."""
        if self._cfg.device.compile:
            return []
        from wasi.bench.step_parts import breakdown_steps

        step, batch, own = self.subject.step, self.subject.batch, self.subject.method.step_parts()
        return breakdown_steps(step, batch, count, own, self._untimed("train"))

    def loading(self, config: dict, warmup: int, min_count: int, min_seconds: float) -> dict[str, float]:
        """Throughput of loading alone, for a process of its own; needs no `load`."""
        from wasi.bench.data_throughput import loading

        return loading(OmegaConf.create(config), warmup, min_count, min_seconds)

    def rss_peak(self, steps: int) -> dict[str, float]:
        """Resident memory in MiB, for a fresh process, after `load`; builds the model.

        baseline: with data, after a model-free warm-up; peak: of whole steps; total: since the process began. The
        allocator is as in the steps that are timed.
        """
        _model_free_warmup(self.subject.device)
        so_far = rss.process_peak_mib()  # before the marks of what follows are reset
        release_memory()
        baseline = rss.current_rss_mib()
        while_building = rss.peak_rss_mib(self.build)
        step, batch = self.subject.step, self.subject.batch
        samples: list[float] = []
        peak = rss.peak_rss_mib(lambda: samples.extend(time_steps(lambda: step(*batch), 0, steps, 0.0)))
        self._last_ms["train"] = samples[-1]
        return {"baseline": baseline, "peak": peak, "total": max(so_far, while_building, peak)}

    def live_peaks(self) -> dict[str, float]:
        """Live tensors of a whole step and of an inference pass, once an optimizer's state is there (`rss_peak`)."""
        from wasi.measure.memory import inference_peak, train_peak

        step = self.subject.step
        training = train_peak(step.model, step.optimizer, step, *self.subject.batch, steps=1)
        with self.subject.method.deployed(step.model):
            inference = inference_peak(step.model, self.subject.images()).total / rss.MIB
        return {**training.train_metrics(), "memory/inference_peak_mib": inference}

    def held(self) -> float:
        """MiB that libraries and data keep resident, after a model-free warm-up; for a fresh process, after `load`."""
        _model_free_warmup(self.subject.device)
        return self.release()

    def predict(self, asked: dict) -> dict:
        """What other optimizers, policies and batch sizes would take (`wasi.bench.extrapolate`); after `load`."""
        from wasi.bench.extrapolate import predict

        return predict(self.subject, asked)

    def _untimed(self, kind: str) -> int:
        """Calls before the first that is timed, as something else has just had the caches."""
        return int(self._last_ms.get(kind, 0.0) < _LONG_MS)

    def _time(self, kind: str, run, warmup: int | None, min_count: int, min_seconds: float) -> list[float]:
        warmup = max(warmup or 0, self._untimed(kind))
        before = contention.clocks()
        samples = time_steps(run, warmup, min_count, min_seconds, synchronizer(self.subject.device.type))
        ran, waited = contention.spent(before, contention.clocks())
        self._ran, self._waited = self._ran + ran, self._waited + waited
        self._last_ms[kind] = samples[-1]
        return samples


def _denormals_are_flushed() -> bool:
    """Whether this arithmetic, on every thread, gives zero where the exact result is subnormal."""
    return not (torch.full((1 << 20,), 1e-38) * 1e-2).any().item()


def _cuda_name(device: torch.device) -> dict[str, str]:
    return {"cuda": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}


def _model_free_warmup(device: torch.device) -> None:
    """Thread pool, kernels and autograd loaded, as any training would, without anything of the model."""
    image, tokens = torch.ones(2, 3, 32, 32, device=device), torch.ones(2, 1, 8, 8, device=device)
    net = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Flatten(), nn.Linear(128, 8), nn.LayerNorm(8), nn.GELU()).to(
        device
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        loss = F.cross_entropy(net(image), torch.zeros(2, dtype=torch.long, device=device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    F.scaled_dot_product_attention(tokens, tokens, tokens)
    square = torch.eye(8, device=device)
    for decompose in (torch.linalg.qr, torch.linalg.svd, torch.linalg.eigh, torch.linalg.cholesky):
        decompose(square)
