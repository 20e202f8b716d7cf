"""Fine-tune a vision transformer: load the data, build the model, apply the method, fit, test, measure.

`python train.py --help` lists the options. Modules that import torch are imported inside functions, so that help,
refused options and completed jobs take no seconds for it.
"""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, which take a second
    from wasi.process_exit import quiet_while_importing

    quiet_while_importing()

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

import wasi.config.resolvers  # noqa: F401  (registers resolvers that conf/config.yaml uses)
from wasi.process_exit import exit_after
from wasi.runs.command import command
from wasi.runs.job import Run, run_job

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from wasi.data.spec import Data, InputSpec
    from wasi.methods.calibration import Calibration
    from wasi.methods.method import Method
    from wasi.training.step import TrainStep

log = logging.getLogger(__name__)


def train(cfg: DictConfig, run: Run) -> None:
    """Load the data, build the model, apply the method, fit, test and measure; the results are collected in `run`."""
    import torch

    from wasi import file_names
    from wasi.bench.resident import resident_memory_of
    from wasi.data.catalogue import load_data
    from wasi.data.loader import first_batch, workers_of
    from wasi.data.normalize import Normalize
    from wasi.measure.rss import current_rss_mib
    from wasi.models.header import header_of
    from wasi.models.input_spec import input_spec
    from wasi.models.saved import save_model
    from wasi.runs.set_up import set_up
    from wasi.training.budget import apply_budget
    from wasi.training.build_step import build_step
    from wasi.training.evaluation import test

    device = set_up(cfg)
    cfg.dataset.num_workers = workers_of(cfg, device)
    spec = input_spec(cfg.model, cfg.dataset.image_size)
    if cfg.train.memory_budget_mib is not None:
        run.metrics |= apply_budget(cfg, spec, current_rss_mib)
    data = load_data(cfg.dataset, spec, cfg.seed)
    normalize = Normalize(spec)
    if cfg.device.memory_limit_mib is not None:  # a separate process checks the limit before the model is built here
        run.metrics |= resident_memory_of(cfg, torch.get_num_threads(), run.folder / "memory.log")
    model, method, calibration = build(cfg, run, data, spec, device)

    step = build_step(model, normalize, cfg, method)
    if run.only_measure:  # none of these numbers depends on the values of the weights
        measure(cfg, run, method, step, first_batch(data.train, cfg), step_seconds=())
        return
    step_seconds = fit(cfg, run, step, data, spec, calibration)
    if cfg.train.save == "model":
        save_model(run.folder / file_names.MODEL, model, header_of(cfg, spec, data.classes, run.layers))
    tested, run.classes = test(step, data, cfg.dataset)
    run.metrics |= tested
    measure(cfg, run, method, step, first_batch(data.train, cfg), step_seconds)


def build(
    cfg: DictConfig, run: Run, data: Data, spec: InputSpec, device: torch.device
) -> tuple[nn.Module, Method, Calibration]:
    """Build the network with its weights and a head for the data's classes, and apply the method to it.

    This notes the layers in `run`, logs their ranks, and writes the method's artifacts into the run's folder.

    Returns:
        The model, the method, and the calibration batches that the method has used.
    """
    from wasi.data.normalize import Normalize
    from wasi.methods.apply import apply_method
    from wasi.methods.describe import describe_layers, rank_history
    from wasi.models.build import model_of
    from wasi.runs.result import write_json

    model = model_of(cfg, data, spec, device)
    model, method, calibration = apply_method(cfg, model, data.train, Normalize(spec))
    for name, content in method.artifacts.items():
        write_json(run.folder / name, content)
    run.layers = describe_layers(model, cfg.method.scope)
    run.tracker.log(0, rank_history(run.layers))
    return model, method, calibration


def fit(
    cfg: DictConfig, run: Run, step: TrainStep, data: Data, spec: InputSpec, calibration: Calibration
) -> Sequence[float]:
    """Train for all epochs, from a checkpoint if there is one.

    Returns:
        Seconds of each step that this process has made on a whole batch, without those that compiled.
    """
    import torch

    from wasi.config.levels import measure_level
    from wasi.data.augment import augmented, batch_mix
    from wasi.measure.contention import crowding_warning
    from wasi.measure.rss import process_peak_mib
    from wasi.training.loop import Fit
    from wasi.training.monitor import Monitor

    watchers: list[Callable[[int, int], None]] = [crowding_warning(torch.get_num_threads())]
    if cfg.train.monitor:
        watchers.append(Monitor(step.model, calibration, cfg, run.folder, run.tracker))
    train_images = augmented(data.train, cfg.augment, spec, cfg.seed)
    mix = batch_mix(cfg.augment, data.num_classes)
    training = Fit(step, train_images, data.val, cfg, run.folder, run.tracker, watchers, mix)
    run.resumed_from_step, run.history = training.resumed_from_step, training.progress.epochs
    run.metrics |= training.run()
    if run.first_here:
        peak = process_peak_mib()
        if cfg.train.memory == "lean":
            beside = "" if cfg.dataset.num_workers == 0 else " (without processes that load its data)"
            log.info("trained in %.0f MiB, the resident peak of the whole process%s", peak, beside)
        if measure_level(cfg.train.measure) != "full":  # `full` measures it in a separate process
            run.metrics["memory/process_rss_peak_mib"] = peak
    return training.step_seconds()


def measure(
    cfg: DictConfig,
    run: Run,
    method: Method,
    step: TrainStep,
    batch: tuple[Tensor, Tensor],
    step_seconds: Sequence[float],
) -> None:
    """Measure what `train.measure` asks for; `full` adds resident memory, in a process that does nothing else."""
    import torch

    from wasi.bench.resident import resident_memory_of
    from wasi.config.levels import measure_level

    level = measure_level(cfg.train.measure)
    if level == "none":
        return
    from wasi.measure.run import measure_run

    run.metrics |= measure_run(cfg, method, step, batch, step_seconds)
    if level == "full" and "memory/train_rss_peak_mib" not in run.metrics:
        run.metrics |= resident_memory_of(cfg, torch.get_num_threads(), run.folder / "memory.log")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | tuple[float, ...] | None:
    return run_job(cfg, train)


if __name__ == "__main__":
    exit_after(lambda: command(main))
