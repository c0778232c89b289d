"""Exported networks, read back without their run folder: the same masks and embeddings, whatever the batch."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from advcloak_jax import images
from advcloak_jax.cloaks.averaged import person_masks
from advcloak_jax.config import ExportConfig, ImageConfig, RecognizerConfig, UniversalConfig
from advcloak_jax.errors import UserError
from advcloak_jax.files import write_json
from advcloak_jax.handover import onnx_file, stablehlo
from advcloak_jax.jobs import export, exported
from advcloak_jax.jobs.imported import Network
from advcloak_jax.jobs.universal import load_cloak
from advcloak_jax.networks.discriminator import Discriminator
from advcloak_jax.networks.generator import Generator
from advcloak_jax.recognizers import zoo
from advcloak_jax.recognizers.convention import Convention
from advcloak_jax.recognizers.recognizer import embed
from advcloak_jax.training.checkpoint import Checkpoints
from advcloak_jax.training.runs import IMPORTED, start_run

SIZE = 32
GENERATOR = Generator(width=4)
NARROW = {"width": 0.05, "embedding_size": 16}
RECOGNIZER = zoo.build("ir18", **NARROW)
BGR = Convention((127.5,) * 3, (128.0,) * 3, "bgr", (32, 24))


@jax.jit
def generated(variables: Any, faces: jax.Array) -> jax.Array:
    masks: jax.Array = GENERATOR.apply(variables, faces, train=False)  # type: ignore[assignment]
    return masks


@jax.jit
def persons_masks(variables: Any, faces: jax.Array) -> jax.Array:
    return person_masks(GENERATOR, variables, faces)


def embedded(module: nn.Module, variables: Any, faces: np.ndarray) -> jax.Array:
    return jax.jit(lambda variables, faces: embed(module, variables, faces))(variables, faces)


def variables_of(module: nn.Module, height: int = SIZE, width: int = SIZE) -> Any:
    """Initial variables, moved so that no statistic is 0 or 1."""
    faces = jnp.zeros((1, height, width, 3))
    shapes = jax.eval_shape(lambda key: module.init(key, faces, train=False), jax.random.key(0))
    draw = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.uniform(0.05, 0.15, leaf.shape), jnp.float32), shapes)


def keep(folder: Path, state: Any) -> None:
    checkpoints = Checkpoints(folder / "checkpoints", keep=1)
    checkpoints.save(4, state, 0.0)
    checkpoints.close()


def faces(*counts: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.random.default_rng(len(counts)).uniform(size=(*counts, height, width, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The export of a run of stage I, which is deleted, and its variables."""
    folder = tmp_path_factory.mktemp("export")
    run = start_run(
        "image", ImageConfig(run=str(folder / "run"), generator_width=4, discriminator_width=4, image_size=SIZE)
    )
    variables = variables_of(GENERATOR)
    keep(run.folder, {"generator": variables, "discriminator": variables_of(Discriminator(width=4))})
    out = export.run_export(ExportConfig(run=str(run.folder), out=str(folder / "out")))
    shutil.rmtree(run.folder)
    return out, variables


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The same of a trained recogniser."""
    folder = tmp_path_factory.mktemp("export")
    config = RecognizerConfig(run=str(folder / "run"), architecture="ir18", image_size=SIZE, **NARROW)
    run = start_run("recognizer", config)
    write_json(run.folder / "split.json", {"surrogate": []})
    variables = variables_of(RECOGNIZER)
    keep(run.folder, {"params": {"backbone": variables["params"]}, "batch_stats": variables["batch_stats"]})
    out = export.run_export(ExportConfig(run=str(run.folder), out=str(folder / "out")))
    shutil.rmtree(run.folder)
    return out, variables


def test_a_universal_mask_comes_back(tmp_path: Path) -> None:
    config = UniversalConfig(run=str(tmp_path / "run"), generator_width=4, image_size=SIZE, epsilon=8.0)
    run = start_run("universal", config)
    keep(run.folder, {"generator": variables_of(GENERATOR)})
    nobody = jnp.zeros((1, 1, SIZE, SIZE, 3))
    expected = np.asarray(load_cloak(run).make_masks(nobody, jax.random.key(0)))
    out = export.run_export(ExportConfig(run=str(run.folder), out=str(tmp_path / "out")))
    shutil.rmtree(run.folder)
    cloak = exported.load_universal(out)
    assert cloak.kind == "universal"
    np.testing.assert_array_equal(cloak.make_masks(nobody, jax.random.key(0)), expected)
    stored = safetensors.numpy.load_file(out / "weights.safetensors")
    np.testing.assert_array_equal(stored["mask"], expected)
    np.testing.assert_allclose(np.abs(expected).max() * 255, 8.0, rtol=1e-5)
    of_norm = stablehlo.read(out / "universal_mask.stablehlo")
    for norm in (343.0, 1200.0):
        found = np.asarray(of_norm(np.float32(norm)))
        np.testing.assert_allclose(found, images.rescale(expected, norm), atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(found) * 255, norm, rtol=1e-5)
    with pytest.raises(UserError, match=r"holds a universal, no generator"):
        exported.load_generator(out)


def test_the_generators_weights_come_back(generator: tuple[Path, Any]) -> None:
    out, variables = generator
    module, found = exported.load_generator(out)
    assert module == GENERATOR
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_the_recogniser_comes_back(recognizer: tuple[Path, Any]) -> None:
    out, variables = recognizer
    found = exported.load_recognizer(out)
    jax.tree.map(np.testing.assert_array_equal, found.variables, variables)
    expected = embedded(RECOGNIZER, variables, faces(2))
    np.testing.assert_array_equal(embedded(found.module, found.variables, faces(2)), expected)
    as_function = stablehlo.read(out / "embed.stablehlo")
    np.testing.assert_allclose(as_function(faces(2)), expected, atol=1e-6)


@pytest.mark.parametrize("count", [1, 5])
def test_masks_as_stablehlo_for_any_batch(generator: tuple[Path, Any], count: int) -> None:
    out, variables = generator
    found = stablehlo.read(out / "image_masks.stablehlo")(faces(count))
    np.testing.assert_allclose(found, generated(variables, faces(count)), atol=1e-6)


def test_persons_masks_as_stablehlo_have_the_norm_asked_for(generator: tuple[Path, Any]) -> None:
    out, variables = generator
    of_persons = stablehlo.read(out / "person_masks.stablehlo")
    for persons, photos, norm in ((1, 4, 300.0), (3, 2, 171.5)):
        given = faces(persons, photos)
        found = of_persons(given, np.float32(norm))
        expected = images.rescale(persons_masks(variables, given), norm)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(images.l2_norm(np.asarray(found)) * 255, norm, rtol=1e-5)


def test_jax_alone_runs_the_file(generator: tuple[Path, Any], tmp_path: Path) -> None:
    """In a process that has neither this package nor a run folder."""
    out, variables = generator
    np.save(tmp_path / "faces.npy", faces(2))
    program = (
        "import sys, jax.export, numpy\n"
        f"call = jax.export.deserialize(bytearray(open({str(out / 'image_masks.stablehlo')!r}, 'rb').read())).call\n"
        "numpy.save('masks.npy', call(numpy.load('faces.npy')))\n"
        "assert not any(name.startswith('advcloak') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=120)
    expected = generated(variables, faces(2))
    np.testing.assert_allclose(np.load(tmp_path / "masks.npy"), expected, atol=1e-6)


def test_every_platform_is_in_the_file(generator: tuple[Path, Any]) -> None:
    data = bytearray((generator[0] / "image_masks.stablehlo").read_bytes())
    assert jax.export.deserialize(data).platforms == ("cpu", "cuda", "tpu")


def test_the_description_says_what_is_in_the_file(generator: tuple[Path, Any]) -> None:
    out, variables = generator
    about = json.loads((out / "export.json").read_text())
    stored = safetensors.numpy.load_file(out / "weights.safetensors")
    told = about["weights"]["tensors"]
    assert {name: list(array.shape) for name, array in stored.items()} == {n: t["shape"] for n, t in told.items()}
    kernel = "params.decode_0.kernel"
    assert told[kernel]["axes"] == "kernel rows, kernel columns, inputs (of a group), outputs"
    np.testing.assert_array_equal(stored[kernel], variables["params"]["decode_0"]["kernel"])
    assert about["run"]["settings"]["generator_width"] == 4
    assert about["functions"]["image_masks"]["files"]["image_masks.stablehlo"]["largest_difference"] <= 1e-6


def test_an_imported_recogniser_with_its_own_input(tmp_path: Path) -> None:
    module = zoo.build("ir18", convention=BGR, **NARROW)
    variables = variables_of(module, 32, 24)
    network = Network("mine", "ir18", NARROW, BGR, 16, 1, "test", "", "")
    folder = tmp_path / "run"
    write_json(folder / "config.json", {"job": IMPORTED, "config": {}})
    write_json(folder / "network.json", network.to_json())
    keep(folder, variables)
    out = export.run_export(ExportConfig(run=str(folder), out=str(tmp_path / "out"), image_size=48))
    given = faces(2, height=48, width=48)
    expected = embedded(module, variables, given)
    np.testing.assert_allclose(stablehlo.read(out / "embed.stablehlo")(given), expected, atol=1e-6)
    found = exported.load_recognizer(out)
    np.testing.assert_array_equal(embedded(found.module, found.variables, given), expected)


def test_a_changed_file_is_refused(generator: tuple[Path, Any], tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(generator[0], out)
    data = bytearray((out / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (out / "weights.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"weights.safetensors is not the file that was exported"):
        exported.load_generator(out)
    with pytest.raises(UserError, match=r"holds a generator, no recognizer"):
        exported.load_recognizer(out)
    (out / "image_masks.stablehlo").write_bytes(b"not a function")
    with pytest.raises(UserError, match=r"image_masks.stablehlo is not readable"):
        stablehlo.read(out / "image_masks.stablehlo")


def test_what_cannot_be_exported_is_told_and_leaves_nothing(
    generator: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def message(**fields: Any) -> str:
        with pytest.raises(UserError) as told:
            export.run_export(ExportConfig(**{"run": str(tmp_path / "run"), "out": str(tmp_path / "out"), **fields}))
        return str(told.value)

    assert "is no run folder" in message()
    assert "exists already" in message(out=str(generator[0]))
    start_run("image", ImageConfig(run=str(tmp_path / "run")))
    assert "no checkpoint" in message()
    assert "--image-size is fixed" in message(image_size=64)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name != "json" else find(name))
    assert "pip install -r requirements-export.txt" in message()
    assert "pip install --no-deps -r requirements-onnx-export.txt" in message(formats=("onnx",))
    assert not (tmp_path / "out").exists()


by_hand = pytest.mark.skipif(
    importlib.util.find_spec("jax2onnx") is None, reason="jax2onnx is installed by hand (requirements-onnx-export.txt)"
)


@by_hand
@pytest.mark.parametrize("name", ["ir18", "iresnet18", "vit_s8"])
def test_embeddings_as_onnx(tmp_path: Path, name: str) -> None:
    module = zoo.build(name, **NARROW)
    variables = variables_of(module)
    (handed,) = export.functions.of_recognizer(module, variables, (SIZE, SIZE)).values()
    onnx_file.write(tmp_path / "embed.onnx", handed)
    for count in (1, 4):
        found = onnx_file.run(tmp_path / "embed.onnx", faces(count))
        np.testing.assert_allclose(found, embedded(module, variables, faces(count)), atol=1e-4)
        assert np.ptp(found, axis=0).max() > 0 or count == 1


@by_hand
def test_what_cannot_become_onnx_is_told(tmp_path: Path) -> None:
    handed = export.functions.Handed(lambda x: jax.pure_callback(np.sin, x, x), (("B", 3),), "")
    with pytest.raises(UserError, match=r"jax2onnx cannot convert odd .*; leave onnx out of --formats"):
        onnx_file.write(tmp_path / "odd.onnx", handed)
    assert not list(tmp_path.iterdir())


@by_hand
def test_masks_as_onnx(generator: tuple[Path, Any], tmp_path: Path) -> None:
    variables = generator[1]
    for name, handed in export.functions.of_generator(GENERATOR, variables, SIZE).items():
        onnx_file.write(tmp_path / f"{name}.onnx", handed)
    for count in (1, 4):
        found = onnx_file.run(tmp_path / "image_masks.onnx", faces(count))
        np.testing.assert_allclose(found, generated(variables, faces(count)), atol=1e-4)
    found = onnx_file.run(tmp_path / "person_masks.onnx", faces(2, 3), np.float32(300))
    expected = images.rescale(persons_masks(variables, faces(2, 3)), 300)
    np.testing.assert_allclose(found, expected, atol=1e-4)
