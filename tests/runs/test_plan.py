"""Which jobs a command line asks for."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.utils import setup_globals
from omegaconf import OmegaConf, read_write

from wasi.config.fingerprint import fingerprint
from wasi.errors import UserError
from wasi.runs.plan import read_plan, read_planned, write_plan


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
def test_the_product_of_what_is_swept(tmp_path, task, params, jobs):
    write_plan(tmp_path / "sweep", _config(task, params))
    assert read_plan(tmp_path / "sweep") == jobs


def test_a_sweeper_that_chooses_as_it_goes_has_no_number(tmp_path):
    write_plan(tmp_path, _config(["seed=1,2"], sweeper="hydra_plugins.tuned_sweeper.TunedSweeper"))
    assert read_plan(tmp_path) == 0 and not list(tmp_path.iterdir())


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
    assert [name.rsplit("-", 1)[0] for name in read_planned(tmp_path)] == [
        *(f"vanilla-vit_micro-digits-s{seed}" for seed in (1, 2)),
        *(f"wasi-vit_micro-digits-eps_{epsilon}-s{seed}" for epsilon in (0.8, 0.9) for seed in (1, 2)),
    ]
    assert read_plan(tmp_path) == 6


def test_an_option_without_effect_in_every_job_is_told(tmp_path, caplog):
    with composed("rank.weight_epsilon=0.7", "rank.init=svd") as config:  # of vanilla and wasi
        write_plan(tmp_path, config)
        assert not caplog.messages  # they have an effect with wasi
        with read_write(config.hydra.sweeper):
            config.hydra.sweeper.params = {"method": "vanilla,lora"}
        write_plan(tmp_path, config)
    idle = ("rank.weight_epsilon", "rank.init")
    assert caplog.messages == [f"{option} has no effect with method=vanilla or method=lora" for option in idle]


def test_different_jobs_with_one_folder_are_refused_and_equal_ones_are_not(tmp_path):
    message = r"^hydra.sweep.subdir=\${method.name}-\${seed}: .* jobs have wasi-1$"
    with composed("hydra.sweep.subdir=${method.name}-${seed}") as config, pytest.raises(UserError, match=message):
        write_plan(tmp_path, config)
    assert not list(tmp_path.iterdir())
    with composed("hydra.sweep.subdir=${method.name}-${seed}-${method.weight_epsilon}") as config:
        with read_write(config.hydra.sweeper):
            config.hydra.sweeper.params = {"method": "wasi", "rank": "eps_0.8,eps_0.9", "seed": "1,1"}
        write_plan(tmp_path, config)
    assert read_planned(tmp_path) == ["wasi-1-0.8", "wasi-1-0.9"]


def test_a_sweep_does_not_replace_an_earlier_ones_completed_results(tmp_path):
    """As it would in folders whose names do not tell configurations apart."""
    job, own = tmp_path / "wasi-1", "hydra.sweep.subdir=${method.name}-${seed}"
    job.mkdir()

    def write(*words):
        with composed(own, f"hydra.sweep.dir={tmp_path}", *words) as config, read_write(config.hydra.sweeper):
            config.hydra.sweeper.params = {"method": "wasi", "seed": "1,2"}
            write_plan(tmp_path, config)

    with composed("method=wasi", "seed=1") as config:
        done = {"fingerprint": fingerprint(config), "status": "completed"}
    for status, epochs in (("completed", 50), ("failed", 3)):  # its own, and one that is no loss
        (job / "result.json").write_text(json.dumps({**done, "status": status}))
        write(f"train.epochs={epochs}")
    (job / "result.json").write_text(json.dumps(done))
    with pytest.raises(UserError, match=r": allowed is folders of their own; wasi-1 has the completed result of anoth"):
        write("train.epochs=3")
    write("train.epochs=3", "train.rerun=true")
    assert read_planned(tmp_path) == ["wasi-1", "wasi-2"]
    for gone in (["dataset=image_folder", "dataset.root=gone"], ["model.weights=gone.safetensors"]):
        for again in ([], ["train.rerun=true"]):  # the job would replace the result by its failure
            with pytest.raises(UserError, match=rf"^{gone[-1]}: "):
                write(*gone, *again)


def test_a_job_s_folder_that_is_a_file_is_refused_before_the_first_job(tmp_path):
    (tmp_path / "vanilla-2").write_text("a file")
    words = ("hydra.sweep.subdir=vanilla-${seed}", f"hydra.sweep.dir={tmp_path}", "method=vanilla")
    with composed(*words) as config, read_write(config.hydra.sweeper):
        config.hydra.sweeper.params = {"seed": "1,2"}
        with pytest.raises(UserError, match=r"^hydra.sweep.subdir=.*vanilla-2: allowed is a folder; .* is a file$"):
            write_plan(tmp_path, config)
    assert [path.name for path in tmp_path.iterdir()] == ["vanilla-2"]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"jobs": null, "folders": 5}', '{"jobs": "two", "folders": null}', '{"folders": {}}']
)
def test_a_damaged_plan_is_none(tmp_path, content):
    (tmp_path / "sweep.json").write_text(content)
    assert read_plan(tmp_path) == 0 and read_planned(tmp_path) == []


def test_jobs_that_share_a_folder_of_the_other_command_s_default_name_are_refused(tmp_path):
    with composed("hydra.sweep.subdir=${job_folder:}", "method=vanilla") as config, read_write(config.hydra.sweeper):
        config.hydra.sweeper.params = {"train.save": "model,none"}
        with pytest.raises(UserError, match=r"^hydra.sweep.subdir=\${job_folder:}: .* several jobs have vanilla-"):
            write_plan(tmp_path, config, lambda cfg: cfg.train.save, "bench.json", "${bench_folder:}")
        write_plan(tmp_path, config, lambda cfg: cfg.train.save)


def test_results_of_the_other_command_are_in_no_one_s_way(tmp_path):
    with composed("hydra.sweep.subdir=here", f"hydra.sweep.dir={tmp_path}") as config:
        with read_write(config.hydra.sweeper):
            config.hydra.sweeper.params = {"seed": "1"}
        done = json.dumps({"fingerprint": "another", "status": "completed"})
        for own, other in (("bench.json", "result.json"), ("result.json", "bench.json")):
            (tmp_path / "here").mkdir(exist_ok=True)
            (tmp_path / "here" / other).write_text(done)
            write_plan(tmp_path, config, lambda cfg: "own", own)
            (tmp_path / "here" / own).write_text(done)
            with pytest.raises(UserError, match="which (train|bench).rerun=true gives up"):
                write_plan(tmp_path, config, lambda cfg: "own", own)
            (tmp_path / "here" / own).unlink()
            (tmp_path / "here" / other).unlink()


@pytest.mark.parametrize("name", ["num", "id"])
def test_hydra_s_own_names_of_folders_are_planned_too(name, tmp_path):
    with composed(f"hydra.sweep.subdir=${{hydra.job.{name}}}") as config:
        write_plan(tmp_path, config)
        assert read_planned(tmp_path) == [str(number) for number in range(8)]
        with read_write(config.hydra.launcher):
            config.hydra.launcher["_target_"] = "hydra_plugins.launchers.Joblib"
        write_plan(tmp_path, config)
    assert read_planned(tmp_path) == ([str(number) for number in range(8)] if name == "num" else [])


def test_one_name_in_several_folders_is_not_shared(tmp_path):
    with composed("hydra.sweep.subdir=${method.name}", f"hydra.sweep.dir={tmp_path}/${{seed}}") as config:
        with read_write(config.hydra.sweeper):
            config.hydra.sweeper.params = {"method": "vanilla", "seed": "1,2"}
        write_plan(tmp_path, config)
    assert read_planned(tmp_path) == ["vanilla"]


def test_a_folder_of_images_is_walked_once_for_all_jobs(tmp_path, monkeypatch):
    walks = []
    monkeypatch.setattr("wasi.data.image_folder.identity", lambda cfg_dataset: walks.append(cfg_dataset) or "absent")
    with composed("dataset=image_folder", f"dataset.root={tmp_path}") as config:
        write_plan(tmp_path / "sweep", config)
    assert len(read_planned(tmp_path / "sweep")) == 6 and len(walks) == 1


def test_what_makes_jobs_equal_is_the_caller_s_to_say(tmp_path):
    """As for benchmarks, whose options `bench.*` are in no run's fingerprint."""
    with composed("hydra.sweep.subdir=here", "method=vanilla") as config:
        with read_write(config.hydra.sweeper):
            config.hydra.sweeper.params = {"train.save": "model,none"}
        write_plan(tmp_path, config)
        assert read_planned(tmp_path) == ["here"]
        with pytest.raises(UserError, match="^hydra.sweep.subdir=here: "):
            write_plan(tmp_path, config, identity=lambda cfg: cfg.train.save)
