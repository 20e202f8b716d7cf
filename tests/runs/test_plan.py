"""Which jobs a command line asks for."""

import logging
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import setup_globals
from omegaconf import OmegaConf, read_write

from wasi.errors import UserError
from wasi.runs import plan
from wasi.runs.plan import read_plan, write_plan


def _config(task, params=None, sweeper="hydra._internal.BasicSweeper.BasicSweeper"):
    hydra = {"sweeper": {"_target_": sweeper, "params": params}, "overrides": {"task": task}}
    return OmegaConf.create({"hydra": hydra})


@pytest.mark.parametrize(
    ("task", "params", "jobs"),
    [
        (["method=vanilla,wasi", "seed=range(0,3)", "train.epochs=2"], None, 6),
        (["seed=1"], {"seed": "1,2,3", "recipe": "a,b"}, 2),
        (["model=vit_micro"], None, 1),
    ],
)
def test_of_thousands_of_jobs_the_number_alone_is_written(tmp_path, task, params, jobs, monkeypatch):
    monkeypatch.setattr(plan, "_MOST", 0)
    write_plan(tmp_path / "sweep", _config(task, params))
    assert read_plan(tmp_path / "sweep") == (jobs, [])


def test_a_sweeper_that_chooses_as_it_goes_has_no_number(tmp_path):
    write_plan(tmp_path, _config(["seed=1,2"], sweeper="hydra_plugins.tuned_sweeper.TunedSweeper"))
    assert read_plan(tmp_path) == (0, []) and not list(tmp_path.iterdir())


@contextmanager
def composed(*words):
    """The configuration of a sweep of eight combinations, of which two are like others, as vanilla has no ranks."""
    import wasi.config.resolvers  # noqa: F401

    setup_globals()
    with initialize_config_dir(str(Path(__file__).resolve().parents[2] / "conf"), version_base="1.3"):
        words = ("sweep=here", "model=vit_micro", "dataset=digits", "logger=none", *words)
        config = compose("config", [*words], return_hydra_config=True)
        with read_write(config.hydra.sweeper):
            config.hydra.sweeper.params = {"method": "vanilla,wasi", "rank": "eps_0.8,eps_0.9", "seed": "1,2"}
        yield config


def test_equal_jobs_are_named_once_in_their_order(tmp_path):
    with composed() as config:
        write_plan(tmp_path, config)
    total, names = read_plan(tmp_path)
    assert total == 6 and [name.rsplit("-", 1)[0] for name in names] == [
        *(f"vanilla-vit_micro-digits-s{seed}" for seed in (1, 2)),
        *(f"wasi-vit_micro-digits-eps_{epsilon}-s{seed}" for epsilon in (0.8, 0.9) for seed in (1, 2)),
    ]


@pytest.mark.parametrize(("many", "told"), [(8, []), (7, ["checking 8 jobs ..."])])
def test_checking_many_jobs_is_told(many, told, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(plan, "_MANY", many)
    with composed() as config, caplog.at_level(logging.INFO):
        write_plan(tmp_path, config)
    assert caplog.messages == told


def test_an_option_without_effect_in_every_job_is_told(tmp_path, caplog):
    with composed("rank.weight_epsilon=0.7", "rank.init=svd") as config:  # of vanilla and wasi
        write_plan(tmp_path, config)
        assert not caplog.messages  # they have an effect with wasi
        with read_write(config.hydra.sweeper):
            config.hydra.sweeper.params = {"method": "vanilla,lora"}
        write_plan(tmp_path, config)
    idle = ("rank.weight_epsilon", "rank.init")
    assert caplog.messages == [f"{option} has no effect with method=vanilla or method=lora" for option in idle]


@pytest.mark.parametrize("inside", [".", ".hydra"])
def test_a_job_s_folder_that_is_a_file_is_refused_before_the_first_job(inside, tmp_path):
    with composed(f"hydra.sweep.dir={tmp_path}", "method=vanilla") as config, read_write(config.hydra.sweeper):
        config.hydra.sweeper.params = {"seed": "1,2"}
        write_plan(tmp_path, config)
        job = tmp_path / read_plan(tmp_path)[1][1]
        file = job / inside
        file.parent.mkdir(exist_ok=True)
        file.write_text("a file")
        (tmp_path / "sweep.json").unlink()
        with pytest.raises(UserError, match=rf"^hydra.sweep.dir={job}/.hydra: allowed is a folder; {file} is a file$"):
            write_plan(tmp_path, config)
    assert list(tmp_path.iterdir()) == [job]


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["model.weights=nowhere"], "model.weights=nowhere"),
        (["dataset=fashion_mnist", "dataset.root=nowhere"], "dataset.root=nowhere"),
        (["dataset=fashion_mnist", "dataset.root=nowhere", "dataset.download=true"], None),
        (["dataset=cifar10", "dataset.root=nowhere"], None),  # of which a completed job needs no images
        (["model.weights=surrogate", "dataset=synthetic", "dataset.root=nowhere"], None),
    ],
)
@pytest.mark.parametrize("launcher", ["BasicLauncher", "Joblib", "SubmititSlurm"])
def test_missing_files_are_refused_before_the_first_job_if_all_jobs_run_here(words, refused, launcher, tmp_path):
    with composed(f"hydra.sweep.dir={tmp_path}", f"hydra.launcher._target_=x.{launcher}", *words) as config:
        config.hydra.overrides.hydra.append(f"hydra.launcher._target_=x.{launcher}")
        with read_write(config.hydra.sweeper):  # a recipe may set any option, so that the jobs alone are certain
            config.hydra.sweeper.params = {"recipe": "vanilla,linear_probe"}
        config.hydra.overrides.task = words
        if refused is None or launcher == "SubmititSlurm":
            write_plan(tmp_path, config)
            assert read_plan(tmp_path)[0] == 2
        else:
            with pytest.raises(UserError, match=f"^{refused}: allowed is "):
                write_plan(tmp_path, config)


def test_a_command_that_hydra_refuses_leaves_the_plan_of_the_one_before(tmp_path):
    with composed() as config:
        write_plan(tmp_path, config)
        before = read_plan(tmp_path)
        with read_write(config.hydra.sweeper):
            config.hydra.sweeper.params = {"method": "vanilla,lorra"}
        write_plan(tmp_path, config)
    assert read_plan(tmp_path) == before and len(before[1]) == 6


@pytest.mark.parametrize(
    "content", ["", "[]", '{"jobs": null, "folders": 5}', '{"jobs": "two", "folders": null}', '{"folders": {}}']
)
def test_a_damaged_plan_is_none(tmp_path, content):
    (tmp_path / "sweep.json").write_text(content)
    assert read_plan(tmp_path) == (0, [])


def test_a_folder_of_images_is_walked_once_for_all_jobs(tmp_path, monkeypatch):
    walks = []
    monkeypatch.setattr("wasi.data.image_folder.identity", lambda cfg_dataset: walks.append(cfg_dataset) or "present")
    with composed("dataset=image_folder", f"dataset.root={tmp_path}") as config:
        write_plan(tmp_path / "sweep", config)
    assert len(read_plan(tmp_path / "sweep")[1]) == 6 and len(walks) == 1
