"""Which maps of which networks are feature maps, and what dropout does to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import images
from mxnet_files import SymbolWriter, arrays_for

from advcloak_jax.recognizers import zoo
from advcloak_jax.recognizers.convention import Convention
from advcloak_jax.recognizers.feature_maps import changed, dropout, first_maps
from advcloak_jax.recognizers.mxnet.graph import MxnetGraph
from advcloak_jax.recognizers.mxnet.symbol import parse_symbol
from advcloak_jax.recognizers.mxnet.variables import variables_of
from advcloak_jax.recognizers.recognizer import Recognizer


def shapes_seen(name: str) -> list[tuple[int, ...]]:
    """Shapes of a network's feature maps for one 32 x 32 face, without running it."""
    module = zoo.build(name, width=0.125, embedding_size=8)
    face = jnp.zeros((1, 32, 32, 3))
    seen: list[tuple[int, ...]] = []

    def keep(values: jax.Array) -> jax.Array:
        seen.append(values.shape)
        return values

    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), face, train=False))
    with changed(keep):
        jax.eval_shape(lambda v: module.apply(v, face, train=False), variables)
    return seen


@pytest.mark.parametrize(("name", "maps"), [("ir18", 1 + 2 * 8), ("senet18", 1 + 2 * 8), ("iresnet18", 1 + 2 * 8)])
def test_ir_networks_have_the_stem_and_two_maps_a_unit(name: str, maps: int) -> None:
    seen = shapes_seen(name)
    assert len(seen) == maps
    assert seen[0][1:3] == (32, 32)


def test_depthwise_convolutions_are_feature_maps_global_ones_are_not() -> None:
    # Stem, its depthwise one, and one per unit; the last layer's map is one pixel.
    assert len(shapes_seen("mobilefacenet")) == 2 + 15
    assert len(shapes_seen("mobilenet")) == 1 + 13


@pytest.fixture(scope="module")
def graph() -> Recognizer:
    """A graph with a 3x3 convolution, a 1x1 one and a depthwise one."""
    writer = SymbolWriter()
    x = writer.op("_mul_scalar", "scaled", writer.data, scalar=0.01)
    x = writer.layer("Convolution", "conv", x, "weight", kernel=(3, 3), pad=(1, 1), num_filter=8, no_bias=True)
    x = writer.op("Activation", "act", x, act_type="tanh")
    x = writer.layer("Convolution", "narrow", x, "weight", kernel=(1, 1), num_filter=4, no_bias=True)
    x = writer.layer(
        "Convolution", "dw", x, "weight", kernel=(3, 3), stride=(2, 2), num_filter=4, num_group=4, no_bias=1
    )
    writer.layer("FullyConnected", "fc1", x, "weight bias", num_hidden=4)
    symbol = parse_symbol(writer.json(), "test")
    arrays = arrays_for(symbol)
    module = MxnetGraph(symbol.to_json(), 4, Convention((0.0,) * 3, (1.0,) * 3))
    return Recognizer(module, variables_of(symbol, arrays, image_size=(6, 8), where="test"))


def test_imported_graphs_are_treated_alike(graph: Recognizer) -> None:
    faces = jnp.asarray(images("maps", 2, 8))[:, :6]
    assert [m.shape for m in first_maps(graph, faces, 9)] == [(2, 6, 8, 8), (2, 2, 3, 4)]
    plain = graph(faces)
    with changed(lambda values: values * 0):
        emptied = graph(faces)
    np.testing.assert_allclose(emptied[0], emptied[1], atol=1e-6)  # nothing of the faces is left
    assert float(jnp.abs(plain[0] - plain[1]).max()) > 1e-3
    np.testing.assert_array_equal(graph(faces), plain)  # and outside of the context nothing is changed


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    values = jnp.ones((4, 40, 40, 8))
    first = dropout(keys, 0.1)
    made = np.asarray(first(values))
    assert set(np.unique(made)) == {0.0, np.float32(1 / np.float32(0.9))}
    assert (made == 0).mean() == pytest.approx(0.1, abs=0.005)
    again = np.asarray(first(values))
    assert (made == again).mean() == pytest.approx(0.82, abs=0.01)  # the next map draws anew
    np.testing.assert_array_equal(np.asarray(dropout(keys, 0.1)(values)), made)


def test_the_values_that_share_a_random_word_are_dropped_independently() -> None:
    keys = jax.random.split(jax.random.key(1), 3)
    made = np.asarray(dropout(keys, 0.3)(jnp.ones((3, 101, 101, 3)))).reshape(3, -1) == 0
    words = made[:, 1 + made.shape[1] // 2 :]  # their second halves; the first ones lie in the same order in front
    np.testing.assert_allclose(made.mean(1), 0.3, atol=0.01)
    np.testing.assert_allclose((made[:, : words.shape[1]] & words).mean(1), 0.09, atol=0.01)


def test_what_a_persons_maps_lose_does_not_depend_on_the_others() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    values = jnp.ones((6, 8, 8, 4))
    together = dropout(keys, 0.3)(values)
    alone = dropout(keys[1:2], 0.3)(values[:2])
    np.testing.assert_array_equal(together[2:4], alone)


def test_maps_come_in_order_and_no_more_than_asked() -> None:
    module = zoo.build("ir18", width=0.125, embedding_size=8)
    faces = jnp.asarray(images("maps", 1, 32))
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), faces, train=False))
    shapes = jax.eval_shape(lambda found: first_maps(found, faces, 3), Recognizer(module, variables))
    assert [m.shape for m in shapes] == [(1, 32, 32, 8), (1, 32, 32, 8), (1, 16, 16, 8)]
