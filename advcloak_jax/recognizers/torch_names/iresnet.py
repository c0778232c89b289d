"""Published names of improved residual networks: face.evoLVe's (IR, IR-SE), InsightFace arcface_torch's (iresnet)."""

import math
import re
from collections.abc import Iterable, Sequence

from advcloak_jax.networks.torch_weights import TorchLayer
from advcloak_jax.recognizers.iresnet import UNITS
from advcloak_jax.recognizers.torch_names.layout import Layout, Match, Shapes

Layers = dict[str, TorchLayer]

# Depths by the zoo's names: without and with squeeze-excitation.
EVOLVE = {"ir": (18, 34, 50, 100, 152), "senet": (18, 50, 100, 152)}
ARCFACE = {"iresnet": (18, 34, 50, 100, 200), "iresnet_se": (50, 100)}
HEADS = (r"head\..*", r"fc7\..*")
"""Class weights that are saved along with the backbone."""


def iresnet_layers(units: Sequence[int] = UNITS[50]) -> Layers:
    """Layers of `IResNet` and `SENet` by face.evoLVe's names (input_layer, body, output_layer)."""
    layers = head_layers("output_layer")
    for i, stem in enumerate(("stem_conv", "stem_norm", "stem_act")):
        layers[stem] = TorchLayer(f"input_layer.{i}")
    for unit in range(sum(units)):
        for i, part in enumerate(("norm_0", "conv_0", "act", "conv_1", "norm_1")):
            layers[f"unit_{unit}/{part}"] = TorchLayer(f"body.{unit}.res_layer.{i}")
        layers |= _excitation(unit, f"body.{unit}.res_layer.5")
        layers |= _shortcut(unit, f"body.{unit}.shortcut_layer")
    return layers


def arcface_layers(units: Sequence[int] = UNITS[50]) -> Layers:
    """Layers of `IResNet` of layout "arcface_torch" by InsightFace's names (conv1, layer1 ... layer4, fc, features)."""
    layers = {
        "stem_conv": TorchLayer("conv1"),
        "stem_norm": TorchLayer("bn1"),
        "stem_act": TorchLayer("prelu"),
        "head/norm_map": TorchLayer("bn2"),
        "head/dense": TorchLayer("fc", "flattened"),
        "head/norm_embedding": TorchLayer("features"),
    }
    parts = {
        "norm_0": "bn1",
        "conv_0": "conv1",
        "norm_middle": "bn2",
        "act": "prelu",
        "conv_1": "conv2",
        "norm_1": "bn3",
    }
    names = [f"layer{stage}.{i}" for stage, count in enumerate(units, 1) for i in range(count)]
    for unit, name in enumerate(names):
        layers |= {f"unit_{unit}/{ours}": TorchLayer(f"{name}.{theirs}") for ours, theirs in parts.items()}
        layers |= _excitation(unit, f"{name}.se_block")
        layers |= _shortcut(unit, f"{name}.downsample")
    return layers


def _excitation(unit: int, name: str) -> Layers:
    """The two 1x1 layers, without bias, of face.evoLVe's SEModule, which ElasticFace's iresnet has too."""
    return {
        f"unit_{unit}/recalibrate/squeeze": TorchLayer(f"{name}.fc1"),
        f"unit_{unit}/recalibrate/excite": TorchLayer(f"{name}.fc2"),
    }


def _shortcut(unit: int, name: str) -> Layers:
    return {
        f"unit_{unit}/shortcut_conv": TorchLayer(f"{name}.0"),
        f"unit_{unit}/shortcut_norm": TorchLayer(f"{name}.1"),
    }


def head_layers(name: str) -> Layers:
    """The sequence BatchNorm, dropout, flatten, linear, BatchNorm."""
    return {
        "head/norm_map": TorchLayer(f"{name}.0"),
        "head/dense": TorchLayer(f"{name}.3", "flattened"),
        "head/norm_embedding": TorchLayer(f"{name}.4"),
    }


def outputs(shapes: Shapes, layer: TorchLayer, otherwise: int) -> int:
    """Channels that `layer` makes, by whichever of its tensors is there."""
    for leaf in ("scale", "bias", "mean", "var"):
        shape = shapes.get(layer.tensor(leaf))
        if shape and shape[0]:
            return shape[0]
    return otherwise


def match_by_head(shapes: Shapes, architecture: str, layers: Layers, channels: int) -> Match:
    """The match of a network that ends in a `Head` on a square map, a sixteenth of the image.

    channels: of that map at width 1. The published sizes stand in for tensors that are missing.
    """
    found = outputs(shapes, layers["head/norm_map"], channels)
    embedding_size = outputs(shapes, layers["head/dense"], outputs(shapes, layers["head/norm_embedding"], 512))
    dense = shapes.get(layers["head/dense"].tensor("kernel"), ())
    side = max(1, math.isqrt(dense[1] // found)) if len(dense) == 2 else 7
    return Match(
        architecture,
        {"width": found / channels, "embedding_size": embedding_size},
        layers,
        image_size=(16 * side, 16 * side),
        spatial=(side, side),
        ignored=HEADS,
    )


def found_numbers(shapes: Iterable[str], pattern: str) -> list[int]:
    """The number that `pattern` captures, in every name that begins with it."""
    return [int(match[1]) for name in shapes if (match := re.match(pattern, name))]


def nearest_depth(counts: Sequence[int], depths: Sequence[int]) -> int:
    """Which of `depths` has the most similar number of units: in all (one count) or per stage (four)."""

    def difference(depth: int) -> int:
        units = UNITS[depth] if len(counts) == 4 else (sum(UNITS[depth]),)
        return sum(abs(a - b) for a, b in zip(counts, units, strict=True))

    return min(depths, key=difference)


def _evolve(shapes: Shapes) -> Match | None:
    units = found_numbers(shapes, r"body\.(\d+)\.res_layer\.")
    # A norm between convolution and PReLU: TFace's and AdaFace's unit, by the same names.
    if not units or found_numbers(shapes, r"body\.(\d+)\.res_layer\.2\.(?!weight$)"):
        return None
    prefix = "senet" if found_numbers(shapes, r"body\.(\d+)\.res_layer\.5\.") else "ir"
    depth = nearest_depth([max(units) + 1], EVOLVE[prefix])
    return match_by_head(shapes, f"{prefix}{depth}", iresnet_layers(UNITS[depth]), 512)


def _arcface(shapes: Shapes) -> Match | None:
    stages = [found_numbers(shapes, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5)]
    # torchvision's residual networks have the stages but no PReLU; other authors' with PReLU have no third norm.
    if not all(any(re.match(rf"layer\d\.\d+\.{part}\.", name) for name in shapes) for part in ("prelu", "bn3")):
        return None
    prefix = "iresnet_se" if any(".se_block." in name for name in shapes) else "iresnet"
    depth = nearest_depth([max(units, default=-1) + 1 for units in stages], ARCFACE[prefix])
    return match_by_head(shapes, f"{prefix}{depth}", arcface_layers(UNITS[depth]), 512)


def _names(depths: dict[str, tuple[int, ...]]) -> tuple[str, ...]:
    return tuple(f"{prefix}{depth}" for prefix in depths for depth in depths[prefix])


LAYOUTS: tuple[Layout, ...] = (
    Layout("face.evoLVe IR and IR-SE", _names(EVOLVE), "body.0.res_layer.1.weight", _evolve),
    Layout("InsightFace arcface_torch iresnet", _names(ARCFACE), "layer1.0.prelu.weight", _arcface),
)
