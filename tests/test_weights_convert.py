"""State dicts of a layout are told from others, and every tensor is placed or named."""

import os
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import tensor

from advcloak_jax.errors import UserError
from advcloak_jax.networks.torch_weights import TorchLayer
from advcloak_jax.recognizers.torch_names.layout import Layout, Match, Shapes
from advcloak_jax.recognizers.weights.convert import all_layouts, convert, recognise
from advcloak_jax.recognizers.weights.reader import read_weights

SHARED = Path(os.environ.get("ADVCLOAK_SHARED", Path(__file__).parents[2] / "shared"))
SHAPES: dict[str, tuple[int, ...]] = {
    "stem.weight": (4, 3, 3, 3),
    "bn.weight": (4,),
    "bn.bias": (4,),
    "bn.running_mean": (4,),
    "bn.running_var": (4,),
    "fc.weight": (5, 16),
    "fc.bias": (5,),
}
LAYERS = {"conv": TorchLayer("stem"), "norm": TorchLayer("bn"), "dense": TorchLayer("fc", "flattened")}


class Toy(nn.Module):
    """A convolution, its norm, and a dense layer on the flattened 2x2 map."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        maps = nn.Conv(4, (3, 3), use_bias=False, name="conv")(images)
        maps = nn.BatchNorm(use_running_average=True, name="norm")(maps)
        return nn.Dense(5, name="dense")(maps.reshape(len(maps), -1))


TEMPLATE = jax.eval_shape(lambda: Toy().init(jax.random.key(0), jnp.zeros((1, 2, 2, 3))))


def toy(architecture: str, distinctive: str) -> Layout:
    def match(shapes: Shapes) -> Match | None:
        if distinctive not in shapes:
            return None
        return Match(architecture, {"embedding_size": 5}, LAYERS, (2, 2), (2, 2), (r"head\..*",))

    return Layout(f"{architecture} by its authors", (architecture,), distinctive, match)


LAYOUTS = (toy("toy", "stem.weight"), toy("other", "conv1.weight"), toy("third", "body.weight"))


def state(**changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """The whole state dict, with tensors added, replaced or (None) taken out; "__" stands for a dot."""
    arrays: dict[str, np.ndarray] = {name: tensor(name, shape) for name, shape in SHAPES.items()}
    for name, value in changes.items():
        arrays.pop(name.replace("__", "."), None)
        if value is not None:
            arrays[name.replace("__", ".")] = value
    return arrays


def found() -> Match:
    return recognise(SHAPES, layouts=LAYOUTS)[1]


def test_the_layout_is_recognised() -> None:
    layout, match = recognise(SHAPES, layouts=LAYOUTS)
    assert layout is LAYOUTS[0]
    assert match.architecture == "toy"
    assert recognise(SHAPES, architecture="toy", layouts=LAYOUTS)[0] is layout


def test_another_architecture_is_told_with_what_to_write() -> None:
    with pytest.raises(
        UserError, match=r"not of other but look like toy \(toy by its authors\); write --architecture toy"
    ):
        recognise(SHAPES, architecture="other", layouts=LAYOUTS)
    with pytest.raises(UserError, match="--architecture is one of other, third, toy"):
        recognise(SHAPES, architecture="resnet", layouts=LAYOUTS)


def test_an_unknown_layout_names_what_was_looked_for_and_what_there_is() -> None:
    shapes = {f"layer{i}.weight": (i, 2) for i in range(9)}
    with pytest.raises(UserError) as caught:
        recognise(shapes, layouts=LAYOUTS)
    for words in ("'stem.weight'", "'conv1.weight'", "'layer4.weight' (4, 2) and 4 more"):
        assert words in str(caught.value)
    assert "layer5" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        recognise(shapes, architecture="other", layouts=LAYOUTS)
    assert "of other: looked for 'conv1.weight' (other by its authors);" in str(caught.value)


def test_a_network_within_something_else_gets_the_key_to_write() -> None:
    shapes = {f"model.{name}": shape for name, shape in SHAPES.items()} | {"head.kernel": (5, 9)}
    with pytest.raises(UserError, match="Write --key model for the 7 tensors"):
        recognise(shapes, layouts=LAYOUTS)


def test_a_choice_of_layouts_is_left_to_the_user() -> None:
    shapes = SHAPES | {"body.weight": (1,)}
    with pytest.raises(UserError, match=r"several layouts: toy .*, third .*--architecture"):
        recognise(shapes, layouts=LAYOUTS)
    assert recognise(shapes, architecture="third", layouts=LAYOUTS)[0] is LAYOUTS[2]


def test_the_converted_network_computes_what_the_tensors_say() -> None:
    """Against the layers' definitions in PyTorch's layout, by NumPy."""
    arrays = state(bn__num_batches_tracked=np.array(3), head__weight=np.ones((2, 2), np.float32))
    variables = convert(TEMPLATE, arrays, found())
    pictures = tensor("pictures", (2, 3, 2, 2))  # N, C, H, W
    padded = np.pad(pictures, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    maps = np.einsum("ncyxhw,ochw->noyx", windows, arrays["stem.weight"])
    channels = {name: arrays[f"bn.{name}"][:, None, None] for name in ("weight", "bias", "running_mean", "running_var")}
    maps = (maps - channels["running_mean"]) / np.sqrt(channels["running_var"] + 1e-5)
    maps = maps * channels["weight"] + channels["bias"]
    expected = maps.reshape(2, -1) @ arrays["fc.weight"].T + arrays["fc.bias"]
    np.testing.assert_allclose(Toy().apply(variables, pictures.transpose(0, 2, 3, 1)), expected, atol=1e-5)
    assert jax.tree.structure(variables) == jax.tree.structure(TEMPLATE)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(variables))


def test_everything_wrong_is_told_at_once() -> None:
    extra = {f"fpn__{i}": np.ones((i, 2), np.float32) for i in range(7)}
    arrays = state(bn__bias=None, fc__bias=np.ones(6, np.float32), stem__weight=np.ones((4, 1, 3, 3)), **extra)
    with pytest.raises(UserError) as caught:
        convert(TEMPLATE, arrays, found())
    for words in (
        "do not fit toy {'embedding_size': 5}",
        "missing (1): 'bn.bias' (needed (4,))",
        "not expected (7): 'fpn.0' (0, 2)",
        "'fpn.4' (4, 2) and 2 more",
        "of another shape (2): ",
        "'fc.bias' (6,) (read as (6,) in Flax's layout, needed (5,))",
        "'stem.weight' (4, 1, 3, 3) (read as (3, 3, 1, 4) in Flax's layout, needed (3, 3, 3, 4))",
    ):
        assert words in str(caught.value)
    assert "fpn.5" not in str(caught.value)


def test_a_dense_layer_of_another_image_size() -> None:
    with pytest.raises(UserError, match=r"'fc.weight' \(5, 18\) \(read as a flattened map, needed \(16, 5\)\)"):
        convert(TEMPLATE, state(fc__weight=np.ones((5, 18), np.float32)), found())
    with pytest.raises(UserError, match=r"'fc.weight' \(5, 64\)"):
        convert(TEMPLATE, state(fc__weight=np.ones((5, 64), np.float32)), found())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(value: float) -> None:
    broken = tensor("bn.running_var", (4,))
    broken[1] = value
    with pytest.raises(UserError, match=r"not finite \(1\): 'bn.running_var' \(1 of 4 values\)"):
        convert(TEMPLATE, state(bn__running_var=broken), found())
    convert(TEMPLATE, state(head__kernel=np.full(3, value)), found())  # not part of the embedding


def test_patterns_of_ignored_tensors_match_whole_names() -> None:
    with pytest.raises(UserError, match=r"not expected \(1\): 'my\.head\.weight'"):
        convert(TEMPLATE, state(my__head__weight=np.ones(3)), found())


def test_every_known_layout_has_its_own_name_and_example() -> None:
    layouts = all_layouts()
    assert len({layout.name for layout in layouts}) == len(layouts) == len({layout.example for layout in layouts})
    assert all(layout.recognise({}) is None and layout.recognise(SHAPES) is None for layout in layouts)


@pytest.mark.parametrize("file", ["mobilefacenet_casia/068.ckpt", "mobilefacenet_imagenet_norm/mobilefacenet.pt"])
def test_published_files_fit_one_layout(file: str) -> None:
    path = SHARED / "models" / file
    if not path.exists():
        pytest.skip(f"no {path}")
    shapes = {name: value.shape for name, value in read_weights(path).items()}
    layout, match = recognise(shapes, layouts=all_layouts())
    assert match.architecture in layout.architectures
    assert match.fields["embedding_size"] == 128
    assert recognise(shapes, architecture=match.architecture, layouts=all_layouts())[0] is layout
