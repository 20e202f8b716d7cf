"""AdaLoRA of Hugging Face's peft: its steps are those of peft's own training loop, and survive a checkpoint."""

import io
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from tests.small import batch, build
from wasi.errors import UserError
from wasi.methods.adalora import distance_from_orthogonal, phases
from wasi.models.modes import eval_mode
from wasi.training.optimizer import optimizer_for
from wasi.training.step import TrainStep
from wasi.training.swan import Swan

peft = pytest.importorskip("peft")

from wasi.methods.peft import Peft  # noqa: E402

TOTAL = 8
OPTIONS = {"train_rest": False, "lora_rank": 2, "lora_alpha": 4, "block_size": None, "calibration_batches": 1}


def adalora(scope="all", **options):
    return Peft("peft", scope, type="adalora", seed=0, **OPTIONS | options)


def stepper(method, total=TOTAL, name="timm_vit", kind=torch.optim.AdamW, **options):
    model = method.apply(build(name), [])
    optimizer = kind([p for p in model.parameters() if p.requires_grad], lr=0.01)
    step = method.wrap_step(TrainStep(model, optimizer, None, **options))
    step.total_steps = total
    return step


def singular_values(model):
    return {n: p for n, p in model.named_parameters() if ".lora_E." in n}


@pytest.mark.parametrize(("tinit", "tfinal"), [(None, None), (2, 3), (0, 0)])
def test_a_training_is_that_of_pefts_own_loop(tinit, tfinal):
    """peft's model around one that computes its own loss, as transformers' do, in the loop of peft's documentation."""
    step = stepper(adalora(tinit=tinit, tfinal=tfinal, orth_reg_weight=0.3))
    theirs = adalora(orth_reg_weight=0.3)
    model = theirs.apply(build("timm_vit"), [])
    images, labels = batch()
    tuner, forward = theirs._tuner, model.forward
    model.forward = lambda x: SimpleNamespace(loss=F.cross_entropy(forward(x), labels))
    config = tuner.peft_config["default"]
    config.total_step = TOTAL
    config.tinit, config.tfinal = phases(TOTAL, tinit, tfinal)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for number in range(1, TOTAL + 1):
        step(images, labels)
        model.train()
        tuner.forward(images).loss.backward()
        optimizer.step()
        tuner.update_and_allocate(number)
        optimizer.zero_grad()
        for (name, ours), (_, other) in zip(step.model.named_parameters(), model.named_parameters(), strict=True):
            assert torch.allclose(ours, other, rtol=1e-4, atol=1e-6), (number, name)


def test_ranks_end_at_their_mean_stay_there_and_merge():
    method = adalora()
    step, (images, labels) = stepper(method), batch()
    starts = [step(images, labels).loss for _ in range(TOTAL - 1)]
    zero = {name: p == 0 for name, p in singular_values(step.model).items()}
    step(images, labels)
    assert starts[-1] < starts[0]
    kept = sum(int(p.count_nonzero()) for p in singular_values(step.model).values())
    assert kept == 2 * len(zero)
    assert all(torch.equal(p == 0, zero[name]) for name, p in singular_values(step.model).items())
    assert len({int(z.sum()) for z in zero.values()}) > 1  # linears have ranks of their own
    with eval_mode(step.model):
        unmerged = step.model(images)
        with method.deployed(step.model):
            assert torch.allclose(step.model(images), unmerged, atol=1e-5)


@pytest.mark.parametrize("package", ["torch", "bitsandbytes"])  # the second calls no hooks when it loads a state
@pytest.mark.parametrize("at", [1, 3, 6])  # while the budget is whole, falls, has fallen
def test_a_resumed_training_is_the_same_bit_for_bit(at, package):
    kind = torch.optim.AdamW if package == "torch" else pytest.importorskip(package).optim.AdamW8bit
    images, labels = batch()
    whole, part, resumed = (stepper(adalora(tinit=1, tfinal=4), kind=kind) for _ in range(3))
    for _ in range(at):
        whole(images, labels), part(images, labels)
    resumed.model.load_state_dict(part.model.state_dict())
    file = io.BytesIO()
    torch.save(part.optimizer.state_dict(), file)
    file.seek(0)
    resumed.optimizer.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(TOTAL - at):
        assert whole(images, labels) == resumed(images, labels)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_without_a_training_and_after_it_steps_cost_what_the_dearest_do():
    images, labels = batch()
    measured, trained = stepper(adalora(), total=None), stepper(adalora())
    for _ in range(TOTAL + 1):
        measured(images, labels), trained(images, labels)
    for step in (measured, trained):
        parameter = next(iter(singular_values(step.model).values()))
        assert {"ipt", "exp_avg_ipt", "exp_avg_unc"} < step.optimizer.state[parameter].keys()


def test_the_distance_is_zero_for_orthonormal_rows_only():
    model = adalora().apply(build("timm_vit"), [])
    assert distance_from_orthogonal(model) > 1
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            torch.nn.init.orthogonal_(parameter)
    assert distance_from_orthogonal(model) < 1e-5


@pytest.mark.parametrize(
    ("total", "tinit", "tfinal", "named"),
    [(1, None, None, "method.tfinal"), (10, 9, 1, "method.tinit=9"), (10, None, 9, "method.tfinal=9")],
)
def test_a_training_too_short_for_its_phases_is_refused(total, tinit, tfinal, named):
    with pytest.raises(UserError, match=named):
        stepper(adalora(tinit=tinit, tfinal=tfinal), total)(*batch())


@pytest.mark.parametrize("total", range(2, 12))
def test_defaults_fit_any_training_of_two_steps_or_more(total):
    step = stepper(adalora("mlp"), total)
    for _ in range(total):
        step(*batch())
    assert sum(int(p.count_nonzero()) for p in singular_values(step.model).values()) == 2 * 4


def test_an_initial_rank_that_leaves_nothing_to_allocate_is_refused():
    with pytest.raises(UserError, match="method.init_rank=2"):
        adalora(init_rank=2)


def test_the_penalty_counts_once_whatever_the_micro_batches():
    whole, parts = stepper(adalora()), stepper(adalora(), micro_batch_size=2)
    for _ in range(3):
        whole(*batch()), parts(*batch())
    for (name, ours), theirs in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5), name


def test_an_optimizer_that_lets_go_of_gradients_is_refused():
    method = adalora()
    model = method.apply(build("timm_vit"), [])
    optimizer = optimizer_for(model, Swan, lr=0.01)
    with pytest.raises(UserError, match="optimizer=swan"):
        method.wrap_step(TrainStep(model, optimizer, None))
