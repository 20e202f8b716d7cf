"""Small models of every family, batches for them, and methods applied to them."""

import torch
from torch import nn

from wasi.methods.lora import LoRA
from wasi.methods.selection import ActivationRanks
from wasi.methods.svd_llm import SVDLLM
from wasi.methods.vanilla import Vanilla
from wasi.methods.wasi import SubspaceMethod

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


def batch(size: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 16, 16, generator=generator, dtype=dtype)
    return images, torch.randint(CLASSES, (size,), generator=generator)


def method(name: str, scope: str = "all", epsilon: float = 0.8, **options):
    activations = options.pop("activations", None) or ActivationRanks("epsilon", epsilon, None)
    options = {"train_rest": name != "lora", **options}
    match name:
        case "vanilla":
            return Vanilla(name, scope, **options)
        case "wasi":
            return SubspaceMethod(name, scope, weight_epsilon=epsilon, activations=activations, **options)
        case "wsi":
            return SubspaceMethod(name, scope, weight_epsilon=epsilon, **options)
        case "asi":
            return SubspaceMethod(name, scope, activations=activations, **options)
        case "svd_llm":
            return SVDLLM(
                name,
                scope,
                weight_epsilon=epsilon,
                keep_ratio=None,
                lora_rank=2,
                lora_alpha=4,
                calibration_batches=1,
                seed=0,
                **options,
            )
        case "lora":
            return LoRA(name, scope, lora_rank=2, lora_alpha=4, seed=0, **options)


METHODS = ("vanilla", "svd_llm", "wasi", "wsi", "asi", "lora")


def applied(model_name: str, method_name: str, dtype: torch.dtype = torch.float32, **options) -> nn.Module:
    """A fresh small model with the method applied to it."""
    calibration = [batch(dtype=dtype)]
    return method(method_name, **options).apply(build(model_name, dtype=dtype), calibration)
