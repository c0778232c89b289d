"""Published names of MobileFaceNet's tensors: Xiaoccer's, TreB1eN's, InsightFace's arcface_torch, foamliu's."""

from collections.abc import Sequence

from advcloak_jax.networks.torch_weights import TorchLayer
from advcloak_jax.recognizers.convention import Convention
from advcloak_jax.recognizers.layers import scaled_channels
from advcloak_jax.recognizers.mobilefacenet import Units, plan
from advcloak_jax.recognizers.torch_names.layout import Layout, Match, Shapes

Layers = dict[str, TorchLayer]

UNITS: Units = (1, 4, 6, 2)
LARGE_UNITS: Units = (2, 8, 12, 4)


def _block(ours: str, convolution: str, norm: str, act: str | None = None) -> Layers:
    """A convolution with its norm and, unless it is linear or its activation has no weights, its activation."""
    layers = {ours: TorchLayer(convolution), f"{ours}_norm": TorchLayer(norm)}
    return layers if act is None else layers | {f"{ours}_act": TorchLayer(act)}


def _named(ours: str, theirs: str, act: bool = True) -> Layers:
    """A block whose parts are called conv, bn and prelu."""
    return _block(ours, f"{theirs}.conv", f"{theirs}.bn", f"{theirs}.prelu" if act else None)


def _numbered(ours: str, theirs: str, act: bool = True) -> Layers:
    """A block whose parts are numbered 0, 1 and 2."""
    return _block(ours, f"{theirs}.0", f"{theirs}.1", f"{theirs}.2" if act else None)


def _embedding(dense: str, norm: str, kind: str = "") -> Layers:
    """The dense layer, of kind "pointwise" where it is a 1x1 convolution, and the last norm."""
    return {"embedding": TorchLayer(dense, kind), "embedding_norm": TorchLayer(norm)}


def xiaoccer_layers() -> Layers:
    """conv1, dw_conv1, blocks, conv2, linear7, linear1 (a 1x1 convolution makes the embedding)."""
    layers = _named("stem", "conv1") | _named("stem_depthwise", "dw_conv1") | _named("last", "conv2")
    layers |= _named("global", "linear7", act=False)
    for i in range(len(plan(UNITS))):
        name = f"blocks.{i}.conv"
        layers |= _block(f"unit_{i}/expand", f"{name}.0", f"{name}.1", f"{name}.2")
        layers |= _block(f"unit_{i}/depthwise", f"{name}.3", f"{name}.4", f"{name}.5")
        layers |= _block(f"unit_{i}/project", f"{name}.6", f"{name}.7")
    return layers | _embedding("linear1.conv", "linear1.bn", "pointwise")


def trebien_layers(head: str = "") -> Layers:
    """conv1, conv2_dw, conv_23 ... conv_6_sep, then below `head` ("" or "output_layer."): conv_6_dw, linear, bn."""
    layers = _named("stem", "conv1") | _named("stem_depthwise", "conv2_dw") | _named("last", "conv_6_sep")
    layers |= _named("global", f"{head}conv_6_dw", act=False)
    names = []
    for stage, count in zip((3, 4, 5), UNITS[1:], strict=True):
        names += [f"conv_{stage - 1}{stage}", *(f"conv_{stage}.model.{i}" for i in range(count))]
    for i, name in enumerate(names):
        layers |= _named(f"unit_{i}/expand", f"{name}.conv") | _named(f"unit_{i}/depthwise", f"{name}.conv_dw")
        layers |= _named(f"unit_{i}/project", f"{name}.project", act=False)
    return layers | _embedding(f"{head}linear", f"{head}bn")


def insightface_layers(units: Sequence[int] = UNITS) -> Layers:
    """layers.0 ... layers.7, conv_sep, features."""
    layers = _numbered("stem", "layers.0.layers") | _numbered("last", "conv_sep.layers")
    names = []
    if units[0] > 1:
        names = [f"layers.1.layers.{i}" for i in range(units[0])]
    else:
        layers |= _numbered("stem_depthwise", "layers.1.layers")
    for stage, count in zip((2, 4, 6), units[1:], strict=True):
        names += [f"layers.{stage}", *(f"layers.{stage + 1}.layers.{i}" for i in range(count))]
    for i, name in enumerate(names):
        for j, part in enumerate(("expand", "depthwise", "project")):
            layers |= _numbered(f"unit_{i}/{part}", f"{name}.layers.{j}.layers", act=part != "project")
    layers |= _numbered("global", "features.layers.0.layers", act=False)
    return layers | _embedding("features.layers.2", "features.layers.3")


def foamliu_layers() -> Layers:
    """conv1, dw_conv, features, conv2, gdconv, conv3 (a 1x1 convolution makes the embedding), bn."""
    layers = _numbered("stem", "conv1", act=False) | _numbered("last", "conv2", act=False)
    layers |= _block("stem_depthwise", "dw_conv.depthwise", "dw_conv.bn1")
    layers |= _block("stem_pointwise", "dw_conv.pointwise", "dw_conv.bn2")
    for i in range(len(plan(UNITS))):
        name = f"features.{i}.conv"
        layers |= _numbered(f"unit_{i}/expand", f"{name}.0", act=False)
        layers |= _numbered(f"unit_{i}/depthwise", f"{name}.1", act=False)
        layers |= _block(f"unit_{i}/project", f"{name}.2", f"{name}.3")
    layers |= _block("global", "gdconv.depthwise", "gdconv.bn")
    return layers | _embedding("conv3", "bn", "pointwise")


def _match(shapes: Shapes, layers: Layers, architecture: str, embedding_size: int) -> Match:
    """Sizes from the last 1x1 convolution, the global kernel and the embedding; usual ones for what is not there."""

    def shape(layer: str, usual: tuple[int, ...]) -> tuple[int, ...]:
        found = shapes.get(f"{layers[layer].name}.weight", usual)
        return found if len(found) in (2, 4) else usual

    height, width = shape("global", (512, 1, 7, 7))[-2:]
    fields = {
        "width": shape("last", (512, 128, 1, 1))[0] / 512,
        "embedding_size": shape("embedding", (embedding_size, 512))[0],
    }
    return Match(architecture, fields, layers, image_size=(16 * height, 16 * width))


def _has(shapes: Shapes, *prefixes: str) -> bool:
    return all(any(name.startswith(prefix) for name in shapes) for prefix in prefixes)


def _xiaoccer(shapes: Shapes) -> Match | None:
    if not _has(shapes, "linear7."):
        return None
    return _match(shapes, xiaoccer_layers(), "mobilefacenet", 128)


def _trebien(shapes: Shapes) -> Match | None:
    if not _has(shapes, "conv_6_sep."):
        return None
    head = "output_layer." if _has(shapes, "output_layer.") else ""
    return _match(shapes, trebien_layers(head), "mobilefacenet", 512)


def _insightface(shapes: Shapes) -> Match | None:
    if not _has(shapes, "conv_sep.layers."):
        return None
    if _has(shapes, "layers.1.layers.0.layers."):  # units in place of the stem's depthwise convolution
        return _match(shapes, insightface_layers(LARGE_UNITS), "mbf_large", 512)
    match = _match(shapes, insightface_layers(), "mbf", 512)
    stem, first = shapes.get("layers.0.layers.1.weight", ()), scaled_channels(64, match.fields["width"])
    return match._replace(architecture="mobilefacenet") if stem == (first,) else match


def _foamliu(shapes: Shapes) -> Match | None:
    if not _has(shapes, "gdconv."):
        return None
    return _match(shapes, foamliu_layers(), "mobilefacenet_relu6", 128)


IMAGENET = Convention((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "Xiaoccer's MobileFaceNet",
        ("mobilefacenet",),
        "linear7.conv.weight",
        _xiaoccer,
        Convention(std=(128.0, 128.0, 128.0)),
    ),
    Layout("TreB1eN's MobileFaceNet", ("mobilefacenet",), "conv_6_sep.conv.weight", _trebien),
    Layout(
        "InsightFace arcface_torch mbf",
        ("mbf", "mbf_large", "mobilefacenet"),
        "conv_sep.layers.0.weight",
        _insightface,
    ),
    Layout("foamliu's MobileFaceNet", ("mobilefacenet_relu6",), "gdconv.depthwise.weight", _foamliu, IMAGENET),
)
