"""Names of a PyTorch MobileNet v1 in three sequences: input_layer, body, output_layer."""

from advcloak_jax.networks.torch_weights import TorchLayer
from advcloak_jax.recognizers.mobilenet import BLOCKS
from advcloak_jax.recognizers.torch_names.iresnet import found_numbers, head_layers, match_by_head
from advcloak_jax.recognizers.torch_names.layout import Layout, Match, Shapes


def mobilenet_layers() -> dict[str, TorchLayer]:
    """Layers of `MobileNet` in a PyTorch twin of three sequences: input_layer, body, output_layer."""
    layers = head_layers("output_layer")
    for i, stem in enumerate(("stem_conv", "stem_norm", "stem_act")):
        layers[stem] = TorchLayer(f"input_layer.{i}")
    parts = ("depthwise", "depthwise_norm", "depthwise_act", "pointwise", "pointwise_norm", "pointwise_act")
    for block in range(len(BLOCKS)):
        for i, part in enumerate(parts):
            layers[f"block_{block}/{part}"] = TorchLayer(f"body.{block}.{i}")
    return layers


def _recognise(shapes: Shapes) -> Match | None:
    has_ends = any(name.startswith(("input_layer.", "output_layer.")) for name in shapes)
    if not has_ends or not found_numbers(shapes, r"body\.(\d+)\.[0-5]\."):
        return None
    return match_by_head(shapes, "mobilenet", mobilenet_layers(), 1024)


LAYOUTS: tuple[Layout, ...] = (
    Layout("MobileNet v1 in three sequences", ("mobilenet",), "body.0.3.weight", _recognise),
)
