"""face.evoLVe's names of IR and IR-SE networks: input_layer, body, output_layer."""

from collections.abc import Sequence

from advcloak_jax.networks.torch_weights import TorchLayer


def iresnet_layers(units: Sequence[int] = (3, 4, 14, 3)) -> dict[str, TorchLayer]:
    """Layers of `IResNet` and `SENet` by face.evoLVe's names (input_layer, body, output_layer)."""
    layers = head_layers("output_layer")
    for i, stem in enumerate(("stem_conv", "stem_norm", "stem_act")):
        layers[stem] = TorchLayer(f"input_layer.{i}")
    for unit in range(sum(units)):
        for i, part in enumerate(("norm_0", "conv_0", "act", "conv_1", "norm_1")):
            layers[f"unit_{unit}/{part}"] = TorchLayer(f"body.{unit}.res_layer.{i}")
        layers[f"unit_{unit}/recalibrate/squeeze"] = TorchLayer(f"body.{unit}.res_layer.5.fc1")
        layers[f"unit_{unit}/recalibrate/excite"] = TorchLayer(f"body.{unit}.res_layer.5.fc2")
        for i, part in enumerate(("shortcut_conv", "shortcut_norm")):
            layers[f"unit_{unit}/{part}"] = TorchLayer(f"body.{unit}.shortcut_layer.{i}")
    return layers


def head_layers(name: str) -> dict[str, TorchLayer]:
    """The sequence BatchNorm, dropout, flatten, linear, BatchNorm."""
    return {
        "head/norm_map": TorchLayer(f"{name}.0"),
        "head/dense": TorchLayer(f"{name}.3", "flattened"),
        "head/norm_embedding": TorchLayer(f"{name}.4"),
    }
