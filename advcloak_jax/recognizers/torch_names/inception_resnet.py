"""facenet-pytorch's names of Inception-ResNet-v1."""

from advcloak_jax.networks.torch_weights import TorchLayer
from advcloak_jax.recognizers.torch_names.layout import Layout, Match, Shapes

STEM = ("conv2d_1a", "conv2d_2a", "conv2d_2b", "conv2d_3b", "conv2d_4a", "conv2d_4b")
# Ours, theirs, and how many convolutions each branch has.
BLOCKS = (
    *((f"block_a_{i}", f"repeat_1.{i}", (1, 2, 3)) for i in range(5)),
    *((f"block_b_{i}", f"repeat_2.{i}", (1, 3)) for i in range(10)),
    *((f"block_c_{i}", f"repeat_3.{i}", (1, 3)) for i in range(5)),
    ("block_c_5", "block8", (1, 3)),
)
REDUCTIONS = (("reduction_a", "mixed_6a", (1, 3)), ("reduction_b", "mixed_7a", (2, 2, 3)))
DISTINCTIVE = "repeat_3."
"""Other Inception-ResNets in PyTorch have a `repeat`, `repeat_1` and `repeat_2`, of other blocks."""


def facenet_layers() -> dict[str, TorchLayer]:
    """Layers of `InceptionResNetV1` by facenet-pytorch's names (conv2d_1a, repeat_1, mixed_6a, ..., last_bn)."""
    layers = {"dense": TorchLayer("last_linear"), "norm_embedding": TorchLayer("last_bn")}
    for i, name in enumerate(STEM):
        layers |= _convolution(f"stem_{i}", name)
    for ours, theirs, lengths in BLOCKS:
        layers |= _branches(f"{ours}/mixed", theirs, lengths)
        layers[f"{ours}/project"] = TorchLayer(f"{theirs}.conv2d")
    for ours, theirs, lengths in REDUCTIONS:
        layers |= _branches(ours, theirs, lengths)
    return layers


def _branches(ours: str, theirs: str, lengths: tuple[int, ...]) -> dict[str, TorchLayer]:
    """A branch of one convolution is that convolution there, a longer one a sequence."""
    layers: dict[str, TorchLayer] = {}
    for b, length in enumerate(lengths):
        for i in range(length):
            name = f"{theirs}.branch{b}" if length == 1 else f"{theirs}.branch{b}.{i}"
            layers |= _convolution(f"{ours}/branch_{b}_{i}", name)
    return layers


def _convolution(ours: str, theirs: str) -> dict[str, TorchLayer]:
    return {f"{ours}/conv": TorchLayer(f"{theirs}.conv"), f"{ours}/norm": TorchLayer(f"{theirs}.bn")}


def recognise_facenet(shapes: Shapes) -> Match | None:
    """facenet-pytorch's state dicts, with or without a classifier (`logits`)."""
    if not any(name.startswith(DISTINCTIVE) for name in shapes):
        return None
    widest = shapes.get("conv2d_4b.conv.weight", (256,))[0]
    embedding = shapes.get("last_linear.weight", (512,))[0]
    return Match(
        architecture="inception_resnet_v1",
        fields={"width": widest / 256, "embedding_size": embedding},
        layers=facenet_layers(),
        image_size=(160, 160),
        ignored=(r"logits\..*",),
    )


LAYOUTS: tuple[Layout, ...] = (
    Layout("facenet-pytorch", ("inception_resnet_v1",), "repeat_3.0.branch0.conv.weight", recognise_facenet),
)
