"""Weights from a .safetensors file into a model: head and position embedding fitted, the rest exact."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from wasi.errors import UserError

State = dict[str, torch.Tensor]
Adapter = Callable[[State, nn.Module], State]


def load_file(model: nn.Module, path: str | Path, head: str, adapt: Adapter) -> None:
    """Copy a file's tensors into `model` (in place, in the model's dtype).

    `head` is the prefix of the classifier's keys: absent, or of another class count, it stays as it is.
    `adapt` resamples what depends on the image size. Raises UserError naming `model.weights` otherwise.
    """
    state = _read(path)
    if any(key.endswith((".L", ".R")) for key in state):
        raise UserError("model.weights", path, "a file of dense weights; this one holds low-rank factors")
    assign(model, _without_foreign_head(state, model, head), path, head, adapt)


def assign(model: nn.Module, state: State, source, head: str, adapt: Adapter) -> None:
    """Copy `state` into `model` after `adapt`; keys and shapes must match, the head's keys may be missing."""
    own = model.state_dict()
    try:
        state = adapt(state, model)
    except (KeyError, RuntimeError, ValueError, AttributeError, AssertionError) as error:
        raise UserError("model.weights", source, f"a file of this model's tensors ({error})") from None
    missing = [key for key in own if key not in state and not key.startswith(f"{head}.")]
    extra = [key for key in state if key not in own]
    wrong = [key for key in state if key in own and state[key].shape != own[key].shape]
    if missing or extra or wrong:
        raise UserError("model.weights", source, _mismatch(own, state, missing, extra, wrong))
    with torch.no_grad():
        for key, value in state.items():
            own[key].copy_(value)


def _read(path: str | Path) -> State:
    """Tensors of a safetensors file, backed by the file's pages until they are copied."""
    file = Path(path).expanduser()
    allowed = "pretrained | random | surrogate | the path of a .safetensors file"
    if not file.is_file():
        raise UserError("model.weights", path, f"{allowed}; there is no such file")
    try:
        with safe_open(file, framework="pt") as handle:
            return {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError("model.weights", path, f"{allowed}; this file is not one ({error})") from None


def _without_foreign_head(state: State, model: nn.Module, head: str) -> State:
    own = model.state_dict()
    keys = [key for key in state if key.startswith(f"{head}.")]
    if all(key in own and own[key].shape == state[key].shape for key in keys):
        return state
    return {key: value for key, value in state.items() if key not in keys}


def _mismatch(own: State, state: State, missing: list[str], extra: list[str], wrong: list[str]) -> str:
    told = []
    if missing:
        told.append(f"{len(missing)} missing ({missing[0]})")
    if extra:
        told.append(f"{len(extra)} unknown ({extra[0]})")
    if wrong:
        k = wrong[0]
        told.append(f"{len(wrong)} of another shape ({k} is {[*state[k].shape]}, not {[*own[k].shape]})")
    return "a file with this model's tensors; " + ", ".join(told)
