"""One network twice, imported as a run folder and attached as ONNX: the same embeddings, made and published ones."""

import os
from pathlib import Path

import numpy as np
import pytest
from mxnet_files import SymbolWriter, params_bytes
from PIL import Image

from advcloak_jax.config import ImportConfig
from advcloak_jax.jobs.import_weights import run_import
from advcloak_jax.jobs.targets import load_target

SHARED = Path(os.environ.get("ADVCLOAK_SHARED", Path(__file__).parents[2] / "shared"))
# Published weights, imported by nothing but their name, and the published ONNX twin with its input.
PUBLISHED = {
    "mobilefacenet_casia/068.ckpt": "mobilefacenet_casia/xiaoccer_casia.onnx,mean=127.5,std=128",
    "mobilefacenet_y1/model-symbol.json": "mobilefacenet_y1/y1_insightface.onnx,mean=0,std=1",
    "mobileface_v2/MobileFace_Identification_V2-symbol.json": "mobileface_v2/mobileface_v2.onnx,mean=0,std=1",
    "mobilefacenet_imagenet_norm/mobilefacenet.pt": (
        "mobilefacenet_imagenet_norm/mobilefacenet.onnx,mean=123.675/116.28/103.53,std=58.395/57.12/57.375"
    ),
}


def least_cosine(folder: Path, onnx_spec: str, faces: np.ndarray) -> float:
    ours, theirs = (load_target(spec).target.embed(faces) for spec in (str(folder), f"onnx:{onnx_spec}"))
    return float((ours * theirs).sum(1).min())


def test_an_imported_network_and_its_onnx_twin_are_one(tmp_path: Path) -> None:
    """A small network in MXNet's files and as ONNX; another scale for one of them makes a difference."""
    onnx = pytest.importorskip("onnx", reason="the onnx package makes the twin")
    rng = np.random.default_rng(0)
    shapes = {"conv_weight": (4, 3, 8, 8), "fc1_weight": (5, 784), "fc1_bias": (5,)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    writer = SymbolWriter()
    x = writer.layer(
        "Convolution", "conv", writer.data, "weight", kernel=(8, 8), stride=(8, 8), num_filter=4, no_bias=1
    )
    x = writer.layer("Activation", "relu", x, "", act_type="relu")
    writer.layer("FullyConnected", "fc1", x, "weight bias", num_hidden=5)
    (tmp_path / "net-symbol.json").write_text(writer.json())
    (tmp_path / "net-0000.params").write_bytes(params_bytes({f"arg:{name}": a for name, a in arrays.items()}))
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        make.make_node("Conv", ["x", "conv_weight"], ["c"], kernel_shape=[8, 8], strides=[8, 8]),
        make.make_node("Relu", ["c"], ["r"]),
        make.make_node("Flatten", ["r"], ["f"]),
        make.make_node("Gemm", ["f", "fc1_weight", "fc1_bias"], ["e"], transB=1),
    ]
    inputs = [make.make_tensor_value_info("x", kind, ["n", 3, 112, 112])]
    outputs = [make.make_tensor_value_info("e", kind, ["n", 5])]
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    model = make.make_model(
        make.make_graph(nodes, "twin", inputs, outputs, weights),
        opset_imports=[make.make_opsetid("", 13)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "twin.onnx")
    folder = run_import(
        ImportConfig(file=str(tmp_path / "net-symbol.json"), run=str(tmp_path / "net"), mean=(100.0,), std=(128.0,))
    )
    faces = rng.integers(0, 256, (6, 112, 112, 3), np.uint8)
    twin = f"{tmp_path / 'twin.onnx'},std=128"
    assert least_cosine(folder, f"{twin},mean=100", faces) == pytest.approx(1, abs=1e-6)
    assert least_cosine(folder, f"{twin},mean=50", faces) < 1 - 1e-3


@pytest.mark.parametrize("weights", PUBLISHED)
def test_published_weights_equal_their_onnx_twins(weights: str, tmp_path: Path) -> None:
    files = sorted((SHARED / "faces" / "celeba").glob("*/*"))[::250][:16]
    if not (SHARED / "models" / weights).exists() or not files:
        pytest.skip("needs the published models and faces in the folder ADVCLOAK_SHARED")
    pytest.importorskip("onnxruntime")
    faces = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    folder = run_import(ImportConfig(file=str(SHARED / "models" / weights), run=str(tmp_path / "net")))
    assert least_cosine(folder, f"{SHARED / 'models' / PUBLISHED[weights]}", faces) > 1 - 1e-5
