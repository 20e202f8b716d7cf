"""Memory-saving optimizers of other packages (requirements-baselines.txt), as `optimizer=` builds them.

GaLore (Zhao et al., arXiv 2403.03507) and APOLLO (Zhu et al., arXiv 2412.05270) hold Adam's moments of a dense
weight's gradient in a subspace of rank `rank`, which is recomputed every `update_proj_gap` steps. They do so for the
weights that `mark_projected` has marked; all other parameters get ordinary AdamW. The attribute `subspace_work` of both
optimizers names the callables that project, so that their work (two products per step and, when a projection is
recomputed, an SVD of the gradient) is measured as subspace work.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from wasi.errors import UserError
from wasi.models.structure import linear_sites, site_parameters
from wasi.optional import optional
from wasi.training.parameter_groups import Group, split

_MARK = "is_projected"


def mark_projected(model: nn.Module, scope: str) -> None:
    """Mark the trainable dense weights of the linear layers in `scope` for projection by `galore` and `apollo`."""
    for site in linear_sites(model, scope):
        weight = site_parameters(model, site).get("weight")
        if weight is not None and weight.requires_grad:
            mark(weight)


def mark(weight: nn.Parameter) -> None:
    """Mark a weight for projection by `galore` and `apollo`."""
    setattr(weight, _MARK, True)


def galore(groups: list[Group], *, rank, update_proj_gap, scale, proj_type, **options) -> Optimizer:
    """Return the AdamW of galore-torch over `groups`.

    Args:
        rank, update_proj_gap, scale, proj_type: of the projection of marked weights, as in galore-torch; options: of
            AdamW.

    Raises:
        UserError: the package is not installed, no weight in `groups` is marked, or, with `proj_type=reverse_std`, the
            rank is not below the number of rows of a marked weight that has more columns.
    """
    package = optional("galore_torch", "optimizer", "galore")
    projection = {"rank": rank, "update_proj_gap": update_proj_gap, "scale": scale, "proj_type": proj_type}
    groups = _with_projection(groups, projection, "galore")
    if proj_type == "reverse_std":  # galore-torch takes a projection that is not thin for one from the other side
        wide = (p.shape[0] for group in groups if "rank" in group for p in group["params"] if p.shape[0] < p.shape[1])
        if rank >= (rows := min(wide, default=rank + 1)):
            allowed = f"below {rows} with optimizer.proj_type=reverse_std: a weight has {rows} rows and more columns"
            raise UserError("optimizer.rank", rank, allowed)
    optimizer = package.GaLoreAdamW(groups, no_deprecation_warning=True, **options)
    projector = optional("galore_torch.galore_projector", "optimizer", "galore").GaLoreProjector
    optimizer.subspace_work = [(projector, "project"), (projector, "project_back")]

    def restored(state: dict[str, Any], group: Group) -> object:
        return projector(**{name: group[name] for name in projection})

    return _plain_state(optimizer, ("ortho_matrix",), restored)


def apollo(
    groups: list[Group], *, rank, update_proj_gap, scale, proj_type, proj, scale_type, **options
) -> Optimizer:
    """Return the AdamW of apollo-torch over `groups`. Random projections are drawn from consecutive seeds.

    Args:
        rank, update_proj_gap, scale, proj_type, proj, scale_type: of the projection of marked weights, as in
            apollo-torch; options: of AdamW.

    Raises:
        UserError: the package is not installed, or no weight in `groups` is marked.
    """
    package = optional("apollo_torch", "optimizer", "apollo")
    projection = {"rank": rank, "update_proj_gap": update_proj_gap, "scale": scale, "proj_type": proj_type}
    groups = _with_projection(groups, {**projection, "proj": proj, "scale_type": scale_type}, "apollo")
    optimizer = package.APOLLOAdamW(groups, **options)
    random, svd = (optional(f"apollo_torch.{kind}_projector", "optimizer", "apollo") for kind in ("random", "svd"))
    optimizer.subspace_work = [(random.GradientProjector, "project"), (svd.GaLoreProjector, "project")]

    def restored(state: dict[str, Any], group: Group) -> object:
        return optimizer._initialize_projector(group, state)

    kept = ("ortho_matrix", "svd_count", *(["seed"] if proj == "random" else []))  # an SVD draws nothing
    return _plain_state(optimizer, kept, restored)


def adamw8bit(groups: list[Group], **options) -> Optimizer:
    """Return the AdamW of bitsandbytes: moments in 8 bits by blocks, in 32 bits for tensors below 4096 elements."""
    return optional("bitsandbytes", "optimizer", "adamw8bit").optim.AdamW8bit(groups, **options)


def _with_projection(groups: list[Group], projection: dict[str, Any], name: str) -> list[Group]:
    """Move the marked weights of `groups` into groups of their own with the options `projection`."""
    marked = {id(p) for group in groups for p in group["params"] if hasattr(p, _MARK)}
    if not marked:
        raise UserError("optimizer", name, "with a method that trains dense weights of its scope")
    return split(groups, marked, **projection)


def _plain_state(
    optimizer: Optimizer, kept: tuple[str, ...], restored: Callable[[dict, dict], object]
) -> Optimizer:
    """Make the optimizer's state consist of tensors and numbers alone, and return the optimizer.

    `torch.load(weights_only=True)` can then load it, and its memory can be counted. Both packages store an object under
    `projector`. Hooks add its attributes to the state as `projection` after each step, omit the object from the state
    dictionary, and recreate it when a state is loaded.

    Args:
        kept: the attributes of the object that are its state.
        restored: makes a new object for a parameter's state and its group.
    """

    def expose(*_) -> None:
        for state in optimizer.state.values():
            if "projector" in state:
                projector = state["projector"]
                if projector.ortho_matrix._is_view():  # a slice would keep the whole factor of the SVD in memory
                    projector.ortho_matrix = projector.ortho_matrix.clone()
                state["projection"] = {name: getattr(projector, name) for name in kept}

    def without_objects(_, content: dict[str, Any]) -> dict[str, Any]:
        states = content["state"].items()
        plain = {key: {k: v for k, v in state.items() if k != "projector"} for key, state in states}
        return {**content, "state": plain}

    def rebuild(_) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = optimizer.state.get(parameter, {})
                if "projection" in state:
                    state["projector"] = restored(state, group)
                    for name, value in state["projection"].items():
                        setattr(state["projector"], name, value)

    optimizer.register_step_post_hook(expose)
    optimizer.register_state_dict_post_hook(without_objects)
    optimizer.register_load_state_dict_post_hook(rebuild)
    return optimizer
