"""Chunk and segment size from a budget for the whole process: what is picked, what is refused, what it is told by."""

import json
import logging
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves

from wasi.config.fingerprint import fingerprint
from wasi.config.validate import validate
from wasi.errors import UserError
from wasi.models.input_spec import input_spec
from wasi.models.micro import vit_micro
from wasi.training import budget as budget_module
from wasi.training.budget import OPTION, _trained, apply_budget, model_sizes, process_mib
from wasi.training.build_step import build_step

SMALL = ["model=vit_micro", "dataset=synthetic", "model.weights=random", "dataset.train_size=64", "method=wasi"]
LEAN = [*SMALL, "train.memory=lean", "dataset.batch_size=64", "rank=eps_0.8", "method.scope=all"]
RESIDENT = 500.0
ROOT = Path(__file__).resolve().parents[2]
WATCH = """
import os, subprocess, sys
_, status, used = os.wait4(subprocess.Popen(sys.argv[1:]).pid, 0)
print(used.ru_maxrss)  # KiB; a child forked by a larger process, such as pytest, would be told with that one's peak
sys.exit(status != 0)
"""


@pytest.fixture
def configured(compose_config):
    return lambda budget, *more: compose_config(*LEAN, f"{OPTION}={budget}", *more)


@pytest.fixture
def one_outline(configured, monkeypatch):
    """The outline is made once, and budgets alone differ: what it takes is a forward pass of the model."""
    cfg = configured(4000)
    sizes = model_sizes(cfg, input_spec(cfg.model, None))
    monkeypatch.setattr(budget_module, "model_sizes", lambda *_: sizes)
    return cfg, sizes


def picked(cfg) -> tuple[int, int, float]:
    expected = apply_budget(cfg, input_spec(cfg.model, None), lambda: RESIDENT)["memory/expected_process_mib"]
    return cfg.train.chunk_size, cfg.train.segment_size, expected


def test_outline_counts_what_the_model_has(configured):
    cfg = configured(1000)
    sizes = model_sizes(cfg, input_spec(cfg.model, None))
    tokens, width = 7 * 7 + 1, 96
    assert len(sizes.blocks) == 4 and set(sizes.blocks) == {tokens * width * (1 + 3 + 1 + 1 + 1 + 4 + 4 + 1)}
    assert (sizes.passing, sizes.widest, sizes.image) == (tokens * width, tokens * 4 * width, 3 * 28**2)
    assert sum(o * i for o, i in sizes.scope) == 4 * 12 * width**2


def test_what_lean_keeps_is_an_input_for_each_segment(one_outline):
    cfg, sizes = one_outline
    twelve = replace(sizes, blocks=sizes.blocks * 3)
    a, b = (budget_module._training(cfg, twelve, 1, size) for size in (1, 2))
    inside = budget_module._HOLES * 4 * max(sizes.blocks)
    assert a - b == pytest.approx(cfg.dataset.batch_size * sizes.passing * 2 * (12 - 8) - inside)


def test_a_wide_budget_changes_nothing_of_the_defaults_and_a_tight_one_is_kept(one_outline, caplog):
    cfg, sizes = one_outline

    def within(budget: float):
        changed = cfg.copy()
        changed.train.memory_budget_mib = budget
        return picked(changed)

    with caplog.at_level(logging.INFO):
        assert within(4000)[:2] == (16, 2)
    assert "train.chunk_size=16 train.segment_size=2, expected" in caplog.text
    every = {process_mib(cfg, sizes, c, s, RESIDENT) for c in (16, 8, 4, 2, 1) for s in (1, 2, 3, 4, 6)}
    for budget in sorted(every):
        chunk, segment, expected = within(budget)
        assert expected <= budget and expected == process_mib(cfg, sizes, chunk, segment, RESIDENT)


def test_what_cannot_fit_is_refused_with_the_least_that_would_do(configured):
    with pytest.raises(UserError, match=rf"{OPTION}=50: allowed is at least \d+") as refusal:
        picked(configured(50))
    least = int(str(refusal.value).split("at least ")[1].split(",")[0])
    with pytest.raises(UserError):
        picked(configured(least - 1))
    assert picked(configured(least))[2] == least


@pytest.mark.parametrize(("measure", "printed"), [("full", True), ("fast", True), ("none", False)])
def test_measurements_outside_the_budget_are_told(configured, caplog, measure, printed):
    picked(configured(4000, f"train.measure={measure}"))
    assert (f"train.measure={measure} may take more than that" in caplog.text) is printed


def test_sizes_that_are_given_stay(configured):
    cfg = configured(4000, "train.chunk_size=3")
    assert picked(cfg)[:2] == (3, 2)


@pytest.mark.parametrize("more", [["method=vanilla"], ["method=lora"], ["method=svd_llm"], ["optimizer=adamw"],
                                  ["method=linear_probe"], ["rank=full"]])  # fmt: skip
def test_every_method_has_an_expectation_above_the_process_it_starts_from(configured, more):
    assert picked(configured(4000, *more))[2] > RESIDENT


def test_a_tuner_of_peft_counts_its_adapters_and_not_the_weights_that_it_leaves_alone(configured):
    def expected(*more):
        cfg = configured(4000, "method=peft", "optimizer=adamw", *more)
        return process_mib(cfg, model_sizes(cfg, input_spec(cfg.model, None)), 1, 1, RESIDENT)

    # of a ViT whose weights are large against everything else
    large = ["model=vit_b_32", "dataset.image_size=32", "dataset.batch_size=1"]
    given, default = expected(*large, "method.lora_rank=8"), expected(*large)
    assert default == given < expected(*large, "method.lora_rank=64")
    assert given <= expected(*large, "method.type=adalora") < given * 1.02
    assert default - RESIDENT < 2 * 88e6 * 4 / 2**20  # less than the dense weights and as much once more


def test_what_a_step_keeps_for_the_next_counts(configured):
    """`B` has as many columns as the feature basis, at most the layer's rank."""
    found = []
    for preconditioner in ("step", "basis"):
        cfg = configured(4000, "model=vit_b_32", "optimizer=swan", f"rank.preconditioner={preconditioner}")
        found.append(process_mib(cfg, model_sizes(cfg, input_spec(cfg.model, None)), 1, 1, RESIDENT))
    assert found[0] < found[1] < found[0] + 48 * 4 * 768**2 / 2**20


@pytest.mark.parametrize("optimizer, package", [("galore", "galore_torch"), ("apollo", "apollo_torch")])
def test_moments_in_a_subspace_count_there_and_whole_outside(optimizer, package, configured):
    """Against the state that the package's optimizer really holds after a step."""
    pytest.importorskip(package)
    words = [f"optimizer={optimizer}", "method=vanilla", "method.scope=mlp", "optimizer.rank=4"]
    cfg = configured(4000, *words)
    sizes = model_sizes(cfg, input_spec(cfg.model, None))
    model = vit_micro(28, 200)  # of as many classes as the outline
    step = build_step(model, lambda x: x, cfg)
    step(torch.randn(2, 3, 28, 28), torch.tensor([0, 1]))
    numbers = sum(p.numel() for p in model.parameters())
    state = sum(t.nbytes for s in step.optimizer.state.values() for t in tree_leaves(s) if isinstance(t, torch.Tensor))
    assert 0.95 < _trained(cfg, sizes) / (4 * numbers + state) < 1.1


@pytest.mark.parametrize(
    "target, options, states",
    [
        ("SGD", {}, 0),
        ("SGD", {"momentum": 0.9}, 1),
        ("RMSprop", {}, 1),
        ("RMSprop", {"momentum": 0.9, "centered": True}, 3),
        ("Adagrad", {}, 1),
        ("NAdam", {}, 2),
        ("RAdam", {}, 2),
        ("AdamW", {"amsgrad": True}, 3),
        ("Adamax", {}, 2),
    ],
)
def test_the_state_of_any_optimizer_of_torch_is_bounded(target, options, states, configured):
    cfg = configured(1000, "method=vanilla", "optimizer=adamw", "optimizer.head_lr_ratio=1")
    cfg.optimizer = {"_target_": f"torch.optim.{target}", "lr": 1e-3, **options}
    sizes = model_sizes(cfg, input_spec(cfg.model, None))
    weight = torch.nn.Parameter(torch.ones(8, 8))
    optimizer = getattr(torch.optim, target)([weight], lr=1e-3, **options)
    weight.square().sum().backward()
    optimizer.step()
    assert sum(t.numel() for t in tree_leaves(optimizer.state) if torch.is_tensor(t) and t.dim()) == 64 * states
    numbers = sizes.rest + sum(o * i for o, i in sizes.scope)
    assert _trained(cfg, sizes) / (4 * numbers) >= 1 + states


def test_set_up_counts_second_moments_of_the_narrower_side_of_each_weight(configured, monkeypatch):
    def expected(*more):
        cfg = configured(4000, "method=wsi", "model=vit_b_32", "dataset.image_size=32", "dataset.batch_size=1", *more)
        return process_mib(cfg, model_sizes(cfg, input_spec(cfg.model, None)), 1, 1, RESIDENT)

    def each():
        return [expected(f"method.init={init}") for init in ("svd", "output", "features")]

    moments = 48 * 8 * 768**2 / 2**20  # float64
    in_a_file = each()
    monkeypatch.setattr(budget_module, "SUMS_FROM", 2**40)
    bare, output, features = each()
    assert bare < output < features and 0.9 * moments < features - output < 1.3 * moments
    assert in_a_file[0] == bare and max(in_a_file) < bare + 0.2 * moments  # those of one layer


def test_momentum_of_swan_is_its_gradient_and_counted_once(configured):
    """Against the bytes that a step really leaves."""
    cfg = configured(4000, "method=vanilla", "method.scope=all", "optimizer=swan_momentum")
    sizes = model_sizes(cfg, input_spec(cfg.model, None))
    step = build_step(vit_micro(28, 200), lambda x: x, cfg)
    step(torch.randn(2, 3, 28, 28), torch.tensor([0, 1]))
    state = sum(t.nbytes for s in step.optimizer.state.values() for t in tree_leaves(s) if isinstance(t, torch.Tensor))
    assert 0.95 < _trained(cfg, sizes) / (4 * sizes.rest + state) < 1.1
    momentum, none = configured(4000, "optimizer=swan_momentum"), configured(4000, "optimizer=swan")
    assert _trained(momentum, sizes) == _trained(none, sizes)


def test_a_vit_b_32_is_fine_tuned_on_photos_within_1000_mib(compose_config):
    """The libraries of torch's CUDA build take 590 of them."""
    chosen = ["experiment=photos", "model=vit_b_32", "dataset=image_folder", "dataset.batch_size=32"]
    cfg = compose_config(*chosen, "dataset.root=photos", "model.weights=surrogate", f"{OPTION}=1000")
    expected = apply_budget(cfg, input_spec(cfg.model, None), lambda: 590.0)["memory/expected_process_mib"]
    assert 900 < expected <= 1000


def test_processes_that_load_data_count_with_what_they_keep_of_this_one(configured):
    def expected(workers):
        cfg = configured(4000, "dataset=image_folder", f"dataset.num_workers={workers}")
        return process_mib(cfg, model_sizes(cfg, input_spec(cfg.model, None)), 1, 1, RESIDENT)

    assert expected("null") == expected(0)
    assert expected(1) - expected(0) > 2 * 24 and expected(2) - expected(1) > 2 * 24  # training and validation


def test_images_that_are_made_on_the_fly_are_not_counted(configured):
    assert picked(configured(4000, "dataset.train_size=100000")) == picked(configured(4000))


def test_it_goes_with_lean_and_counts_towards_a_runs_identity(compose_config):
    with pytest.raises(UserError, match=f"{OPTION}=900: allowed is null with train.memory=plain"):
        validate(compose_config(*SMALL, f"{OPTION}=900"))
    with pytest.raises(UserError, match=f"{OPTION}=0"):
        validate(compose_config(*LEAN, f"{OPTION}=0"))
    assert fingerprint(compose_config(*LEAN, f"{OPTION}=900")) != fingerprint(compose_config(*LEAN))


def test_a_process_takes_what_was_expected(tmp_path):
    """Seen from outside, from its start to its end."""
    options = [*LEAN, f"{OPTION}=4000", "optimizer=swan", "train.clip_norm=null", "dataset.val_size=64"]
    small = ["dataset.test_size=64", "train.epochs=1", "train.measure=none", "train.save=none", "logger=none"]
    words = [sys.executable, ROOT / "train.py", "hydra.mode=RUN", f"hydra.run.dir={tmp_path / 'run'}", *options, *small]
    done = subprocess.run([sys.executable, "-c", WATCH, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak_mib = float(done.stdout.split()[-1]) / 1024
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    expected = metrics["memory/expected_process_mib"]
    assert 0.8 * expected < peak_mib < 1.05 * expected
    printed = re.search(r"trained in (\d+) MiB, the resident peak", (tmp_path / "run" / "train.log").read_text())
    assert printed and float(printed[1]) == pytest.approx(peak_mib, rel=0.02)
    assert metrics["memory/process_rss_peak_mib"] == pytest.approx(peak_mib, rel=0.02)
