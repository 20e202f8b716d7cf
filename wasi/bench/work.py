"""The requests that a measuring process answers: every public method of `Work`, with arguments and results as JSON."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn

from wasi.allocator import keep_freed_memory, release_memory
from wasi.bench.subject import Subject
from wasi.measure import contention, rss
from wasi.measure.timing import synchronizer, time_steps
from wasi.models.modes import eval_mode
from wasi.runs.out_of_memory import collect_garbage
from wasi.training.compile import run_until_compiled

# Calls longer than this are timed without a warm-up call, as they fill the caches many times over anyway.
_LONG_MS = 500.0


class Work:
    """The state between requests: the model and its step, and the durations of the latest calls."""

    def __init__(self):
        self._last_ms: dict[str, float] = {}
        self._ran = self._waited = 0  # ns, summed over all threads, in timed calls: running, waiting for a CPU

    def load(self, config: dict, smaller: bool = False) -> dict:
        """Load the data and prepare the device, but build no model yet (see `Subject`).

        Returns a description of the process: threads, OMP_NUM_THREADS, device, whether denormals are flushed.
        """
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
        """Build the model and the step, and free the data set."""
        self._build()
        self.subject.free_data()
        self.release()

    def _build(self) -> None:
        """Build the model and the step; with `device.compile`, run steps until nothing more is compiled."""
        self.subject.build()
        if self._cfg.device.compile:
            step, batch = self.subject.step, self.subject.batch
            run_until_compiled(lambda: step(*batch), step.subspace.cycle)
        self.release()

    def resident(self) -> float:
        """Return this process's resident MiB, including freed memory that the allocator keeps."""
        return rss.current_rss_mib()

    def release(self) -> float:
        """Return freed memory to the system, which slows down the next step; returns the MiB that stay resident.

        So with a GPU's memory, which its driver gets back; the next timed call there has a warm-up call before it.
        """
        collect_garbage()
        release_memory()
        if self.subject.device.type == "cuda":
            self._last_ms.clear()
        return self.resident()

    def time_train(self, warmup: int, min_count: int, min_seconds: float) -> list[float]:
        """Return milliseconds of whole training steps; arguments as for `time_steps`.

        Where none has run yet, or the latest was shorter than `_LONG_MS`, there is at least one warm-up step, whatever
        `warmup` is.
        """
        step, batch = self.subject.step, self.subject.batch
        return self._time("train", lambda: step(*batch), warmup, min_count, min_seconds)

    def time_inference(self, warmup: int, min_count: int, min_seconds: float) -> list[float]:
        """Return milliseconds of inference on the batch, of the model as deployed; arguments as for `time_train`.

        From here on the allocator keeps freed memory, with `train.memory=lean` too, which is a policy for training.
        Training steps must be timed before.
        """
        model, images = self.subject.step.model, self.subject.images()
        keep_freed_memory()
        with self.subject.method.deployed(model), eval_mode(model):
            if self._cfg.device.compile:
                run_until_compiled(lambda: model(images))
            if self._cfg.train.memory == "lean":  # the allocator has no freed memory to reuse yet
                warmup = max(warmup, 1)
            return self._time("inference", lambda: model(images), warmup, min_count, min_seconds)

    def waited(self) -> float | None:
        """Return the share of time in timed calls that threads waited for a CPU; None where it is unknown."""
        return contention.share(self._ran, self._waited)

    def count(self) -> dict[str, float]:
        """Return FLOPs, stored inputs and parameters (`wasi.measure.run.counts`); runs one more training step."""
        from wasi.measure.run import counts  # imported here, so that it does not add to the resident memory

        step, images = self.subject.step, self.subject.images()
        return counts(self.subject.method, step, self._cfg.method.scope, self.subject.batch, images)

    def breakdown(self, count: int) -> list[dict[str, float]]:
        """Return part -> milliseconds for each of `count` steps; empty with `device.compile`, as blocks are fused."""
        if self._cfg.device.compile:
            return []
        from wasi.bench.step_parts import breakdown_steps

        step, batch, own = self.subject.step, self.subject.batch, self.subject.method.step_parts()
        with self._under_watch():
            return breakdown_steps(step, batch, count, own, self._untimed("train"))

    def layers(self) -> list[dict]:
        """Return sizes and ranks of the linear layers in the method's scope (`describe_layers`)."""
        from wasi.methods.describe import describe_layers

        return describe_layers(self.subject.step.model, self._cfg.method.scope)

    def loading(self, config: dict, warmup: int, min_count: int, min_seconds: float) -> dict[str, float]:
        """Return the throughput of data loading (`data_throughput.loading`); for a new process, without `load`."""
        from wasi.bench.data_throughput import loading

        return loading(OmegaConf.create(config), warmup, min_count, min_seconds)

    def rss_peak(self, steps: int) -> dict[str, float]:
        """Build the model, run `steps` steps and return resident memory in MiB; for a new process, after `load`.

        `baseline`: with data and libraries, before the model is built; `peak`: the highest during the steps; `total`:
        the highest since the process started. The data set stays until the steps are done, as in training. The
        allocator's settings are those of the timed steps.
        """
        _model_free_warmup(self.subject.device)
        so_far = rss.process_peak_mib()  # before `peak_rss_mib` resets the high-water mark
        release_memory()
        baseline = rss.current_rss_mib()
        while_building = rss.peak_rss_mib(self._build)
        step, batch = self.subject.step, self.subject.batch
        samples: list[float] = []
        peak = rss.peak_rss_mib(lambda: samples.extend(time_steps(lambda: step(*batch), 0, steps, 0.0)))
        self._last_ms["train"] = samples[-1]
        self.subject.free_data()
        return {"baseline": baseline, "peak": peak, "total": max(so_far, while_building, peak)}

    def live_peaks(self) -> dict[str, float]:
        """Return peaks of live tensors in a step and in inference; after `rss_peak`, so that optimizer state exists."""
        from wasi.measure.memory import inference_peak, train_peak

        step = self.subject.step
        training = train_peak(step.model, step.optimizer, step, *self.subject.batch, steps=1)
        with self.subject.method.deployed(step.model):
            inference = inference_peak(step.model, self.subject.images()).total / rss.MIB
        return {**training.train_metrics(), "memory/inference_peak_mib": inference}

    def held(self) -> float:
        """Return the resident MiB of libraries and data, before a model is built; for a new process, after `load`."""
        _model_free_warmup(self.subject.device)
        return self.release()

    def predict(self, asked: dict) -> dict:
        """Predict memory and time of optimizers, policies and batch sizes (`extrapolate.predict`); after `load`."""
        from wasi.bench.extrapolate import predict

        return predict(self.subject, asked)

    def _untimed(self, kind: str) -> int:
        """Return the number of warm-up calls, 0 or 1: another process has used the caches since the last call."""
        return int(self._last_ms.get(kind, 0.0) < _LONG_MS)

    def _time(self, kind: str, run, warmup: int, min_count: int, min_seconds: float) -> list[float]:
        warmup = max(warmup, self._untimed(kind))
        with self._under_watch():
            samples = time_steps(run, warmup, min_count, min_seconds, synchronizer(self.subject.device.type))
        self._last_ms[kind] = samples[-1]
        return samples

    @contextmanager
    def _under_watch(self) -> Iterator[None]:
        """Inside, note for how long threads run and wait for a CPU, see `waited`."""
        before = contention.clocks()
        yield
        ran, waited = contention.spent(before, contention.clocks())
        self._ran, self._waited = self._ran + ran, self._waited + waited


def _denormals_are_flushed() -> bool:
    """Return whether all threads flush subnormal results to zero, tested on a tensor that is divided among them."""
    return not (torch.full((1 << 20,), 1e-38) * 1e-2).any().item()


def _cuda_name(device: torch.device) -> dict[str, str]:
    return {"cuda": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}


def _model_free_warmup(device: torch.device) -> None:
    """Run a small unrelated model, so that thread pools, kernels and autograd are loaded before memory is measured."""
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
