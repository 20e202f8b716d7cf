"""`train.monitor=true`: how stable the ranks and subspaces of each layer are over the epochs.

There is one row per call of a linear layer in scope, before training (epoch 0) and after every epoch, in `monitor.csv`
and in the tracker's history as `monitor/<layer>/<column>`. Observing has no effect on training.

Columns on the weight: `weight_rank`, its rank `K` (empty for a dense weight); `rank_at_threshold`, the rank that
`rank.weight_epsilon` would give now (for a weight that was truncated at that threshold it is below `K` from the start;
its change is what is of interest); `angle_max_deg` and `angle_mean_deg`, the principal angles between the column space
now and before training, spanned by the `K` leading left singular vectors (for a dense weight, by as many as the
threshold gave before training).

Columns on the input, for one fixed calibration batch; `mode1` is the batch mode: `modeM_rank_at_threshold`, the rank
that `rank.activation_epsilon` would give now; `modeM_variance`, the share of the squared Frobenius norm explained by
the layer's basis or, for an input that is saved unchanged, by the basis that `rank.activation_epsilon` gave before
training; `tucker_error`, the relative Frobenius error of the saved input (empty if it is saved unchanged).
"""

import copy
import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from wasi import file_names
from wasi.atomic import atomic_write_text
from wasi.layers.activation import TuckerState, epsilon_ranks
from wasi.layers.autocast import without_autocast
from wasi.layers.base import LowRankLayer
from wasi.linalg.angles import left_spectrum, principal_angles
from wasi.linalg.rank import explained_rank
from wasi.linalg.tucker import expand, project
from wasi.methods.calibration import observe_inputs
from wasi.methods.scope import scope_linears
from wasi.models.structure import linear_sites
from wasi.training.compile import uncompiled

_KEYS = ("epoch", "step", "layer", "call")
_VALUES = ("weight_rank", "rank_at_threshold", "angle_max_deg", "angle_mean_deg", "tucker_error")

Row = dict[str, int | float | str]


class Monitor:
    """Writes the module's columns; the state of the model when it is constructed counts as that before training.

    So it must be constructed before a checkpoint is loaded.

    Args:
        model: with its method applied.
        batches: the first batch is observed; it must be the same one each time `batches` is iterated.
        cfg: the run's configuration.
        folder: where `monitor.csv` is written; tracker: receives `log(step, values)`.
    """

    def __init__(
        self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], cfg: DictConfig, folder: Path, tracker
    ):
        self.model, self.batches, self.scope = model, batches, cfg.method.scope
        self.weight_epsilon, self.activation_epsilon = cfg.rank.weight_epsilon, cfg.rank.activation_epsilon
        self.folder, self.tracker = folder, tracker
        self._subspaces: dict[str, Tensor] = {}  # column spaces before training, O x k
        self._bases: dict[tuple[str, int], TuckerState] = {}  # before training, of inputs that are saved unchanged
        self._observe()

    def __call__(self, epoch: int, step: int) -> None:
        """Write the rows after `epoch` epochs and `step` optimizer steps; rows of this epoch or later are replaced."""
        rows = [{"epoch": epoch, "step": step, **row} for row in self._observe()]
        earlier = [row for row in _read(self.folder / file_names.MONITOR) if int(row["epoch"]) < epoch]
        _write(self.folder / file_names.MONITOR, [*earlier, *rows])
        self.tracker.log(step, {key: value for row in rows for key, value in _history(row).items()})

    @torch.no_grad()
    @uncompiled()
    def _observe(self) -> list[Row]:
        """Run the first batch through the model and return one row per call of a layer in scope."""
        model, layers = _observable(self.model, self.scope)
        weights = {name: self._weight(name, layer) for name, layer in layers.items()}
        rows: list[Row] = []
        calls = dict.fromkeys(layers, 0)

        def observe(name: str, x: Tensor) -> None:
            with without_autocast(x):  # inputs in lower precision are decomposed in float32
                wide = x.to(torch.promote_types(x.dtype, torch.float32))
                inputs = self._input(name, calls[name], layers[name], wide)
            rows.append({"layer": name, "call": calls[name], **weights[name], **inputs})
            calls[name] += 1

        observe_inputs(model, layers, [next(iter(self.batches))], observe)
        return rows

    def _weight(self, name: str, layer: nn.Module) -> Row:
        """Return the columns on a layer's weight; the first call for a layer defines its initial column space."""
        factors = layer.weight_factors() if isinstance(layer, LowRankLayer) else (layer.get_parameter("weight"),)
        directions, values = left_spectrum(*factors)
        rank = explained_rank(values.square(), self.weight_epsilon)
        held = layer.weight_rank if isinstance(layer, LowRankLayer) else None
        if name not in self._subspaces:
            self._subspaces[name] = directions[:, : held or rank].clone()
        before = self._subspaces[name]
        angles = principal_angles(before, directions[:, : before.shape[1]])
        row: Row = {} if held is None else {"weight_rank": held}
        turned = {"angle_max_deg": angles.max().item(), "angle_mean_deg": angles.mean().item()}
        return {**row, "rank_at_threshold": rank, **turned}

    def _input(self, name: str, call: int, layer: nn.Module, x: Tensor) -> Row:
        """Return the columns on the input of a layer's call; the first one defines the bases of an unchanged input."""
        if not x.any():
            return {}  # a zero input has no ranks
        ranks = epsilon_ranks(x, self.activation_epsilon, "cut")  # includes the batch mode
        tracked = layer.state if isinstance(layer, LowRankLayer) else None
        if tracked is None and (name, call) not in self._bases:
            self._bases[name, call] = TuckerState(x, ranks)
        state = self._bases[name, call] if tracked is None else tracked
        core, factors = state.compress(x)
        total = x.square().sum()
        row: Row = {}
        for mode, factor in enumerate(factors):
            seen = total if factor is None else project(x, factor, mode).square().sum()
            row[f"mode{mode + 1}_rank_at_threshold"] = ranks[mode]
            row[f"mode{mode + 1}_variance"] = (seen / total).item()
        if tracked is not None:
            row["tucker_error"] = ((x - expand(core, factors)).norm() / total.sqrt()).item()
        return row


def _observable(model: nn.Module, scope: str) -> tuple[nn.Module, Mapping[str, nn.Module]]:
    """Return a model in which the linear layers in `scope` are modules that get called, and these layers by name.

    It is `model` itself, or a copy if attention layers have to be unpacked for that.
    """
    names = [site.name for site in linear_sites(model, scope)]
    modules = dict(model.named_modules(remove_duplicate=False))
    if scope == "mlp" or any(isinstance(modules.get(name), LowRankLayer) for name in names):
        return model, {name: modules[name] for name in names}
    probe = copy.deepcopy(model)  # packed attention weights may be used without calling a linear layer
    for module in probe.modules():
        module.__dict__.pop("forward", None)  # a replaced forward (checkpointing) refers to the original module
    return probe, scope_linears(probe, scope)


def _history(row: Row) -> dict[str, int | float]:
    name = row["layer"] if row["call"] == 0 else f"{row['layer']}#{row['call']}"
    numbers = {key: value for key, value in row.items() if not isinstance(value, str)}
    return {f"monitor/{name}/{key}": value for key, value in numbers.items() if key not in _KEYS}


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[Row]) -> None:
    """Write the CSV file, atomically."""
    known = [*_KEYS, *_VALUES]
    columns = known + sorted({key for row in rows for key in row} - {*known})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    atomic_write_text(path, text.getvalue())
