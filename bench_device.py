"""Measure a configuration against its baseline on this machine; see `python bench_device.py --help`."""

if __name__ == "__main__":  # before all other imports, which take a second
    from wasi.process_exit import quiet_while_importing

    quiet_while_importing()

import hydra
from omegaconf import DictConfig

import wasi.bench.job_identity
import wasi.config.resolvers  # noqa: F401  (both register resolvers that conf/bench.yaml uses)
from wasi.bench import fit
from wasi.bench.measure_job import measure, perform
from wasi.process_exit import exit_after
from wasi.runs.command import command
from wasi.runs.job import run_job


@hydra.main(version_base="1.3", config_path="conf", config_name="bench")
def main(cfg: DictConfig) -> None:
    if cfg.bench.fit is None:
        run_job(cfg, measure, perform)
    else:
        run_job(cfg, fit.plan, fit.perform)


if __name__ == "__main__":
    exit_after(lambda: command(main))
