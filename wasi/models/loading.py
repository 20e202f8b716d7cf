"""Load weights from a .safetensors file into a model whose head and image size may differ."""

from collections.abc import Callable, Collection
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from wasi.errors import UserError, first_line
from wasi.models.mapped import release_pages
from wasi.models.weights_file import tensor_shapes, weights_path

State = dict[str, torch.Tensor]
Adapter = Callable[[State, nn.Module], State]


def load_file(model: nn.Module, path: str | Path, heads: tuple[str, ...], adapt: Adapter) -> None:
    """Copy a file's tensors into `model`, in place and in the model's dtype.

    Args:
        heads: prefixes of the classifier's keys. A classifier that is absent from the file, or has another number of
            classes there, is left as it is in `model`.
        adapt: the library's conversion of a state dict, as for another image size; used if shapes or keys differ.

    Raises:
        UserError: of `model.weights`, for any other difference, and for a path that is no safetensors file.
    """
    tensor_shapes(path)  # raises for what is no weights file, before tensors are read
    load_state(model, read_state(path, "model.weights"), path, heads, adapt)


def read_state(source: str | Path, option: str) -> State:
    """Return the tensors of a safetensors file or of a run's model. Raises UserError (of `option`) if it is damaged."""
    try:
        with safe_open(weights_path(source), framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(option, source, f"a whole safetensors file; this one is damaged ({error})") from None


def load_state(model: nn.Module, state: State, source, heads: tuple[str, ...], adapt: Adapter) -> None:
    """As `load_file`, from tensors in memory; `source`, the value of `model.weights`, is named in errors."""
    targets = model.state_dict(keep_vars=True)
    shapes = {key: target.shape for key, target in targets.items()}
    state = _without_foreign_head(state, shapes, heads)
    try:
        state = state if _fits(state, shapes) else adapt(state, model)
    except (KeyError, RuntimeError, ValueError, AttributeError, AssertionError, IndexError) as error:
        raise _foreign(source, f"it does not fit ({first_line(error)})") from None
    wrong = [key for key in state if key in shapes and state[key].shape != shapes[key]]
    if wrong:
        key = wrong[0]
        raise _foreign(source, f"{key} is {[*state[key].shape]} there and {[*shapes[key]]} in the model")
    missing = [key for key in shapes if key not in state and not key.startswith(heads)]
    unknown = [key for key in state if key not in shapes]
    if missing or unknown:
        differences = [_count(missing, "missing"), _count(unknown, "unknown")]
        raise _foreign(source, ", ".join(t for t in differences if t))
    with torch.no_grad():
        for key, value in state.items():
            targets[key].copy_(value)
            release_pages([targets[key]])  # pages of memory-mapped weights are released one tensor at a time


def _without_foreign_head(state: State, shapes: dict[str, torch.Size], heads: tuple[str, ...]) -> State:
    """Drop the classifier from `state` unless all its shapes are the model's."""
    keys = {key for key in state if key.startswith(heads)}
    if all(shapes.get(key) == state[key].shape for key in keys):
        return state
    return {key: value for key, value in state.items() if key not in keys}


def _fits(state: State, shapes: dict[str, torch.Size]) -> bool:
    return all(shapes.get(key) == value.shape for key, value in state.items())


def _foreign(source, difference: str) -> UserError:
    return UserError("model.weights", source, f"a file of this model's tensors; {difference}")


def _count(keys: Collection[str], what: str) -> str:
    return f"{len(keys)} {what} ({next(iter(keys))})" if keys else ""
