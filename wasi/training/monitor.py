"""`train.monitor=true`: evidence, per epoch and layer, of how stable ranks and subspaces are.

One row per linear call in scope, before training (epoch 0) and after every epoch, in `monitor.csv` and in the
tracker's history as `monitor/<layer>/<column>`. All of it is read off: training runs on as if it were not there.

Weights: `weight_rank` held (empty for a dense one); `rank_at_threshold`, what `rank.weight_epsilon` would give
now (of a weight truncated at that threshold fewer than it holds, from the start: what tells is the change);
`angle_max_deg` and `angle_mean_deg`, principal angles between the column space now and before training, of
the columns held, or for a dense weight of as many leading ones as the threshold gave at first.

Inputs, on one fixed calibration batch, with `mode1` for the batch: `modeM_rank_at_threshold`, what
`rank.activation_epsilon` would give now; `modeM_variance`, the share that the bases explain which the layer
projects on, or for an input saved whole those that `rank.activation_epsilon` gave before training; `tucker_error`,
relative Frobenius error of the saved input (empty for one saved whole).
"""

import copy
import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

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
from wasi.training import file_names
from wasi.training.compile import uncompiled

_KEYS = ("epoch", "step", "layer", "call")
_VALUES = ("weight_rank", "rank_at_threshold", "angle_max_deg", "angle_mean_deg", "tucker_error")

Row = dict[str, int | float | str]


class Monitor:
    """Made before a checkpoint is loaded: the weights it finds are those before training.

    Args:
        model: with its method applied; batches: of which the first is looked at, the same one each time.
        folder: where `monitor.csv` goes; tracker: receives `log(step, values)`.
    """

    def __init__(
        self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], cfg: DictConfig, folder: Path, tracker
    ):
        self.model, self.batches, self.scope = model, batches, cfg.method.scope
        self.weight_epsilon, self.activation_epsilon = cfg.rank.weight_epsilon, cfg.rank.activation_epsilon
        self.folder, self.tracker = folder, tracker
        self._subspaces: dict[str, Tensor] = {}  # O x k, before training
        self._bases: dict[tuple[str, int], TuckerState] = {}  # before training, for inputs that are saved whole
        self._look()

    def __call__(self, epoch: int, step: int) -> None:
        """Write down how things stand after `epoch` epochs and `step` optimizer steps."""
        rows = [{"epoch": epoch, "step": step, **row} for row in self._look()]
        earlier = [row for row in _read(self.folder / file_names.MONITOR) if int(row["epoch"]) < epoch]
        _write(self.folder / file_names.MONITOR, [*earlier, *rows])
        self.tracker.log(step, {key: value for row in rows for key, value in _history(row).items()})

    @torch.no_grad()
    @uncompiled()
    def _look(self) -> list[Row]:
        model, layers = _observable(self.model, self.scope)
        weights = {name: self._weight(name, layer) for name, layer in layers.items()}
        rows: list[Row] = []
        calls = dict.fromkeys(layers, 0)

        def see(name: str, x: Tensor) -> None:
            with without_autocast(x):  # an input that it has narrowed is looked at in float32
                wide = x.to(torch.promote_types(x.dtype, torch.float32))
                inputs = self._input(name, calls[name], layers[name], wide)
            rows.append({"layer": name, "call": calls[name], **weights[name], **inputs})
            calls[name] += 1

        observe_inputs(model, layers, [next(iter(self.batches))], see)
        return rows

    def _weight(self, name: str, layer: nn.Module) -> Row:
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
        if not x.any():
            return {}  # there is no variance to explain
        ranks = epsilon_ranks(x, self.activation_epsilon, "cut")  # of the batch too
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
    """The model, or a copy of it, whose linears in `scope` are modules that are called; and those."""
    names = [site.name for site in linear_sites(model, scope)]
    modules = dict(model.named_modules(remove_duplicate=False))
    if scope == "mlp" or any(isinstance(modules.get(name), LowRankLayer) for name in names):
        return model, {name: modules[name] for name in names}
    probe = copy.deepcopy(model)  # a library's model may use packed attention weights without calling their layer
    for module in probe.modules():
        module.__dict__.pop("forward", None)  # checkpointing's, which belongs to the original
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
    """Either the old or the new file, never half of one."""
    known = [*_KEYS, *_VALUES]
    columns = known + sorted({key for row in rows for key in row} - {*known})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    atomic_write_text(path, text.getvalue())
