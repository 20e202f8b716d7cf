"""Small models of every family, batches for them, and methods applied to them."""

from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from wasi.config.declared import method_names
from wasi.layers.base import LowRankLayer
from wasi.measure.flops import step_flops
from wasi.measure.run import subspace_work
from wasi.training.step import TrainStep

CLASSES = 5


def torchvision_vit() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    model = VisionTransformer(16, 4, 2, 2, 32, 64, num_classes=CLASSES)
    nn.init.normal_(model.heads.head.weight, std=0.1)  # torchvision starts the head at zero
    return model


def timm_vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(16, 4, embed_dim=32, depth=2, num_heads=2, num_classes=CLASSES)


def swin() -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.0, num_classes=CLASSES)


MODELS = {"torchvision_vit": torchvision_vit, "timm_vit": timm_vit, "swin": swin}


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    return MODELS[name]().to(dtype)


def tied_vit() -> nn.Module:
    """A float64 model of timm's whose two blocks share the weight of `fc1`, with a bias each, and the module `fc2`."""
    model = build("timm_vit", dtype=torch.float64)
    first, second = (block.mlp for block in model.blocks)
    second.fc1.weight = first.fc1.weight
    second.fc2 = first.fc2
    nn.init.normal_(second.fc1.bias)
    return model


def batch(size: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 16, 16, generator=generator, dtype=dtype)
    return images, torch.randint(CLASSES, (size,), generator=generator)


_CONF = Path(__file__).resolve().parents[1] / "conf"
_SMALL = {"lora_rank": 2, "lora_alpha": 4, "frozen_blocks": 1}
START_KINDS = [("wasi", "subspace"), ("wsi", "subspace"), ("wsi", "svd")]  # methods and updates that take method.init
METHODS = tuple(name for name in method_names() if name != "peft")  # which needs a package that may not be there


def method_options(name: str) -> set[str]:
    """What can be given as `method.*`."""
    return set(OmegaConf.load(_CONF / "method" / f"{name}.yaml"))


def method(name: str, scope: str = "all", epsilon: float = 0.8, **options):
    """As its YAML composes it at these thresholds, with small sizes; `options` are given as they are."""
    options = {key: value for key, value in options.items() if value is not None}
    rank = OmegaConf.to_container(OmegaConf.load(_CONF / "rank" / "full.yaml"), resolve=False)
    rank |= {"weight_epsilon": epsilon, "activation_epsilon": epsilon, "basis_update_gap": 1}
    section = OmegaConf.to_container(OmegaConf.load(_CONF / "method" / f"{name}.yaml"), resolve=False)
    section |= {key: value for key, value in _SMALL.items() if key in section} | {"scope": scope}
    section = {key: value for key, value in section.items() if key not in options}
    cfg = OmegaConf.create({"seed": 0, "rank": rank, "method": section})
    return instantiate(cfg.method, _partial_=True, _convert_="all")(**options)


def has_own_layers(model: nn.Module) -> bool:
    """Whether its method has layers of its own, which may lack what `docs/add_a_method.md` calls optional."""
    layers = (type(m).__module__ for m in model.modules() if isinstance(m, LowRankLayer))
    return any(not module.startswith("wasi.layers.") for module in layers)


@torch.no_grad()
def weight_of(layer: LowRankLayer) -> torch.Tensor:
    """Its weight or the product of its factors."""
    left, right = (*layer.weight_factors(), None)[:2]
    return left if right is None else left @ right


def flops(step: TrainStep, images: torch.Tensor, labels: torch.Tensor) -> dict[str, int]:
    """Of a whole step, which trains the model, on images that are normalised already."""
    return step_flops(step, images, labels, images, subspace_work(step))


def applied(model_name: str, method_name: str, dtype: torch.dtype = torch.float32, **options) -> nn.Module:
    """A fresh small model with the method applied to it."""
    calibration = [batch(dtype=dtype)]
    return method(method_name, **options).apply(build(model_name, dtype=dtype), calibration)
