"""Weights in a mapped file: the same numbers, and no memory while nobody looks at them."""

import mmap
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from tests import small
from wasi.data.spec import InputSpec
from wasi.measure.rss import current_rss_mib
from wasi.methods import moments
from wasi.models import mapped
from wasi.models.build import build_model
from wasi.models.mapped import into_memory, mapped_weights, release_pages
from wasi.models.structure import find_blocks

linux = pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="pages are given back on Linux")
SPEC = InputSpec(32, (0.5,) * 3, (0.2,) * 3, "bilinear")


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(mapped, "_SMALLEST", 1)


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", small.MODELS)
@pytest.mark.parametrize("method", ["vanilla", "wasi", "svd_llm", "lora"])
def test_a_method_finds_the_same_to_the_last_bit(name, method):
    with mapped_weights():
        ours = mapped.release_pages_after_each_block(small.build(name))
    assert any(hasattr(p, "mapping") for p in ours.parameters())
    theirs = small.build(name)
    images, labels = small.batch()
    ours = into_memory(small.method(method).apply(ours, [(images, labels)]))
    theirs = small.method(method).apply(theirs, [(images, labels)])
    assert not any(hasattr(p, "mapping") for p in ours.parameters()) and equal(ours, theirs)
    results = []
    for model in (ours, theirs):
        torch.nn.functional.cross_entropy(model.train()(images), labels).backward()
        results.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@linux
@pytest.mark.parametrize("method, options", [
    ("wasi", {"init": "output"}),
    ("wasi", {"init": "features"}),
    ("wsi", {"init": "features", "weight_allocation": "sensitivity"}),
    ("svd_llm", {}),
])  # fmt: skip
def test_sums_over_calibration_data_in_a_file_are_the_same_to_the_last_bit(method, options, monkeypatch):
    def factors():
        model = small.build("timm_vit")
        return small.method(method, calibration_batches=2, **options).apply(model, [small.batch(20), small.batch(9)])

    theirs, taken = factors(), []
    monkeypatch.setattr(mapped, "SUMS_FROM", 1)
    monkeypatch.setattr(moments, "in_file", lambda sums: taken.append(mapped.in_file(sums)) or taken[-1])
    assert equal(factors(), theirs)
    assert taken and all(hasattr(sums, "mapping") for sums in taken if sums.dim() == 2)


def resident_of_unnamed_files() -> float:
    """MiB of this process's memory that are pages of files without a name."""
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.split(" ")[0].endswith(":"):
            counts = line.endswith("(deleted)")
        elif counts and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total / 1024


@linux
def test_sums_in_a_file_take_memory_only_while_they_are_added_to():
    seen, rows = [moments.Moments() for _ in range(8)], torch.ones(2, 2**11, dtype=torch.float64)
    before = resident_of_unnamed_files()
    for _ in range(2):
        for each in seen:
            each.add(rows)
    assert all(hasattr(each._square, "mapping") for each in seen)
    assert resident_of_unnamed_files() - before < 1
    seen[0]._square.add_(0)
    assert 31 < resident_of_unnamed_files() - before < 33  # it is what is counted
    assert all(torch.equal(each.second, torch.ones(2**11, 2**11, dtype=torch.float64)) for each in seen)
    assert resident_of_unnamed_files() - before < 1


@pytest.mark.parametrize("weights", ["random", "surrogate", "file"])
def test_weights_from_anywhere_are_the_same(weights, tmp_path):
    cfg = {"name": "vit_micro", "library": "wasi", "weights": weights}
    if weights == "file":
        cfg["weights"] = str(tmp_path / "weights.safetensors")
        model = build_model(OmegaConf.create({**cfg, "weights": "random"}), 3, SPEC, seed=5)
        save_file(model.state_dict(), cfg["weights"])
    cfg = OmegaConf.create(cfg)
    assert equal(build_model(cfg, 3, SPEC, seed=1, mapped=True), build_model(cfg, 3, SPEC, seed=1))


@linux
def test_weights_take_room_only_while_they_are_read():
    with mapped_weights():
        before = current_rss_mib()
        layers = [torch.nn.Linear(2048, 2048, bias=False) for _ in range(8)]  # 16 MiB each
    assert current_rss_mib() - before < 20
    sums = [float(layer.weight.detach().sum()) for layer in layers]
    assert current_rss_mib() - before > 100
    release_pages([layer.weight for layer in layers])
    assert current_rss_mib() - before < 20
    assert sums == [float(layer.weight.detach().sum()) for layer in layers]


def test_a_block_releases_its_pages_after_its_forward_pass_until_weights_are_in_memory(monkeypatch):
    with mapped_weights():
        model = mapped.release_pages_after_each_block(small.build("timm_vit"))
    gone = []
    monkeypatch.setattr(mapped, "release_pages", lambda parameters: gone.append({id(p) for p in parameters}))
    images, _ = small.batch()
    model(images)
    assert gone == [{id(p) for p in block.parameters()} for block in find_blocks(model).values()]
    into_memory(model)
    gone.clear()
    model(images)
    assert gone == []


@pytest.mark.parametrize("owner, name", [(mapped.os, "posix_fallocate"), (mapped.tempfile, "TemporaryFile")])
def test_a_full_disk_makes_them_ordinary(owner, name, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(owner, name, full)
    with mapped_weights():
        layer = torch.nn.Linear(8, 8)
    assert not hasattr(layer.weight, "mapping") and layer.weight.isfinite().all()


def test_shared_parameters_stay_shared():
    with mapped_weights():
        first, second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        second.weight = first.weight
    assert second.weight is first.weight
