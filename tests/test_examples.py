"""The examples in docstrings give what stands below them."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "wasi").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_an_example_gives_what_stands_below_it(name):
    if name.startswith("wasi.dashboard"):
        pytest.importorskip("wandb_workspaces")
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed
