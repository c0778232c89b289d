"""Names of a PyTorch MobileNet v1 in three sequences: input_layer, body, output_layer."""

from advcloak_jax.networks.torch_weights import TorchLayer
from advcloak_jax.recognizers.mobilenet import BLOCKS
from advcloak_jax.recognizers.torch_names.iresnet import head_layers


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
