"""Fine-tune a vision transformer inside a low-rank subspace; see `python train.py --help`."""

from collections.abc import Sequence
from typing import Any

import hydra
from omegaconf import DictConfig

import wasi.config.resolvers  # noqa: F401  (conf/config.yaml names folders with it)
from wasi.leave import leave_after
from wasi.runs.command import command
from wasi.runs.job import Run, run_job


def train(cfg: DictConfig, run: Run) -> None:
    """Load the data, build the model, apply the method, fit, measure; `run` collects what is to be reported."""
    import torch

    from wasi.bench.resident import resident_memory_of
    from wasi.config.levels import measure_level
    from wasi.data.augment import augmented, batch_mix
    from wasi.data.catalogue import load_data
    from wasi.data.loader import first_batch
    from wasi.data.normalize import Normalize
    from wasi.measure.rss import current_rss_mib, process_peak_mib
    from wasi.methods.calibration import Calibration
    from wasi.methods.describe import describe_layers, rank_history
    from wasi.models.build import build_model
    from wasi.models.header import header_of
    from wasi.models.input_spec import input_spec
    from wasi.models.saved import save_model
    from wasi.models.weights_file import FILE_NAME
    from wasi.runs.artifacts import write_artifacts
    from wasi.runs.device import prepare_device
    from wasi.training.budget import apply_budget
    from wasi.training.build_step import build_step, prepare_allocator
    from wasi.training.compile import check_compiler
    from wasi.training.evaluation import test
    from wasi.training.loop import Fit
    from wasi.training.monitor import Monitor

    device = prepare_device(cfg.device)
    prepare_allocator(cfg.train.memory)
    check_compiler(cfg.device.compile, device)
    torch.manual_seed(cfg.seed)  # dropout and stochastic depth draw from the global generator

    spec = input_spec(cfg.model, cfg.dataset.image_size)
    if cfg.train.memory_budget_mib is not None:
        run.metrics |= apply_budget(cfg, spec, current_rss_mib)
    data = load_data(cfg.dataset, spec, cfg.seed)
    normalize = Normalize(spec)

    if cfg.device.memory_limit_mib is not None:  # what does not fit is not built
        run.metrics |= resident_memory_of(cfg, torch.get_num_threads(), run.folder / "memory.log")
    model = build_model(cfg.model, data.num_classes, spec, cfg.seed, mapped=device.type == "cpu").to(device)
    calibration = Calibration(
        data.train, normalize, cfg.dataset.batch_size, cfg.rank.calibration_batches, cfg.seed
    )
    method = hydra.utils.instantiate(cfg.method)
    model = method.apply(model, calibration)
    write_artifacts(run.folder, method)
    run.layers = describe_layers(model, cfg.method.scope)
    run.tracker.log(0, rank_history(run.layers))

    step = build_step(model, normalize, cfg, method)
    if run.only_measure:  # none of these numbers depends on what the weights have become
        measure(cfg, run, method, step, first_batch(data.train, cfg), step_seconds=())
        return
    watchers = [Monitor(model, calibration, cfg, run.folder, run.tracker)] if cfg.train.monitor else []
    train_images = augmented(data.train, cfg.augment, spec, cfg.seed)
    mix = batch_mix(cfg.augment, data.num_classes)
    fit = Fit(step, train_images, data.val, cfg, run.folder, run.tracker, watchers, mix)
    run.resumed_from_step, run.history = fit.resumed_from_step, fit.progress.epochs
    run.metrics |= fit.run()
    if measure_level(cfg.train.measure) == "fast" and run.first_here:
        run.metrics["memory/process_rss_peak_mib"] = process_peak_mib()
    if cfg.train.save == "model":
        save_model(run.folder / FILE_NAME, model, header_of(cfg, spec, data.classes, run.layers))
    tested, run.classes = test(model, data, normalize, cfg.dataset)
    run.metrics |= tested
    measure(cfg, run, method, step, first_batch(data.train, cfg), fit.step_seconds)


def measure(
    cfg: DictConfig, run: Run, method: Any, step: Any, batch: tuple[Any, Any], step_seconds: Sequence[float]
) -> None:
    """What `train.measure` asks for; full: resident memory too, in a process that has done nothing else."""
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
    leave_after(lambda: command(main))
