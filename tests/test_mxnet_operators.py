"""Every operator of imported MXNet graphs against NumPy in MXNet's order of axes."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import uniform
from mxnet_files import SIZE, SymbolWriter, answer, arrays_for, faces

from advcloak_jax.recognizers.depthwise import depthwise
from advcloak_jax.recognizers.mxnet.symbol import parse_symbol


def nchw() -> np.ndarray:
    return faces().transpose(0, 3, 1, 2).astype(np.float64)


def windows(x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> np.ndarray:
    """[B, C, H, W] to [B, C, h, w, kh, kw]."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    return view[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


CONVOLUTIONS = [
    {"kernel": (3, 3), "num_filter": 4, "pad": (1, 1)},
    {"kernel": (3, 3), "num_filter": 8, "pad": (1, 1), "stride": (2, 2), "no_bias": True},
    {"kernel": (1, 1), "num_filter": 5},
    {"kernel": (1, 1), "num_filter": 5, "stride": (2, 2), "no_bias": 1},
    {"kernel": (3, 2), "num_filter": 4, "pad": (1, 0), "stride": (1, 2)},
    {"kernel": (3, 3), "num_filter": 4, "pad": (2, 2), "dilate": (2, 2)},
    {"kernel": (3, 3), "num_filter": 3, "num_group": 3, "pad": (1, 1)},
    {"kernel": (3, 3), "num_filter": 3, "num_group": 3, "pad": (1, 1), "stride": (2, 2), "no_bias": True},
    {"kernel": SIZE, "num_filter": 3, "num_group": 3},
    {"kernel": (6, 6), "num_filter": 3, "num_group": 3},
    {"kernel": (3, 3), "num_filter": 6, "num_group": 3, "pad": "(1L, 1L)"},
    {"kernel": (5, 5), "num_filter": 4, "pad": (5, 5)},
]


@pytest.mark.parametrize("attributes", CONVOLUTIONS, ids=str)
def test_convolution(attributes: dict[str, Any]) -> None:
    has_bias = not attributes.get("no_bias", False)
    writer = SymbolWriter()
    writer.layer("Convolution", "c", writer.data, "weight bias" if has_bias else "weight", workspace=256, **attributes)
    found, arrays = answer(writer)
    pad = (1, 1) if attributes.get("pad") == "(1L, 1L)" else attributes.get("pad", (0, 0))
    padded = np.pad(nchw(), ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    seen = windows(padded, attributes["kernel"], attributes.get("stride", (1, 1)), attributes.get("dilate", (1, 1)))
    groups, weight = attributes.get("num_group", 1), arrays["c_weight"]
    parts = zip(np.split(seen, groups, 1), np.split(weight, groups, 0), strict=True)
    wanted = np.concatenate([np.einsum("bchwij,ocij->bohw", part, kernel) for part, kernel in parts], 1)
    if has_bias:
        wanted = wanted + arrays["c_bias"][:, None, None]
    np.testing.assert_allclose(found, wanted, atol=3e-5)


@pytest.mark.parametrize("kind", ["max", "avg", "sum"])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad"), [((2, 2), (2, 2), (0, 0)), ((3, 3), (2, 2), (1, 1)), ((3, 2), (2, 2), (0, 1))]
)
@pytest.mark.parametrize("convention", ["valid", "full"])
@pytest.mark.parametrize("counts_padding", [True, False])
def test_pooling(kind: str, kernel: Any, stride: Any, pad: Any, convention: str, counts_padding: bool) -> None:
    """MXNet's windows written out: start i * stride - pad, cut at the padding's end, then at the map's."""
    writer = SymbolWriter()
    writer.op(
        "Pooling",
        "p",
        writer.data,
        kernel=kernel,
        stride=stride,
        pad=pad,
        pool_type=kind,
        pooling_convention=convention,
        count_include_pad=counts_padding,
    )
    found, _ = answer(writer)
    x = nchw()
    rounding = np.ceil if convention == "full" else np.floor
    lengths = [int(rounding((SIZE[i] + 2 * pad[i] - kernel[i]) / stride[i])) + 1 for i in (0, 1)]
    wanted = np.zeros((*x.shape[:2], *lengths))
    for row, column in itertools.product(*map(range, lengths)):
        start = (row * stride[0] - pad[0], column * stride[1] - pad[1])
        end = [min(start[i] + kernel[i], SIZE[i] + pad[i]) for i in (0, 1)]
        count = (end[0] - start[0]) * (end[1] - start[1])
        seen = x[:, :, max(start[0], 0) : end[0], max(start[1], 0) : end[1]]
        count = count if counts_padding else seen.shape[2] * seen.shape[3]
        total = {"max": seen.max, "sum": seen.sum, "avg": seen.sum}[kind](axis=(2, 3))
        wanted[:, :, row, column] = total / count if kind == "avg" else total
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "epsilon", "uses_gamma"),
    [({}, 1e-3, False), ({"fix_gamma": "False", "eps": "2e-05"}, 2e-5, True), ({"fix_gamma": "0"}, 1e-3, True)],
)
def test_batch_norm_has_mxnets_defaults(attributes: dict[str, str], epsilon: float, uses_gamma: bool) -> None:
    writer = SymbolWriter()
    writer.layer("BatchNorm", "n", writer.data, "gamma beta moving_mean moving_var", **attributes)
    symbol = parse_symbol(writer.json(), "test")
    arrays = arrays_for(symbol) | {"n_moving_var": np.array([1e-4, 0.01, 2.0], np.float32)}  # small: epsilon matters
    found, _ = answer(writer, arrays)
    gamma, beta, mean, var = (
        arrays[f"n_{part}"][:, None, None].astype(np.float64) for part in ("gamma", "beta", "moving_mean", "moving_var")
    )
    wanted = (nchw() - mean) / np.sqrt(var + epsilon) * (gamma if uses_gamma else 1) + beta
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_dense_layers_flatten_channels_first() -> None:
    writer = SymbolWriter()
    pooled = writer.op("Pooling", "p", writer.data, kernel=(2, 2), stride=(2, 2), pool_type="avg")
    writer.layer("FullyConnected", "f", pooled, "weight bias", num_hidden=5)
    found, arrays = answer(writer)
    pooled_map = windows(nchw(), (2, 2), (2, 2), (1, 1)).mean((4, 5))
    np.testing.assert_allclose(found, pooled_map.reshape(2, -1) @ arrays["f_weight"].T + arrays["f_bias"], atol=1e-5)
    writer.nodes[-1]["attrs"]["flatten"] = "False"
    found, arrays = answer(writer)
    np.testing.assert_allclose(found, pooled_map @ arrays["f_weight"].T + arrays["f_bias"], atol=1e-5)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def unit(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return x / np.sqrt(np.square(x).sum(axes, keepdims=True) + 1e-10)


ONE_INPUT: list[tuple[str, dict[str, Any], Callable[[np.ndarray], np.ndarray]]] = [
    ("Activation", {"act_type": "relu"}, lambda x: np.maximum(x, 0)),
    ("Activation", {"act_type": "sigmoid"}, sigmoid),
    ("Activation", {"act_type": "tanh"}, np.tanh),
    ("Activation", {"act_type": "softrelu"}, lambda x: np.log1p(np.exp(x))),
    ("LeakyReLU", {}, lambda x: np.where(x > 0, x, 0.25 * x)),
    ("LeakyReLU", {"act_type": "leaky", "slope": 0.1}, lambda x: np.where(x > 0, x, 0.1 * x)),
    ("LeakyReLU", {"act_type": "elu", "slope": 0.3}, lambda x: np.where(x > 0, x, 0.3 * np.expm1(x))),
    ("LeakyReLU", {"act_type": "rrelu"}, lambda x: np.where(x > 0, x, 0.2295 * x)),
    ("Flatten", {}, lambda x: x.reshape(2, -1)),
    ("Dropout", {"p": 0.4}, lambda x: x),
    ("identity", {}, lambda x: x),
    ("Cast", {"dtype": "float16"}, lambda x: x),
    ("clip", {"a_min": -0.2, "a_max": 0.3}, lambda x: x.clip(-0.2, 0.3)),
    ("_plus_scalar", {"scalar": "0.5"}, lambda x: x + 0.5),
    ("_MinusScalar", {"scalar": "127.5"}, lambda x: x - 127.5),
    ("_rminus_scalar", {"scalar": "1"}, lambda x: 1 - x),
    ("_mul_scalar", {"scalar": "0.0078125"}, lambda x: x / 128),
    ("_div_scalar", {"scalar": "3"}, lambda x: x / 3),
    ("_maximum_scalar", {"scalar": "0"}, lambda x: np.maximum(x, 0)),
    ("_minimum_scalar", {"scalar": "0.1"}, lambda x: np.minimum(x, 0.1)),
    ("Pooling", {"global_pool": "True", "kernel": (7, 7), "pool_type": "avg"}, lambda x: x.mean((2, 3), keepdims=True)),
    ("Pooling", {"global_pool": "True", "kernel": (7, 7), "pad": (1, 1)}, lambda x: x.max((2, 3), keepdims=True)),
    ("transpose", {"axes": (0, 2, 3, 1)}, lambda x: x.transpose(0, 2, 3, 1)),
    ("transpose", {}, lambda x: x.T),
    ("SwapAxis", {"dim1": 1, "dim2": 3}, lambda x: x.swapaxes(1, 3)),
    ("Reshape", {"shape": (0, -1)}, lambda x: x.reshape(2, -1)),
    ("Reshape", {"shape": (0, 0, -3)}, lambda x: x.reshape(2, 3, 48)),
    ("Reshape", {"shape": (-4, 1, -1, -2)}, lambda x: x[None]),
    ("slice_axis", {"axis": 1, "begin": 1, "end": "None"}, lambda x: x[:, 1:]),
    ("slice_axis", {"axis": -1, "begin": 2, "end": -2}, lambda x: x[..., 2:-2]),
    ("slice", {"begin": "(None, 1, 0)", "end": "(None, 3, 5)", "step": (1, 1, 2)}, lambda x: x[:, 1:3, :5:2]),
    ("expand_dims", {"axis": 1}, lambda x: x[:, None]),
    ("mean", {"axis": (2, 3), "keepdims": True}, lambda x: x.mean((2, 3), keepdims=True)),
    ("mean", {"axis": 1}, lambda x: x.mean(1)),
    ("sum", {"axis": (0, 1), "exclude": True}, lambda x: x.sum((2, 3))),
    ("max", {"axis": 2}, lambda x: x.max(2)),
    ("L2Normalization", {}, lambda x: unit(x, (1, 2, 3))),
    ("L2Normalization", {"mode": "channel"}, lambda x: unit(x, (1,))),
    ("L2Normalization", {"mode": "spatial"}, lambda x: unit(x, (2, 3))),
]


@pytest.mark.parametrize(
    ("op", "attributes", "wanted"), ONE_INPUT, ids=lambda value: None if callable(value) else str(value)[:40]
)
def test_operators_of_one_input(op: str, attributes: dict[str, Any], wanted: Callable[..., np.ndarray]) -> None:
    writer = SymbolWriter()
    writer.op(op, "o", writer.data, **attributes)
    np.testing.assert_allclose(answer(writer)[0], wanted(nchw()), rtol=1e-5, atol=1e-6)


TWO_INPUTS: list[tuple[str, Callable[..., np.ndarray]]] = [
    ("elemwise_add", np.add),
    ("_Plus", np.add),
    ("_minus", np.subtract),
    ("elemwise_mul", np.multiply),
    ("_maximum", np.maximum),
    ("add_n", np.add),
]


@pytest.mark.parametrize(("op", "wanted"), TWO_INPUTS)
def test_operators_of_two_inputs_see_through_the_storage(op: str, wanted: Callable[..., np.ndarray]) -> None:
    """One input is stored channels last, the other, rebuilt by two reshapes, as MXNet has it."""
    writer = SymbolWriter()
    flat = writer.op("Flatten", "flat", writer.data)
    rebuilt = writer.op("Reshape", "rebuilt", flat, shape=(0, 3, *SIZE))
    scaled = writer.op("_plus_scalar", "scaled", rebuilt, scalar=2)
    writer.op(op, "o", writer.data, scaled)
    np.testing.assert_allclose(answer(writer)[0], wanted(nchw(), nchw() + 2), rtol=1e-5)


def test_squeeze_and_excitation_and_learnt_constants() -> None:
    writer = SymbolWriter()
    squeezed = writer.op("Pooling", "pool", writer.data, global_pool=True, pool_type="avg", kernel=(1, 1))
    excited = writer.op("Activation", "gate", squeezed, act_type="sigmoid")
    gated = writer.op("broadcast_mul", "gated", writer.data, excited)
    constant = writer.variable("shift", __shape__=(1, 3, 1, 1))
    writer.op("broadcast_add", "o", gated, constant)
    found, arrays = answer(writer)
    x = nchw()
    np.testing.assert_allclose(
        found, x * sigmoid(x.mean((2, 3), keepdims=True)) + arrays["shift"], rtol=1e-5, atol=1e-6
    )


def test_prelu_slopes_go_with_the_channels_and_one_slope_serves_all() -> None:
    writer = SymbolWriter()
    writer.layer("LeakyReLU", "a", writer.data, "gamma", act_type="prelu")
    found, arrays = answer(writer)
    np.testing.assert_allclose(
        found, np.where(nchw() > 0, nchw(), nchw() * arrays["a_gamma"][:, None, None]), rtol=1e-5
    )
    found, _ = answer(writer, {"a_gamma": np.array([0.5], np.float32)})
    np.testing.assert_allclose(found, np.where(nchw() > 0, nchw(), nchw() * 0.5), rtol=1e-5)


@pytest.mark.parametrize("axis", [1, 3])
def test_split_and_concat_are_along_mxnets_axes(axis: int) -> None:
    writer = SymbolWriter()
    both = writer.op("Concat", "both", writer.data, writer.data, dim=axis, num_args=2)
    parts = writer.op("SliceChannel", "parts", both, num_outputs=2, axis=axis)
    writer.op("Concat", "o", (parts, 1), both, dim=axis)
    np.testing.assert_allclose(answer(writer)[0], np.concatenate([nchw()] * 3, axis), rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "padding"),
    [
        ((5, 6), (3, 3), (1, 1), (1, 1)),
        ((6, 5), (3, 3), (2, 2), (1, 1)),
        ((6, 7), (2, 3), (3, 1), (2, 0)),
        ((6, 6), (1, 5), (2, 4), (0, 2)),
        ((6, 4), (6, 4), (1, 1), (0, 0)),
        ((6, 4), (4, 4), (3, 3), (0, 1)),
    ],
)
def test_depthwise_and_its_gradients_equal_xlas_grouped_convolution(
    size: Any, kernel_size: Any, stride: Any, padding: Any
) -> None:
    x, kernel = uniform("x", (2, *size, 4)), uniform("k", (*kernel_size, 4))

    def grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
        sides, layout = [(zeros, zeros) for zeros in padding], ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel[:, :, None], stride, sides, dimension_numbers=layout, feature_group_count=4
        )

    def answers(function: Callable[..., jax.Array]) -> tuple[jax.Array, ...]:
        found, back = jax.vjp(function, x, kernel)
        return found, *back(jnp.asarray(uniform("c", found.shape)))

    ours, theirs = jax.jit(lambda: (answers(lambda x, k: depthwise(x, k, stride, padding)), answers(grouped)))()
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
