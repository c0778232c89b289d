"""SCRFD's outputs to faces: on maps made by hand, in a file of such a network, and on real photos where they are."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advcloak_jax.errors import UserError
from advcloak_jax.photos import alignment, detector

SHARED = Path(os.environ.get("ADVCLOAK_SHARED", Path(__file__).parents[2] / "shared"))
SIDE, ANCHORS = 64, 2
POINTS = np.array([[10, 12], [30, 12], [20, 20], [12, 30], [28, 30]], float)


def maps(side: int, *faces: tuple[int, int, int, float]) -> list[np.ndarray]:
    """A network's outputs: at (stride, column, row, score) a face of 40x44 pixels, POINTS from its corner."""
    found = []
    for width in (1, 4, 10):
        for stride in detector.STRIDES:
            found.append(np.zeros(((side // stride) ** 2 * ANCHORS, width), np.float32))
    for stride, column, row, score in faces:
        level = detector.STRIDES.index(stride)
        place = (row * (side // stride) + column) * ANCHORS + 1
        centre = np.array([column, row]) * stride
        found[level][place] = score
        found[3 + level][place] = np.array([20, 22, 20, 22]) / stride
        found[6 + level][place] = ((POINTS - (20, 22)) / stride).ravel()
        assert centre.min() >= 0
    return found


def test_boxes_and_points_are_where_the_cells_say() -> None:
    (face,) = detector.decode(maps(SIDE, (8, 3, 4, 0.9)), SIDE)
    corner = np.array([24 - 20, 32 - 22]) + 0.5
    np.testing.assert_allclose(face.box, np.concatenate([corner, corner + np.array([40, 44])]), rtol=1e-6)
    np.testing.assert_allclose(face.points, corner + POINTS, rtol=1e-5)
    assert face.score == pytest.approx(0.9)


def test_a_face_is_found_once_and_weak_ones_are_not() -> None:
    found = detector.decode(maps(SIDE, (8, 3, 4, 0.7), (16, 1, 2, 0.8), (8, 4, 4, 0.6), (8, 7, 7, 0.4)), SIDE)
    assert [face.score for face in found] == pytest.approx([0.8])
    far = detector.decode(maps(256, (8, 3, 4, 0.7), (32, 6, 6, 0.8)), 256)
    assert [face.score for face in far] == pytest.approx([0.8, 0.7])


def test_overlap_is_a_share_of_the_union() -> None:
    a, b = np.array([0.0, 0, 4, 4]), np.array([2.0, 0, 6, 4])
    assert detector.overlap(a, b) == pytest.approx(8 / 24)
    assert detector.overlap(a, a) == 1
    assert detector.overlap(a, a + 4) == 0


def network(path: Path, outputs: list[np.ndarray]) -> Path:
    """A file that gives these outputs whatever it reads."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make, numpy = onnx.helper, onnx.numpy_helper
    taken = make.make_tensor_value_info("photo", onnx.TensorProto.FLOAT, [1, 3, "h", "w"])
    told = [
        make.make_tensor_value_info(f"o{i}", onnx.TensorProto.FLOAT, list(one.shape)) for i, one in enumerate(outputs)
    ]
    nodes = [
        make.make_node("Constant", [], [f"o{i}"], value=numpy.from_array(one, f"v{i}")) for i, one in enumerate(outputs)
    ]
    graph = make.make_graph(nodes, "detector", [taken], told)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_photo_of_any_size_is_seen_at_the_networks_and_told_in_its_own(tmp_path: Path) -> None:
    outputs = maps(640, (8, 20, 10, 0.9), (32, 9, 5, 0.9))
    # Any order of the outputs of a kind will do, as sizes tell them apart.
    found = detector.Detector(network(tmp_path / "d.onnx", outputs[::-1])).find(Image.new("RGB", (1280, 720)))
    assert len(found) == 2
    assert detector.area(found[0].box) == pytest.approx(80 * 88)
    corners = sorted(tuple(face.box[:2].tolist()) for face in found)
    np.testing.assert_allclose(corners, [[2 * 140.5, 2 * 58.5], [2 * 268.5, 2 * 138.5]], rtol=1e-4)
    assert detector.Detector(network(tmp_path / "none.onnx", maps(640))).find(Image.new("RGB", (90, 1))) == []


def test_what_is_no_detector_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no file"):
        detector.Detector(tmp_path / "absent.onnx")
    with pytest.raises(UserError, match=r"is no SCRFD detector with landmarks.*not outputs of \[1, 1, 1, 4, 4, 4\]"):
        detector.Detector(network(tmp_path / "six.onnx", maps(64)[:6]))
    other = detector.Detector(
        network(tmp_path / "other.onnx", [np.zeros((9, width), np.float32) for width in 3 * [1, 4, 10]])
    )
    with pytest.raises(UserError, match=r"is no SCRFD: of 80x80 cells it tells 9 scores"):
        other.find(Image.new("RGB", (64, 64)))
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(UserError, match="cannot be read as an ONNX network"):
        detector.Detector(tmp_path / "junk.onnx")


@pytest.mark.slow
def test_real_faces_are_found_and_cut_out_as_their_set_has_them() -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements-onnx.txt)")
    file = SHARED / "models" / "detectors" / "scrfd_2.5g_bnkps.onnx"
    photos = sorted((SHARED / "photos").glob("*/*.jpg"))[::20]
    if not file.exists() or not photos:
        pytest.skip("needs the detector and the photos in the folder ADVCLOAK_SHARED")
    with (SHARED / "faces" / "celeba.csv").open() as rows:
        known = {row["file"]: row for row in csv.DictReader(rows)}
    finder = detector.Detector(file)
    names = ("eyeL", "eyeR", "nose", "mouthL", "mouthR")
    for path in photos:
        picture = Image.open(path).convert("RGB")
        row = known[path.name]
        points = np.array([[float(row[f"{name}_{axis}"]) for axis in "xy"] for name in names]) + 0.5
        matrix = alignment.similarity(points, 112)
        errors = [np.abs(face.points - points).mean() for face in finder.find(picture)]
        assert min(errors) * alignment.magnification(matrix) < 2
        (published,) = (SHARED / "faces" / "celeba").glob(f"*/{path.stem}.*")
        reference = np.asarray(Image.open(published).convert("RGB"), int)
        assert np.abs(alignment.crop(picture, matrix, 112) - reference).mean() < 6
