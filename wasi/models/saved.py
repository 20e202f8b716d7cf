"""Save and open a trained model as one safetensors file, for any method.

Of each linear layer that a method replaced, the file holds what inference needs: two factors `NAME.L` and `NAME.R`
(and `NAME.bias`), or one dense weight, with adapters merged. Dense tensors have the library's own keys. The header
(`ModelHeader`) is JSON in the file's metadata. What only training uses, such as activation bases, is not saved:
training that starts from the file computes it on its own data.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wasi.atomic import replacing_from_folder
from wasi.errors import UserError, one_line
from wasi.layers.base import LowRankLayer
from wasi.models.attention import CosineWindowAttention
from wasi.models.factor_pair import FactorPair
from wasi.models.header import METADATA_KEY, ModelHeader
from wasi.models.loading import State, read_state
from wasi.models.outline import outline, unpacked_names
from wasi.models.weights_file import RUN, run_header


def save_model(path: Path, model: nn.Module, header: ModelHeader) -> None:
    """Write the trained `model` to `path` atomically, by renaming a temporary file."""
    metadata = {METADATA_KEY: header.to_json()}  # a single key, as safetensors writes several in no fixed order
    with replacing_from_folder(path) as temporary:
        save_file(separate(inference_state(model, header)), temporary, metadata)


@torch.no_grad()
def inference_state(model: nn.Module, header: ModelHeader) -> State:
    """Return the tensors that the file of `model` holds, by their keys; some share memory with the model."""
    layers = {n: m for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, LowRankLayer)}
    # Only replaced attention has other names: of torchvision's models with low-rank layers, and always of its Swin v2.
    renamed = layers or any(isinstance(module, CosineWindowAttention) for module in model.modules())
    names = unpacked_names(outline(header), "all") if renamed else {}
    inside = tuple(f"{name}." for name in layers)
    state = {names.get(key, key): value for key, value in model.state_dict().items() if not key.startswith(inside)}
    for name, layer in layers.items():
        factors = layer.weight_factors()
        kinds = ("weight",) if len(factors) == 1 else ("L", "R")
        tensors = dict(zip(kinds, factors, strict=True))
        if (bias := getattr(layer, "bias", None)) is not None:
            tensors["bias"] = bias
        for kind, tensor in tensors.items():
            key = f"{name}.{kind}"
            state[names.get(key, key) if len(factors) == 1 else key] = tensor.detach()
    return state


def separate(state: State) -> State:
    """Return the tensors contiguous and without shared storages, as safetensors requires; copies only where needed."""
    seen: set[int] = set()

    def own(tensor: Tensor) -> Tensor:
        tensor = tensor.contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        return tensor

    return {key: own(value) for key, value in state.items()}


def open_model(run: str | Path) -> tuple[nn.Module, ModelHeader]:
    """Return the trained model in a run's folder or model file, for inference, and its header.

    The model is the library's, on the CPU in evaluation mode, with a `FactorPair` for each factored layer.

    Raises:
        UserError: of `RUN`, if there is no run's model, or if the installed library does not know the architecture or
            builds it with other tensors.
    """
    header = run_header(run)
    state = read_state(run, RUN)
    try:
        model = outline(header)
        if factored := factored_layers(header, state):
            state = _by_unpacked_name(state, unpacked_names(model, header.scope))
            for name in factored:
                _put_pair(model, name, state)
        model.load_state_dict(state, strict=True, assign=True)
    except Exception as error:  # a library meets a header that does not fit with exceptions of many types
        reason = one_line(error)[:200]
        allowed = f"a model that this {header.library} builds as {header.architecture}; {reason}"
        raise UserError(RUN, run, allowed) from error
    return model.eval().requires_grad_(False).float(), header  # a copy of the file may have been made in float16


def dense_state(header: ModelHeader, state: State) -> State:
    """Return the file's `state` by the library's own keys, with each pair of factors multiplied."""
    factored = factored_layers(header, state)
    if not factored:
        return state
    names = unpacked_names(outline(header), header.scope)
    state = _by_unpacked_name(state, names)
    for name in factored:  # one at a time, so that few layers exist in both forms at once
        state[f"{name}.weight"] = state.pop(f"{name}.L") @ state.pop(f"{name}.R")
    return {names.get(key, key): value for key, value in state.items()}


def factored_layers(header: ModelHeader, state: State) -> list[str]:
    """Return the names of the layers that the file's `state` holds as two factors."""
    names = (layer["name"] for layer in header.layers)
    return [name for name in names if f"{name}.L" in state and f"{name}.R" in state]


def _by_unpacked_name(state: State, names: dict[str, str]) -> State:
    """Rename the library's keys to those after `unpack_attention`; `names` is the result of `unpacked_names`."""
    back = {library: unpacked for unpacked, library in names.items()}
    return {back.get(key, key): value for key, value in state.items()}


def _put_pair(model: nn.Module, name: str, state: State) -> None:
    """Replace layer `name` by a `FactorPair` of the shapes in `state`."""
    (rows, rank), (_, columns) = state[f"{name}.L"].shape, state[f"{name}.R"].shape
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, FactorPair(columns, rows, rank, f"{name}.bias" in state))
