"""What a sweep's name may be, and what counts as swept over."""

import re

import pytest
from omegaconf import OmegaConf

from wasi.config.sweep_options import sweep_name, swept_options
from wasi.errors import UserError


@pytest.mark.parametrize("name", ["a/b", "", ".hidden", "..", "a b", "a,b", "a\nb", None, True, ["a"], "ä", "-m"])
def test_not_a_name(name):
    with pytest.raises(UserError, match="^sweep="):
        sweep_name(OmegaConf.create({"sweep": name}))


@pytest.mark.parametrize("name", ["first", "2026-01-02_03-04-05", "a.b", 7, 1.5])
def test_a_name(name):
    assert sweep_name(OmegaConf.create({"sweep": name})) == str(name)


def test_several_names_are_refused():
    with pytest.raises(UserError, match="several"):
        sweep_name(OmegaConf.create({"sweep": "kept"}), swept={"sweep"})


def test_swept_options():
    hydra_cfg = OmegaConf.create(
        {
            "sweeper": {"params": {"method": "vanilla,wasi", "rank": "eps_0.4,eps_0.8", "seed": 1}},
            "overrides": {"task": ["rank=eps_0.4", "optimizer.lr=0.1,0.2", "seed=range(3)", "train.epochs=1"]},
        }
    )
    assert swept_options(hydra_cfg) == {"method", "optimizer.lr", "seed"}


@pytest.mark.parametrize("given", ["range(1,2,0)", "range(0.1,0.2,0)"])
def test_a_range_without_a_step_is_refused(given):
    hydra_cfg = OmegaConf.create({"sweeper": {}, "overrides": {"task": [f"train.epochs={given}"]}})
    with pytest.raises(UserError, match=rf"^train.epochs={re.escape(given)}: allowed is range\(FROM, TO, STEP\) with"):
        swept_options(hydra_cfg)
