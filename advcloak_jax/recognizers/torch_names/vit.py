"""timm's names of a plain vision transformer, whose embedding layers are called feature, as in arcface_torch's vit."""

import math

from advcloak_jax.networks.torch_weights import TorchLayer
from advcloak_jax.recognizers.torch_names.iresnet import HEADS, outputs
from advcloak_jax.recognizers.torch_names.layout import Layout, Match, Shapes
from advcloak_jax.recognizers.vit import HEAD_SIZE, PATCH

PARTS = {
    "norm_0": "norm1",
    "attention/qkv": "attn.qkv",
    "attention/proj": "attn.proj",
    "norm_1": "norm2",
    "expand": "mlp.fc1",
    "contract": "mlp.fc2",
}


def vit_layers(depth: int = 12) -> dict[str, TorchLayer]:
    """Layers of `ViT` (patch_embed.proj, pos_embed, blocks, norm, feature)."""
    layers = {
        "patches": TorchLayer("patch_embed.proj"),
        "positions": TorchLayer("pos_embed", "parameter"),
        "norm": TorchLayer("norm"),
        "dense": TorchLayer("feature.0"),
        "norm_embedding": TorchLayer("feature.1"),
    }
    for block in range(depth):
        layers |= {f"block_{block}/{ours}": TorchLayer(f"blocks.{block}.{theirs}") for ours, theirs in PARTS.items()}
    return layers


def _recognise(shapes: Shapes) -> Match | None:
    has_blocks = any(name.startswith("blocks.") and ".attn.qkv." in name for name in shapes)
    has_feature = any(name.startswith("feature.") for name in shapes)
    # A class token, masked tokens or a longer head: other transformers by the same names.
    others = any(name.startswith(("cls_token", "mask_token", "feature.2.", "feature.3.")) for name in shapes)
    if not has_blocks or not has_feature or others:
        return None
    layers = vit_layers()
    channels = outputs(shapes, layers["norm"], 6 * HEAD_SIZE)
    positions = shapes.get("pos_embed", ())
    side = max(1, math.isqrt(positions[1])) if len(positions) == 3 else 112 // PATCH
    fields = {
        "width": channels / (6 * HEAD_SIZE),
        "embedding_size": outputs(shapes, layers["dense"], outputs(shapes, layers["norm_embedding"], 512)),
    }
    return Match("vit_s8", fields, layers, image_size=(PATCH * side, PATCH * side), ignored=HEADS)


LAYOUTS: tuple[Layout, ...] = (
    Layout("plain ViT by timm's names", ("vit_s8",), "blocks.0.attn.qkv.weight", _recognise),
)
