"""How many jobs a command line asks for."""

import pytest
from omegaconf import OmegaConf

from wasi.runs.plan import read_plan, write_plan


def _hydra(task, params=None, sweeper="hydra._internal.BasicSweeper.BasicSweeper"):
    return OmegaConf.create({"sweeper": {"_target_": sweeper, "params": params}, "overrides": {"task": task}})


@pytest.mark.parametrize(
    ("task", "params", "jobs"),
    [
        (["method=vanilla,wasi", "seed=range(0,3)", "train.epochs=2"], None, 6),
        (["seed=1"], {"seed": "1,2,3", "recipe": "a,b"}, 2),
        (["model=vit_micro"], None, 1),
    ],
)
def test_the_product_of_what_is_swept(tmp_path, task, params, jobs):
    write_plan(tmp_path / "sweep", _hydra(task, params))
    assert read_plan(tmp_path / "sweep") == jobs


def test_a_sweeper_that_chooses_as_it_goes_has_no_number(tmp_path):
    write_plan(tmp_path, _hydra(["seed=1,2"], sweeper="hydra_plugins.tuned_sweeper.TunedSweeper"))
    assert read_plan(tmp_path) == 0 and not list(tmp_path.iterdir())
