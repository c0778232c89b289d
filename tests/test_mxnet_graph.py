"""Imported MXNet graphs: reading, checking, running; published models against their ONNX twins."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.fill import uniform
from mxnet_files import SIZE, SymbolWriter, arrays_for, faces, params_bytes

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.convention import Convention
from advcloak_jax.recognizers.frozen import freeze
from advcloak_jax.recognizers.mxnet.graph import MxnetGraph, from_file
from advcloak_jax.recognizers.mxnet.params_file import read_params
from advcloak_jax.recognizers.mxnet.symbol import parse_symbol
from advcloak_jax.recognizers.mxnet.variables import parameters_of, variables_of
from advcloak_jax.recognizers.recognizer import Recognizer, embed


def small_network(**fc: Any) -> SymbolWriter:
    """Scaling, a convolution, a depthwise one, and a dense embedding called fc1."""
    writer = SymbolWriter()
    x = writer.op("_minus_scalar", "centred", writer.data, scalar=127.5)
    x = writer.op("_mul_scalar", "scaled", x, scalar=0.0078125)
    x = writer.layer("Convolution", "conv", x, "weight", kernel=(3, 3), pad=(1, 1), num_filter=8, no_bias=True)
    x = writer.layer("BatchNorm", "bn", x, "gamma beta moving_mean moving_var", fix_gamma=False)
    x = writer.op("Activation", "act", x, act_type="tanh")
    x = writer.layer(
        "Convolution", "dw", x, "weight", kernel=(3, 3), stride=(2, 2), num_filter=8, num_group=8, no_bias=1
    )
    writer.layer("FullyConnected", "fc1", x, "weight bias", num_hidden=4, **fc)
    return writer


def saved(folder: Path, writer: SymbolWriter, *heads: int) -> tuple[Path, dict[str, np.ndarray]]:
    """The two files of a model, and its arrays as they are read back."""
    symbol = parse_symbol(writer.json(*heads), "test")
    named = {("aux:" if "moving" in name else "arg:") + name: value for name, value in arrays_for(symbol).items()}
    (folder / "net-0000.params").write_bytes(params_bytes(named))
    (folder / "net-symbol.json").write_text(writer.json(*heads))
    return folder / "net-symbol.json", read_params(folder / "net-0000.params")


CONVENTION = Convention((0.0,) * 3, (1.0,) * 3, "rgb", SIZE)


def test_module_is_a_recogniser(tmp_path: Path) -> None:
    """Unit pixels in, features out; shapes known beforehand; the gradient is the slope; the text rebuilds it."""
    module, text, variables = from_file(*saved(tmp_path, small_network()), CONVENTION)
    assert module.embedding_size == 4
    assert hash(module) == hash(MxnetGraph(text, 4, CONVENTION))
    pixels = jnp.asarray(faces()) * 0.5 + 0.5
    template = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), pixels)
    assert jax.tree.map(jnp.shape, template) == jax.tree.map(jnp.shape, variables)

    def feature(x: jax.Array) -> jax.Array:
        return (module.apply(variables, x, train=False) * uniform("cotangent", (2, 4))).sum()

    value, gradient = jax.jit(jax.value_and_grad(feature))(pixels)
    step = uniform("step", pixels.shape)
    slope = (feature(pixels + 1e-2 * step) - feature(pixels - 1e-2 * step)) / 2e-2
    assert abs(float(slope) - float((gradient * step).sum())) < 1e-2 * abs(float(slope))
    coarse = MxnetGraph(text, 4, CONVENTION, jnp.bfloat16).apply(variables, pixels, train=False)
    assert coarse.dtype == jnp.float32
    np.testing.assert_allclose((coarse * uniform("cotangent", (2, 4))).sum(), value, rtol=0.1, atol=0.1)
    with pytest.raises(ValueError, match="frozen"):
        module.apply(variables, pixels, train=True)


def test_frozen_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On accelerators too: nothing is known of its weights' names."""
    module, _, variables = from_file(*saved(tmp_path, small_network()), CONVENTION)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    frozen = freeze(Recognizer(module, variables), SIZE[0])
    assert jax.tree.structure(frozen.variables) == jax.tree.structure(variables)
    pixels = jnp.asarray(faces()) * 0.5 + 0.5
    np.testing.assert_array_equal(frozen(pixels), embed(module, variables, pixels))


def test_old_symbols_mean_the_same(tmp_path: Path) -> None:
    """Attributes under "param", inputs of two numbers, statistics that are not listed."""
    old = json.loads(small_network().json())
    names = [node["name"] for node in old["nodes"]]
    implied = {names.index("bn_moving_mean"), names.index("bn_moving_var")}
    kept = [number for number in range(len(names)) if number not in implied]
    nodes = [
        {
            "op": old["nodes"][number]["op"],
            "name": names[number],
            "param": old["nodes"][number]["attrs"],
            "attr": {"lr_mult": "0.1"},
            "inputs": [
                [kept.index(source), part] for source, part, _ in old["nodes"][number]["inputs"] if source in kept
            ],
        }
        for number in kept
    ]
    symbol_file, arrays = saved(tmp_path, small_network())
    wanted, _, variables = from_file(symbol_file, arrays, CONVENTION)
    symbol_file.write_text(json.dumps({"nodes": nodes, "heads": [[len(nodes) - 1, 0]]}))
    found, _, same = from_file(symbol_file, arrays, CONVENTION)
    pixels = jnp.asarray(faces())
    np.testing.assert_array_equal(found.apply(same, pixels, train=False), wanted.apply(variables, pixels, train=False))


def training_network() -> tuple[SymbolWriter, list[int]]:
    """With a classifier and a loss beside the embedding, as training leaves it."""
    writer = small_network()
    embedding = len(writer.nodes) - 1
    logits = writer.layer("FullyConnected", "fc7", embedding, "weight", num_hidden=10, no_bias=True)
    loss = writer.op("SoftmaxOutput", "softmax", logits, writer.variable("softmax_label"))
    return writer, [embedding, loss]


def test_embedding_is_found_in_a_training_symbol(tmp_path: Path) -> None:
    writer, heads = training_network()
    for chosen in (heads, heads[1:]):
        symbol = parse_symbol(writer.json(*chosen), "train-symbol.json")
        assert symbol.nodes[symbol.output[0]].name == "fc1"
        assert symbol.unused == ("fc7_weight", "softmax_label")
        arrays = arrays_for(symbol)
        variables_of(symbol, arrays | {"fc7_weight": np.ones((10, 4), np.float32)}, image_size=SIZE)
    named = parse_symbol(writer.json(*heads), "train-symbol.json", "bn_output")
    assert named.nodes[named.output[0]].name == "bn"
    with pytest.raises(UserError, match=r"no layer 'fc2'.*bn, fc1, fc7"):
        parse_symbol(writer.json(*heads), "train-symbol.json", "fc2")
    writer.nodes[heads[0]]["name"] = "embedding"
    with pytest.raises(UserError, match=r"does not tell its embedding.*bn, embedding, fc7"):
        parse_symbol(writer.json(*heads), "train-symbol.json")


def test_arrays_that_do_not_fit_are_listed_together() -> None:
    symbol = parse_symbol(small_network().json(), "test")
    arrays = arrays_for(symbol)
    del arrays["bn_beta"]
    arrays |= {"stray": np.ones(2), "conv_weight": np.ones((8, 3, 1, 1)), "fc1_bias": np.full(4, np.nan)}
    problem = (
        r"net\.params .*lacks bn_beta; it has unexpected stray; "
        r"it has misshapen conv_weight \[8, 3, 1, 1\] for \[8, 3, 3, 3\]; .* not finite in fc1_bias"
    )
    with pytest.raises(UserError, match=problem):
        variables_of(symbol, arrays, image_size=SIZE, where="net.params")


def edited(change: Callable[[list[dict[str, Any]]], Any]) -> str:
    content = json.loads(small_network().json())
    change(content["nodes"])
    return json.dumps(content)


BROKEN: list[tuple[str, str]] = [
    ("not json", "cannot be read as JSON"),
    ("[" * 100_000, "cannot be read as JSON"),
    ("[]", "list of 'nodes'"),
    ('{"nodes": [3], "heads": []}', "no JSON object"),
    ('{"nodes": [{"op": "null", "name": "data", "inputs": []}]}', "no list 'heads'"),
    (edited(lambda nodes: nodes[2].update(op="Deconvolution")), "'scaled' .* is a 'Deconvolution'"),
    (edited(lambda nodes: nodes[2]["attrs"].update(clever="1")), "attribute 'clever'"),
    (edited(lambda nodes: nodes[2].update(inputs=[[7, 0, 0]])), r"refers to \[7, 0, 0\]"),
    (edited(lambda nodes: nodes[2].update(inputs=[[True, 0, 0]])), "refers to"),
    (edited(lambda nodes: nodes[2].update(inputs=[])), "has no inputs"),
    (edited(lambda nodes: nodes[2].update(name="centred")), "two nodes called 'centred'"),
    (edited(lambda nodes: nodes[0].update(name="picture")), "no input called 'data'"),
]


@pytest.mark.parametrize(("text", "problem"), BROKEN, ids=lambda value: str(value)[-40:])
def test_broken_symbols_are_told(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        parse_symbol(text, "test-symbol.json")


UNRUNNABLE: list[tuple[str, str]] = [
    (edited(lambda nodes: nodes[4]["attrs"].update(kernel="(3, x)")), r"'conv' .*kernel='\(3, x\)'"),
    (edited(lambda nodes: nodes[4]["attrs"].update(kernel="(3,)")), "two sizes"),
    (edited(lambda nodes: nodes[4]["attrs"].update(num_group="2")), "2 groups do not divide 3 channels"),
    (edited(lambda nodes: nodes[4]["attrs"].pop("kernel")), "lacks the attribute 'kernel'"),
    (edited(lambda nodes: nodes[4]["attrs"].update(no_bias="False")), "should have 3 inputs, not 2"),
    (edited(lambda nodes: nodes[4].update(inputs=[[2, 1, 0], [3, 0, 0]])), "'scaled' has no output 1"),
    (edited(lambda nodes: nodes[10].update(op="elemwise_add", attrs={}, inputs=[[0, 0, 0], [9, 0, 0]])), "the same"),
    (edited(lambda nodes: nodes[2]["attrs"].update(scalar="nan")), "finite"),
    (edited(lambda nodes: nodes[2].update(op="Pooling", attrs={"kernel": "(9, 1)"})), "larger than the padded map"),
    (edited(lambda nodes: nodes[2].update(op="Pooling", attrs={"kernel": "(1, 1)", "pad": "(1, 1)"})), "wholly in"),
    (edited(lambda nodes: nodes[2].update(op="Reshape", attrs={"shape": "(0, -5)"})), "-5 is no code"),
]


@pytest.mark.parametrize(("text", "problem"), UNRUNNABLE, ids=lambda value: str(value)[-40:])
def test_nodes_that_cannot_run_are_named(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        parameters_of(parse_symbol(text, "test-symbol.json"), SIZE)


def test_output_must_be_an_embedding(tmp_path: Path) -> None:
    symbol_file, arrays = saved(tmp_path, small_network())
    del arrays["arg:fc1_weight"], arrays["arg:fc1_bias"]
    with pytest.raises(UserError, match=r"'bn' gives \[1, 8, 6, 8\]"):
        from_file(symbol_file, {name: a for name, a in arrays.items() if "dw" not in name}, CONVENTION, output="bn")
