"""Published weights become run folders that serve as target and as surrogate; bad ones leave nothing behind."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mxnet_files import SymbolWriter, params_bytes

from advcloak_jax.config import ImageConfig, ImportConfig, PersonConfig
from advcloak_jax.errors import UserError
from advcloak_jax.jobs import imported, inputs, list_targets
from advcloak_jax.jobs.import_weights import mxnet_files, run_import
from advcloak_jax.jobs.targets import load_target
from advcloak_jax.recognizers.mxnet.symbol import parse_symbol
from advcloak_jax.recognizers.mxnet.variables import parameters_of


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The two files of a small MXNet recogniser for 112x112 faces."""
    writer = SymbolWriter()
    x = writer.layer(
        "Convolution", "conv", writer.data, "weight", kernel=(8, 8), stride=(8, 8), num_filter=4, no_bias=1
    )
    writer.layer("FullyConnected", "fc1", x, "weight bias", num_hidden=5)
    parameters, _ = parameters_of(parse_symbol(writer.json(), "test"), (112, 112))
    rng = np.random.default_rng(0)
    arrays = {f"arg:{name}": rng.normal(size=p.shape).astype(np.float32) for name, p in parameters.items()}
    (tmp_path / "net-symbol.json").write_text(writer.json())
    (tmp_path / "net-0000.params").write_bytes(params_bytes(arrays))
    return tmp_path / "net-symbol.json"


def faces(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 112, 112, 3), np.uint8)


def by_hand(published: Path, images: np.ndarray) -> np.ndarray:
    """The network of `published` in a few lines of NumPy."""
    from advcloak_jax.recognizers.mxnet.params_file import read_params

    arrays = read_params(published.with_name("net-0000.params"))
    patches = images.astype(np.float64).reshape(len(images), 14, 8, 14, 8, 3)
    maps = np.einsum("nyaxbc,ocab->noyx", patches, arrays["arg:conv_weight"])
    features = maps.reshape(len(images), -1) @ arrays["arg:fc1_weight"].T + arrays["arg:fc1_bias"]
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_imported_folder_is_a_target(published: Path, tmp_path: Path) -> None:
    folder = run_import(ImportConfig(file=str(published), run=str(tmp_path / "runs" / "mine"), origin="me, CC0"))
    loaded = load_target(str(folder))
    assert loaded.target.name == "mine (mxnet graph)"
    np.testing.assert_allclose(loaded.target.embed(faces(3)), by_hand(published, faces(3)), atol=1e-5)
    entry = list_targets.check(str(folder), faces(4))
    assert (entry.kind, entry.embedding_size, entry.origin, entry.problem) == ("imported", 5, "me, CC0", "")
    assert entry.parameters == 4 * 3 * 64 + 5 * 4 * 14 * 14 + 5
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


def test_other_scale_and_order_are_the_same_as_other_pixels(published: Path, tmp_path: Path) -> None:
    config = ImportConfig(
        file=str(published), run=str(tmp_path / "mine"), mean=(127.5,), std=(1.0, 2.0, 4.0), channels="bgr"
    )
    images = faces(2)
    pixels = (images[..., ::-1].astype(np.float64) - 127.5) / [1, 2, 4]
    found = load_target(str(run_import(config))).target.embed(images)
    np.testing.assert_allclose(found, by_hand(published, pixels), atol=1e-5)


def test_imported_folder_is_a_surrogate(published: Path, tmp_path: Path) -> None:
    """Differentiable by the image; brings no faces; stage II may use it after a stage I against another recogniser."""
    folder = run_import(ImportConfig(file=str(published), run=str(tmp_path / "mine")))
    recognizer = inputs.load_recognizer(str(folder), "--surrogate").recognizer
    pixels = jnp.asarray(faces(2), jnp.float32) / 255
    slope = jax.grad(lambda x: recognizer(x)[:, 0].sum())(pixels)
    assert float(jnp.abs(slope).max()) > 0
    with pytest.raises(UserError, match=r"--data is needed: .* is imported and brings no faces"):
        inputs.resolve(ImageConfig(surrogate=str(folder)))
    config = ImageConfig(surrogate=str(folder), data=("synthetic:30x20",), image_size=64)
    assert inputs.resolve(config) == config
    with pytest.raises(UserError, match="is no run folder"):
        inputs.resolve(PersonConfig(surrogate=str(folder), generator=str(tmp_path / "none")))


def test_a_damaged_folder_is_told(published: Path, tmp_path: Path) -> None:
    folder = run_import(ImportConfig(file=str(published), run=str(tmp_path / "mine")))
    text = (folder / "network.json").read_text()
    (folder / "network.json").write_text(text.replace('"embedding_size": 5', '"embedding_size": 6'))
    with pytest.raises(UserError, match=r"\[1, 6\]"):
        imported.load(folder)
    (folder / "network.json").write_text(text.replace('"layout"', '"outlay"'))
    with pytest.raises(UserError, match="is damaged"):
        imported.load(folder)


def test_files_that_cannot_be_used_leave_nothing(published: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"

    def refused(message: str, **settings: object) -> None:
        with pytest.raises(UserError, match=message):
            run_import(ImportConfig(**({"file": str(published), "run": str(run)} | settings)))  # type: ignore[arg-type]
        assert not run.exists()

    refused("There is no file", file=str(tmp_path / "none.pth"))
    refused("brings its own graph", architecture="ir50")
    params = published.with_name("net-0000.params")
    whole = params.read_bytes()
    params.write_bytes(whole[: len(whole) // 2])
    refused("net-0000.params")
    params.write_bytes(params_bytes({"arg:conv_weight": np.full((4, 3, 8, 8), np.nan, np.float32)}))
    refused("fc1_weight")
    params.unlink()
    refused("needs one net-0000.params beside it, not 0")
    text = tmp_path / "weights.pth"
    text.write_text("<html>")
    refused("weights.pth", file=str(text))
    run.mkdir(parents=True)
    (run / "something").touch()
    with pytest.raises(UserError, match="exists already"):
        run_import(ImportConfig(file=str(text), run=str(run)))


def test_either_file_of_the_pair_may_be_named(published: Path, tmp_path: Path) -> None:
    pair = (published, published.with_name("net-0000.params"))
    assert mxnet_files(published) == mxnet_files(pair[1]) == pair
    (tmp_path / "net-0009.params").touch()
    with pytest.raises(UserError, match=r"not 2; name the \.params file"):
        mxnet_files(published)
    assert mxnet_files(tmp_path / "net-0009.params") == (published, tmp_path / "net-0009.params")
