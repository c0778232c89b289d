"""Black boxes: what the network is fed, how blocks are cut, and the real networks where they are at hand."""

import json
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import diagnosis, targets, verification
from advcloak_jax.evaluation.onnx_spec import parse_onnx
from advcloak_jax.evaluation.onnx_target import OnnxTarget
from advcloak_jax.evaluation.targets import FlaxTarget
from advcloak_jax.recognizers.convention import Convention
from advcloak_jax.recognizers.iresnet import IResNet
from advcloak_jax.recognizers.recognizer import embed

onnx = pytest.importorskip("onnx", reason="the onnx package makes the test's graphs")
SHARED = Path(__file__).parents[1].parent / "shared"


def graph(path: Path, shape: list, *operators: str) -> Path:
    """A network that hands its input back, one row per image: its embedding shows exactly what it was fed."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    operators = operators or ("Flatten",)
    names = ["x", *(f"inner{i}" for i in range(len(operators) - 1)), "e"]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(operator, [names[i]], [names[i + 1]]) for i, operator in enumerate(operators)],
            "identity",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info("e", kind, None)],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    onnx.save(model, path)
    return path


def faces(count: int, size: int = 112) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def rows(pixels: np.ndarray) -> np.ndarray:
    flat = pixels.reshape(len(pixels), -1).astype(np.float64)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def target(spec: str, **options: int) -> OnnxTarget:
    return OnnxTarget(parse_onnx(spec), **options)


@pytest.mark.parametrize("batch", ["n", 1, 3])
def test_pixels_reach_the_network_as_its_convention_says(tmp_path: Path, batch: int | str) -> None:
    path = graph(tmp_path / "net.onnx", [batch, 3, 112, 96])
    images = faces(5)
    cropped = images[:, :, 8:104].astype(np.float64)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    expected = rows(((cropped[..., ::-1] - mean) / std).transpose(0, 3, 1, 2))
    options = "mean=123.675/116.28/103.53,std=58.395/57.12/57.375,channels=bgr"
    result = target(f"onnx:{path},{options}", batch=2).embed(images)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-7)
    default = target(f"onnx:{path}", batch=4).embed(images)
    np.testing.assert_allclose(default, rows((cropped.transpose(0, 3, 1, 2) - 127.5) / 127.5), atol=1e-7)


def test_channels_last_open_size_and_flip(tmp_path: Path) -> None:
    path = graph(tmp_path / "net.onnx", ["n", "h", "w", 3])
    images = faces(3)
    result = target(f"onnx:{path},mean=0,std=1,flip=true").embed(images)
    np.testing.assert_allclose(result, rows(images.astype(float) + images[:, :, ::-1]), atol=1e-7)


def test_open_size_and_layout_are_given(tmp_path: Path) -> None:
    images = faces(2)
    open_sides = graph(tmp_path / "open.onnx", ["n", "c", "h", "w"])
    network = target(f"onnx:{open_sides},mean=0,std=1,layout=nchw,size=112x96")
    np.testing.assert_array_equal(network.preprocess(images), images[:, :, 8:104].transpose(0, 3, 1, 2))
    last = target(f"onnx:{open_sides},mean=0,std=1,layout=nhwc")
    np.testing.assert_array_equal(last.preprocess(images), images)
    with pytest.raises(UserError, match="takes 112x96 faces; drop size="):
        target(f"onnx:{graph(tmp_path / 'net.onnx', ['n', 3, 112, 96])},size=112x112")
    with pytest.raises(UserError, match="batch of float RGB images"):
        target(f"onnx:{open_sides}")


def test_other_sizes_are_resized_from_the_centred_window(tmp_path: Path) -> None:
    network = target(f"onnx:{graph(tmp_path / 'net.onnx', ['n', 3, 112, 96])},mean=0,std=1")
    images = faces(2, 56)
    doubled = np.stack([np.asarray(Image.fromarray(i).resize((112, 112), Image.Resampling.BICUBIC)) for i in images])
    np.testing.assert_array_equal(network.preprocess(images), doubled[:, :, 8:104].transpose(0, 3, 1, 2))


def test_options_come_from_the_file_beside_and_the_spec_wins(tmp_path: Path) -> None:
    path = graph(tmp_path / "net.onnx", ["n", 3, 8, 8])
    (tmp_path / "net.onnx.json").write_text(json.dumps({"mean": [1, 2, 3], "std": 128, "name": "beside"}))
    spec = parse_onnx(f"onnx:{path},std=64,flip=false")
    assert (spec.name, spec.mean, spec.std) == ("beside", (1, 2, 3), (64, 64, 64))
    assert parse_onnx(f"onnx:{path},name=mine").name == "mine"
    (tmp_path / "net.onnx.json").unlink()
    assert parse_onnx(f"onnx:{path}").name == "net"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (",scale=3", r"Unknown option 'scale'.*mean, std, channels, flip, size, layout, name"),
        (",size=112", r"size=112 should read HxW"),
        (",layout=chw", r"layout=chw should be nchw or nhwc"),
        (",mean", "KEY=VALUE"),
        (",mean=1/2", "one number or three"),
        (",std=nan", "one number or three"),
        (",std=1/0/1", "must not be 0"),
        (",channels=grey", "rgb or bgr"),
        (",flip=maybe", "true or false"),
    ],
)
def test_bad_options_are_told(tmp_path: Path, options: str, message: str) -> None:
    path = graph(tmp_path / "net.onnx", ["n", 3, 8, 8])
    with pytest.raises(UserError, match=message):
        parse_onnx(f"onnx:{path}{options}")


def test_bad_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="There is no ONNX file"):
        parse_onnx(f"onnx:{tmp_path}/none.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    with pytest.raises(UserError, match="cannot be read as an ONNX network"):
        target(f"onnx:{broken}")
    (tmp_path / "broken.json").write_text("[1]")
    with pytest.raises(UserError, match="JSON object"):
        parse_onnx(f"onnx:{broken}")
    with pytest.raises(UserError, match="batch of float RGB images"):
        target(f"onnx:{graph(tmp_path / 'grey.onnx', ['n', 1, 8, 8])}")
    maps = target(f"onnx:{graph(tmp_path / 'maps.onnx', ['n', 3, 8, 8], 'Relu')}")
    with pytest.raises(UserError, match="should give embeddings"):
        maps.embed(faces(2))
    with pytest.raises(UserError, match="not finite"):
        target(f"onnx:{graph(tmp_path / 'log.onnx', ['n', 3, 8, 8], 'Flatten', 'Log')}").embed(faces(1))
    with pytest.raises(ValueError, match="uint8 faces"):
        maps.embed(faces(2).astype(np.float32))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"requirements-onnx\.txt"):
        target(f"onnx:{tmp_path / 'maps.onnx'}")


class Flatten(nn.Module):
    """An embedding in which every pixel can be recognised."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (1,))
        return jnp.reshape(images, (len(images), -1)) * scale


def test_flax_target_cuts_blocks_and_scales_pixels() -> None:
    images = faces(7, 6)
    module = Flatten()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 6, 6, 3)), train=False)
    network = FlaxTarget("ours", module, variables, batch=3)
    np.testing.assert_allclose(network.embed(images), rows(images), atol=1e-6)
    np.testing.assert_allclose(network.embed(images[:2]), rows(images[:2]), atol=1e-6)
    assert network.name == "ours"
    with pytest.raises(ValueError, match="uint8 faces"):
        network.embed(images[:0])


def test_recognisers_of_one_network_share_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own variables; another network, or another batch, is another program."""
    traced = []

    def noted(module: nn.Module, variables: Any, x: jax.Array) -> jax.Array:
        traced.append(module)
        return embed(module, variables, x)

    monkeypatch.setattr(targets, "embed", noted)
    images = faces(5, 10)
    first, second, more = (
        FlaxTarget(str(scale), Flatten(), {"params": {"scale": jnp.full(1, scale)}}, batch)
        for scale, batch in ((1.0, 4), (-2.0, 4), (1.0, 3))
    )
    np.testing.assert_allclose(first.embed(images), rows(images), atol=1e-6)
    np.testing.assert_allclose(second.embed(images), -rows(images), atol=1e-6)
    assert len(traced) == 1
    np.testing.assert_allclose(more.embed(images), rows(images), atol=1e-6)
    assert len(traced) == 2


def test_targets_can_be_fed_otherwise(tmp_path: Path) -> None:
    """With another convention they are what they would be if they had been named with it."""
    images, other = faces(3), Convention((10.0, 20.0, 30.0), (2.0, 4.0, 8.0), "bgr")
    path = graph(tmp_path / "net.onnx", ["n", 3, 112, 96])
    named = target(f"onnx:{path},mean=10/20/30,std=2/4/8,channels=bgr")
    fed = target(f"onnx:{path}").with_convention(other)
    np.testing.assert_array_equal(fed.embed(images), named.embed(images))
    assert fed.convention == named.convention == other._replace(size=(112, 96))

    small = {"units": (1, 1, 1, 1), "width": 0.125, "embedding_size": 8}
    modules = [IResNet(**small), IResNet(**small, convention=other)]
    variables = jax.jit(lambda key, x: modules[0].init(key, x, train=False))(
        jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    )
    ours, theirs = (FlaxTarget("ours", module, variables, batch=4) for module in modules)
    pictures = faces(3, 32)
    np.testing.assert_array_equal(ours.with_convention(other).embed(pictures), theirs.embed(pictures))
    assert np.abs(ours.embed(pictures) - theirs.embed(pictures)).max() > 1e-3
    flat = FlaxTarget("flat", Flatten(), {"params": {"scale": jnp.ones(1)}})
    assert isinstance(ours, diagnosis.Adjustable)
    assert isinstance(fed, diagnosis.Adjustable)
    assert not isinstance(flat, diagnosis.Adjustable)


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        "mobilefacenet_casia/xiaoccer_casia.onnx,mean=127.5,std=128",
        "mobilefacenet_y1/y1_insightface.onnx,mean=0,std=1",
        "mobileface_v2/mobileface_v2.onnx,mean=0,std=1",
        "mobilefacenet_imagenet_norm/mobilefacenet.onnx,mean=123.675/116.28/103.53,std=58.395/57.12/57.375",
        "edgeface_xxs/edgeface_xxs.onnx,mean=127.5,std=127.5",
    ],
)
def test_real_networks_know_real_faces(spec: str) -> None:
    folders = sorted((SHARED / "faces" / "celeba").glob("*/"))[:40]
    if not folders or not (SHARED / "models" / spec.split(",")[0]).exists():
        pytest.skip("needs real faces and published networks, which are not here")
    files = [(person, file) for person, folder in enumerate(folders) for file in sorted(folder.iterdir())[:4]]
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for _, file in files])
    network = target(f"onnx:{SHARED / 'models' / spec}")
    report = verification.summary(network.embed(images), np.array([person for person, _ in files]))
    assert report["auc"] > 0.98


def test_a_fingerprint_is_of_the_file_and_of_how_it_is_fed(tmp_path: Path) -> None:
    path = graph(tmp_path / "net.onnx", ["n", 3, 112, 112])
    plain = target(f"onnx:{path}").fingerprint()
    assert plain == target(f"onnx:{path},name=other").fingerprint()
    assert plain != target(f"onnx:{path},mean=0").fingerprint()
    assert plain != target(f"onnx:{path},flip=true").fingerprint()
    graph(path, ["n", 3, 112, 112], "Relu", "Flatten")
    assert plain != target(f"onnx:{path}").fingerprint()


def test_weights_outside_the_file_cannot_be_told(tmp_path: Path) -> None:
    path = graph(tmp_path / "net.onnx", ["n", 3, 112, 112])
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(4096, np.float32), "w"))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin")
    assert (tmp_path / "weights.bin").exists()
    assert target(f"onnx:{path}").fingerprint() is None


def test_a_network_of_ours_is_its_weights_and_its_convention() -> None:
    module = IResNet(units=(1, 1, 1, 1), width=0.05, embedding_size=8)
    variables = jax.jit(lambda: module.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), train=False))()
    found = FlaxTarget("a", module, variables)
    assert found.fingerprint() == FlaxTarget("b", module, variables).fingerprint()
    changed = jax.tree.map(lambda x: x + 1e-6, variables)
    assert found.fingerprint() != FlaxTarget("a", module, changed).fingerprint()
    assert found.fingerprint() != found.with_convention(Convention(std=(128.0,) * 3)).fingerprint()
