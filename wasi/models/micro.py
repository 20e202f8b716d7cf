"""`vit_micro`: a ViT of 0.46 M parameters for images of 28 to 32 pixels, whose weights ship with the project."""

from pathlib import Path

from wasi.deferred import import_light

IMAGE_SIZE = 28
SHIPPED_WEIGHTS = Path(__file__).parent / "weights" / "vit_micro.safetensors"


def vit_micro(image_size: int, num_classes: int):
    """Return timm's VisionTransformer with patch 4, width 96, 4 blocks, 3 heads, class token; input `B x 3 x S x S`."""
    return import_light("timm.models.vision_transformer").VisionTransformer(
        img_size=image_size,
        patch_size=4,
        embed_dim=96,
        depth=4,
        num_heads=3,
        mlp_ratio=4.0,
        num_classes=num_classes,
    )
