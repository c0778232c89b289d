"""State dicts of IR, IR-SE, iresnet, MobileNet v1 and ViT are told apart, sized and fully used; others are refused."""

import re
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest
from state_dicts import shapes_of, torch_shapes

from advcloak_jax.networks.torch_weights import TorchLayer
from advcloak_jax.recognizers.iresnet import UNITS, IResNet
from advcloak_jax.recognizers.mobilenet import MobileNet
from advcloak_jax.recognizers.senet import SENet
from advcloak_jax.recognizers.torch_names import iresnet, mobilenet, vit
from advcloak_jax.recognizers.torch_names.layout import Layout, Match
from advcloak_jax.recognizers.vit import ViT
from advcloak_jax.recognizers.weights.convert import COUNTERS

Shapes = dict[str, tuple[int, ...]]
EVOLVE, ARCFACE = iresnet.LAYOUTS
(MOBILENET,) = mobilenet.LAYOUTS
(VIT,) = vit.LAYOUTS
LAYOUTS = (EVOLVE, ARCFACE, MOBILENET, VIT)
# Module, layout and names by the architecture's name without its depth.
RESIDUAL = {
    "ir": (IResNet, "evolve", iresnet.iresnet_layers),
    "senet": (SENet, "evolve", iresnet.iresnet_layers),
    "iresnet": (IResNet, "arcface_torch", iresnet.arcface_layers),
    "iresnet_se": (SENet, "arcface_torch", iresnet.arcface_layers),
}
GOLDEN = np.load(Path(__file__).parent / "golden" / "iresnet_vit_shapes.npz")


def golden(name: str) -> Shapes:
    """A PyTorch twin's state dict at full size."""
    lines = [line.split() for line in GOLDEN[name]]
    return {words[0]: tuple(map(int, words[1:])) for words in lines}


def only_match(shapes: Shapes) -> tuple[Layout, Match]:
    ((layout, match),) = [(layout, match) for layout in LAYOUTS if (match := layout.recognise(shapes)) is not None]
    return layout, match


def prefix_and_units(architecture: str) -> tuple[str, tuple[int, ...]]:
    """ "iresnet_se" and (3, 4, 14, 3) of "iresnet_se50"; no units for another network."""
    prefix = architecture.rstrip("0123456789")
    return (prefix, UNITS[int(architecture[len(prefix) :])]) if prefix in RESIDUAL else (architecture, ())


def module_of(match: Match) -> nn.Module:
    """The network that the zoo is to build for the match."""
    prefix, units = prefix_and_units(match.architecture)
    if prefix in RESIDUAL:
        builder, layout, _ = RESIDUAL[prefix]
        return builder(units, layout=layout, **match.fields)
    return {"mobilenet": MobileNet, "vit_s8": ViT}[prefix](**match.fields)


def layers_of(architecture: str) -> dict[str, TorchLayer]:
    prefix, units = prefix_and_units(architecture)
    if prefix in RESIDUAL:
        return RESIDUAL[prefix][2](units)
    return mobilenet.mobilenet_layers() if prefix == "mobilenet" else vit.vit_layers()


@pytest.mark.parametrize(
    ("name", "layout", "architecture"),
    [
        *((name, EVOLVE, name) for name in ("ir18", "ir34", "ir50", "ir100", "senet18", "senet50")),
        *((name, ARCFACE, name) for name in ("iresnet18", "iresnet34", "iresnet50", "iresnet100")),
        ("iresnet_se50", ARCFACE, "iresnet_se50"),
        ("mobilenet", MOBILENET, "mobilenet"),
        ("vit", VIT, "vit_s8"),
    ],
)
def test_pytorch_state_dicts_are_known_and_used_to_the_last_tensor(
    name: str, layout: Layout, architecture: str
) -> None:
    shapes = golden(name)
    found, match = only_match(shapes)
    assert found is layout
    assert layout.example in shapes
    assert match.architecture == architecture in layout.architectures
    assert match.fields == {"width": 1.0, "embedding_size": 512}
    assert match.image_size == (112, 112)
    needed = torch_shapes(shapes_of(module_of(match), 112), match.layers)
    counted = {key for key in shapes if re.fullmatch(COUNTERS, key)}
    assert needed == {key: shape for key, shape in shapes.items() if key not in counted}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_architecture_is_known_narrower_and_for_other_sizes(layout: Layout) -> None:
    for architecture in layout.architectures:
        fields, layers = {"width": 0.5, "embedding_size": 24}, layers_of(architecture)
        module = module_of(Match(architecture, fields, layers))
        found, match = only_match(torch_shapes(shapes_of(module, 64), layers))
        assert (found, match.architecture, match.fields, match.layers) == (layout, architecture, fields, layers)
        assert match.image_size == (64, 64)
        assert match.spatial == ((1, 1) if architecture == "vit_s8" else (4, 4))


@pytest.mark.parametrize("name", ["ir50", "senet18", "iresnet50", "iresnet_se50", "mobilenet", "vit"])
def test_a_missing_or_misshapen_tensor_does_not_hide_the_layout(name: str) -> None:
    whole = golden(name)
    layout, match = only_match(whole)
    for key in whole:
        without = {name: shape for name, shape in whole.items() if name != key}
        for shapes in (without, without | {key: ()}, without | {key: (0, 0)}, without | {key: (512, 3)}):
            found, damaged = only_match(shapes)
            assert found is layout
            assert damaged.architecture == match.architecture
            assert damaged.layers == match.layers
            assert min(damaged.spatial) > 0
            assert min(damaged.image_size) > 0


def test_class_weights_saved_along_are_ignored() -> None:
    for name in GOLDEN.files:
        _, match = only_match(golden(name) | {"head.weight": (10572, 512)})
        assert any(re.fullmatch(pattern, "head.weight") for pattern in match.ignored)
        assert not any(re.fullmatch(pattern, key) for pattern in match.ignored for key in golden(name))


def test_other_networks_by_similar_names_are_refused() -> None:
    torchvision = {f"layer{i}.0.{part}.weight": (64,) for i in range(1, 5) for part in ("conv1", "bn1", "bn2", "bn3")}
    older = {f"layer{i}.0.{part}.weight": (64,) for i in range(1, 5) for part in ("bn0", "prelu", "bn1", "bn2")}
    adaface = {f"body.0.res_layer.{i}.weight": (64,) for i in (0, 2, 3, 5)} | {"body.0.res_layer.2.running_mean": (64,)}
    timm = {key: shape for key, shape in golden("vit").items() if not key.startswith("feature.")}
    insightface_vit = golden("vit") | {"feature.2.weight": (512, 384), "mask_token": (1, 1, 384)}
    class_token = golden("vit") | {"cls_token": (1, 1, 384)}
    for shapes in ({}, torchvision, older, adaface, timm | {"head.weight": (9, 384)}, insightface_vit, class_token):
        assert [layout.name for layout in LAYOUTS if layout.recognise(shapes)] == []
