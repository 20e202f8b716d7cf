"""What the monitor writes down, against the definitions; and that training does not notice it."""

import copy
import csv

import pytest
import torch
from omegaconf import OmegaConf

from tests.small import METHODS, MODELS, applied, batch, build, method_options
from wasi.layers.activation import TuckerState, epsilon_ranks
from wasi.layers.autocast import autocast_forward
from wasi.layers.base import LowRankLayer
from wasi.linalg.rank import explained_rank
from wasi.linalg.tucker import expand
from wasi.training.gradient_checkpointing import checkpoint_blocks
from wasi.training.monitor import Monitor
from wasi.training.step import TrainStep

DOUBLE = torch.float64
LAYERS = {"torchvision_vit": 8, "timm_vit": 8, "swin": 16}


class Tracker:
    def __init__(self):
        self.logged = []

    def resume(self, step):
        pass

    def flush(self):
        pass

    def log(self, step, values):
        self.logged.append((step, values))


def monitor(model, folder, scope="all", epsilon=0.8, dtype=DOUBLE):
    rank = {"weight_epsilon": epsilon, "activation_epsilon": epsilon}
    cfg = OmegaConf.create({"method": {"scope": scope}, "rank": rank})
    return Monitor(model, [batch(dtype=dtype)], cfg, folder, Tracker())


def rows_of(folder):
    with open(folder / "monitor.csv", newline="") as file:
        return list(csv.DictReader(file))


def trained(model, steps=3, lr=0.2):
    step = TrainStep(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr), None)
    for seed in range(steps):
        step(*batch(seed=seed, dtype=next(model.parameters()).dtype))
    return model


def input_of(model, layer, images):
    seen = []
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model.eval()(images)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_of_every_method_has_its_row(name, method, tmp_path):
    model = applied(name, method, DOUBLE)
    watch = monitor(model, tmp_path)
    watch(0, 0)
    trained(model)
    watch(1, 3)
    rows = rows_of(tmp_path)
    assert [r["epoch"] for r in rows] == ["0"] * LAYERS[name] + ["1"] * LAYERS[name]
    modes = 4 if name == "swin" else 3
    matrices = [n for n, p in model.named_parameters() if p.requires_grad and p.dim() > 1]
    given = method_options(method)
    for row in rows:
        for mode in range(1, modes + 1):
            assert 0 < float(row[f"mode{mode}_variance"]) <= 1 + 1e-9
            assert int(row[f"mode{mode}_rank_at_threshold"]) >= 1
        assert (row["tucker_error"] != "") == ("activations" in given)
        assert (row["weight_rank"] != "") == ("weight_epsilon" in given)
        assert 0 <= float(row["angle_mean_deg"]) <= float(row["angle_max_deg"]) <= 90
        parent = row["layer"].rpartition(".")[0]  # packed attention's own weights have other names
        moves = row["epoch"] == "1" and any(name.startswith(f"{parent}.") for name in matrices)
        assert (float(row["angle_max_deg"]) > 1e-4) == moves
    (step0, first), (step1, _) = watch.tracker.logged
    assert (step0, step1) == (0, 3)
    assert first[f"monitor/{rows[0]['layer']}/rank_at_threshold"] == int(rows[0]["rank_at_threshold"])


@pytest.mark.parametrize("method", ["vanilla", "wasi", "lora", "svd_llm"])
def test_values_follow_their_definitions(method, tmp_path):
    model = applied("timm_vit", method, DOUBLE, scope="mlp", epsilon=0.7)
    name = "blocks.1.mlp.fc2"
    layer, images = model.get_submodule(name), batch(dtype=DOUBLE)[0]

    def weight():  # from the layer's outputs on the unit vectors
        with torch.no_grad():
            units = torch.eye(layer.in_features, dtype=DOUBLE)
            return (layer(units) - layer(0 * units)).mT

    before, x0 = weight(), input_of(model, layer, images)
    watch = monitor(model, tmp_path, "mlp", 0.7)
    trained(model)
    watch(1, 3)
    (row,) = [r for r in rows_of(tmp_path) if r["layer"] == name]
    now, x = weight(), input_of(model, layer, images)
    s = torch.linalg.svdvals(now)
    assert int(row["rank_at_threshold"]) == explained_rank(s.square(), 0.7)
    k = int(row["weight_rank"] or explained_rank(torch.linalg.svdvals(before).square(), 0.7))
    u0, u1 = (torch.linalg.svd(w)[0][:, :k] for w in (before, now))
    sines = torch.linalg.svdvals(u1 - u0 @ (u0.mT @ u1)).clamp(max=1)  # cosines of small angles are all rounding
    angles = torch.rad2deg(sines.asin())
    assert float(row["angle_max_deg"]) == pytest.approx(angles.max().item(), rel=1e-6)
    assert float(row["angle_mean_deg"]) == pytest.approx(angles.mean().item(), rel=1e-6)
    ranks = epsilon_ranks(x, 0.7, "cut")
    assert [int(row[f"mode{m}_rank_at_threshold"]) for m in (1, 2, 3)] == list(ranks)
    state = layer.state if method == "wasi" else TuckerState(x0, epsilon_ranks(x0, 0.7, "cut"))
    features = x @ state.feature_basis
    assert float(row["mode3_variance"]) == pytest.approx((features.square().sum() / x.square().sum()).item())
    if method == "wasi":
        error = (x - expand(*copy.deepcopy(state).compress(x))).norm() / x.norm()
        assert float(row["tucker_error"]) == pytest.approx(error.item())


@pytest.mark.parametrize("method", ["vanilla", "wasi"])
@pytest.mark.parametrize("name", MODELS)
def test_training_runs_on_as_if_it_were_not_there(name, method, tmp_path):
    model = applied(name, method)
    other = copy.deepcopy(model)
    trained(other, 4)
    watch = monitor(model, tmp_path, dtype=torch.float32)
    state = torch.get_rng_state()
    watch(0, 0)
    trained(model, 2)
    watch(1, 2)
    assert torch.equal(state, torch.get_rng_state())
    step = TrainStep(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.2), None)
    for seed in (2, 3):
        step(*batch(seed=seed))
    for (n, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), n
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["torchvision_vit", "swin"])
def test_a_library_model_with_checkpointing_is_seen_too(name, tmp_path):
    plain, model = build(name), build(name)
    checkpoint_blocks(model)
    tables = []
    for i, net in enumerate((plain, model)):
        (tmp_path / str(i)).mkdir()
        monitor(net, tmp_path / str(i), dtype=torch.float32)(0, 0)
        tables.append(rows_of(tmp_path / str(i)))
    assert tables[0] == tables[1] and len(tables[0]) == LAYERS[name]
    assert not any(isinstance(m, LowRankLayer) for m in model.modules())


def test_a_resumed_run_continues_its_file_and_a_fresh_one_starts_anew(tmp_path):
    model = applied("timm_vit", "wasi", DOUBLE)
    first = monitor(copy.deepcopy(model), tmp_path)
    for epoch in range(3):
        first(epoch, epoch)
    resumed = monitor(copy.deepcopy(model), tmp_path)
    resumed(2, 2)
    resumed(3, 3)
    assert [int(r["epoch"]) for r in rows_of(tmp_path)][:: LAYERS["timm_vit"]] == [0, 1, 2, 3]
    monitor(model, tmp_path)(0, 0)
    assert {r["epoch"] for r in rows_of(tmp_path)} == {"0"}


def test_a_layer_called_twice_has_two_rows(tmp_path):
    from tests.small import method as make

    model = build("timm_vit")
    model.blocks[1].mlp = model.blocks[0].mlp
    model = make("wasi", "mlp").apply(model, [batch()])
    monitor(model, tmp_path, "mlp", dtype=torch.float32)(0, 0)
    rows = [(r["layer"], r["call"]) for r in rows_of(tmp_path)]
    assert ("blocks.0.mlp.fc1", "0") in rows and ("blocks.0.mlp.fc1", "1") in rows


@pytest.mark.parametrize("method", ["vanilla", "wasi"])
def test_in_autocast_inputs_are_looked_at_in_float32(method, tmp_path):
    """They come in bfloat16, and shares of their variance in that type would be off by half a percent."""
    tables = []
    for narrow in (False, True):
        model, folder = applied("timm_vit", method), tmp_path / str(narrow)
        if narrow:
            autocast_forward(model, torch.bfloat16)
        folder.mkdir()
        monitor(model, folder, dtype=torch.float32)(0, 0)
        tables.append(rows_of(folder))
    for exact, found in zip(*tables, strict=True):
        shares = [key for key in exact if key.endswith("_variance") or (key == "tucker_error" and exact[key])]
        assert shares and all(float(found[key]) == pytest.approx(float(exact[key]), abs=5e-4) for key in shares)
