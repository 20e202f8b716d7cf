"""Fine-tune a vision transformer inside a low-rank subspace; see `python train.py --help`."""

import hydra
from omegaconf import DictConfig

import wasi.config.resolvers  # noqa: F401  (conf/config.yaml names folders with it)
from wasi.runs.command import command
from wasi.runs.job import Run, run_job

_LARGE = 2**20  # bytes, while a run is set up: what is freed then goes back, whatever the time that takes


def train(cfg: DictConfig, run: Run) -> None:
    """Load the data, build the model, apply the method, fit, measure; `run` collects what is to be reported."""
    import torch

    from wasi.allocator import return_large_blocks
    from wasi.bench.resident import resident_memory_of
    from wasi.data.load import load_data
    from wasi.data.loader import first_batch
    from wasi.data.normalize import Normalize
    from wasi.measure.rss import current_rss_mib
    from wasi.methods.calibration import Calibration
    from wasi.methods.describe import describe_layers, rank_history
    from wasi.models.build import build_model
    from wasi.models.header import header_of
    from wasi.models.saved import save_model
    from wasi.models.spec import input_spec
    from wasi.models.weights_file import FILE_NAME
    from wasi.runs.artifacts import write_artifacts
    from wasi.runs.device import prepare_device
    from wasi.training.budget import apply_budget
    from wasi.training.build import build_step
    from wasi.training.evaluate import test
    from wasi.training.loop import Fit
    from wasi.training.monitor import Monitor

    device = prepare_device(cfg.device)
    if cfg.train.memory == "lean":
        return_large_blocks(_LARGE)
    torch.manual_seed(cfg.seed)  # dropout and stochastic depth draw from the global generator

    spec = input_spec(cfg.model, cfg.dataset.image_size)
    if cfg.train.memory_budget_mib is not None:
        run.metrics |= apply_budget(cfg, spec, current_rss_mib())
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
    if cfg.train.measure and cfg.device.memory_limit_mib is None:
        run.metrics |= resident_memory_of(cfg, torch.get_num_threads(), run.folder / "memory.log")
    if run.only_measure:  # none of these numbers depends on what the weights have become
        from wasi.measure.run import measure_run

        run.metrics |= measure_run(cfg, method, step, first_batch(data.train, cfg), step_seconds=())
        return
    watchers = [Monitor(model, calibration, cfg, run.folder, run.tracker)] if cfg.train.monitor else []
    fit = Fit(step, data.train, data.val, cfg, run.folder, run.tracker, watchers)
    run.resumed_from_step = fit.resumed_from_step
    run.metrics |= fit.run()
    if cfg.train.save == "model":
        save_model(run.folder / FILE_NAME, model, header_of(cfg, spec, data.classes, run.layers))
    tested, run.classes = test(model, data, normalize, cfg.dataset)
    run.metrics |= tested

    if cfg.train.measure:
        from wasi.measure.run import measure_run

        run.metrics |= measure_run(cfg, method, step, first_batch(data.train, cfg), fit.step_seconds)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    return run_job(cfg, train)


if __name__ == "__main__":
    command(main)
