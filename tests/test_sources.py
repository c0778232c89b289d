"""From the text of --data to one FaceSet: names, refusals, and the cache of rendered faces."""

import errno
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advcloak_jax.data import cache, sources, synthetic
from advcloak_jax.data.faceset import FaceSet
from advcloak_jax.errors import UserError

SIZE = 16


def folder(path: Path, *people: str, value: int = 0) -> str:
    for number, person in enumerate(people):
        (path / person).mkdir(parents=True)
        Image.new("RGB", (SIZE, SIZE), (value, number, 0)).save(path / person / "1.png")
    return f"folder:{path}"


def load(*specs: str, keep: Path | None = None, **options) -> FaceSet:
    return sources.load(specs, image_size=SIZE, on_bad_image="refuse", cache=keep, **options)


@pytest.fixture
def renders(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Replace the renderer by a quick one; the list tells what was rendered."""
    calls: list[tuple] = []

    def quick(identities: int, images_per_identity: int, *, seed: int, image_size: int = 112, progress=None) -> FaceSet:
        calls.append((identities, images_per_identity, seed, image_size))
        count = identities * images_per_identity
        pixels = np.random.default_rng(seed).integers(0, 256, (count, image_size, image_size, 3), dtype=np.uint8)
        identity = np.repeat(np.arange(identities, dtype=np.int32), images_per_identity)
        if progress is not None:
            progress(count)
        return FaceSet(pixels, identity, tuple(f"synthetic/{i:05d}" for i in range(identities)))

    monkeypatch.setattr(synthetic, "synthetic_faces", quick)
    return calls


def test_names_carry_their_source(tmp_path: Path, renders: list) -> None:
    faces = load(folder(tmp_path / "celeba", "7202", "91", value=9), "synthetic:2x3")
    assert faces.names == ("celeba/7202", "celeba/91", "synthetic/00000", "synthetic/00001")
    assert faces.identity.tolist() == [0, 1, 2, 2, 2, 3, 3, 3]
    assert faces.images[1, 0, 0].tolist() == [9, 1, 0]
    assert renders == [(2, 3, 0, SIZE)]


def test_shared_names_are_told_apart_whatever_the_order(tmp_path: Path) -> None:
    one = folder(tmp_path / "a" / "faces", "x", value=1)
    two = folder(tmp_path / "b" / "faces", "x", value=2)
    three = folder(tmp_path / "c" / "faces-2", "x", value=3)
    for specs in [(one, two, three), (three, two, one)]:
        faces = load(*specs)
        shown = {name: int(faces.images[faces.images_of(i)[0], 0, 0, 0]) for i, name in enumerate(faces.names)}
        assert shown == {"faces/x": 1, "faces-3/x": 2, "faces-2/x": 3}


def test_folder_names_from_odd_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "celeba", "x")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "celeba")
    for text in ("folder:.", "folder:../celeba/", "folder:~/celeba", f"folder:{tmp_path}/celeba/x/.."):
        assert load(text).names == ("celeba/x",), text


def test_the_same_people_twice_are_refused(tmp_path: Path, renders: list) -> None:
    spec = folder(tmp_path / "celeba", "x")
    (tmp_path / "link").symlink_to(tmp_path / "celeba")
    for pair in [(spec, f"{spec}/"), (spec, f"folder:{tmp_path}/link"), ("synthetic:2x2", "synthetic:3x5@0")]:
        with pytest.raises(UserError, match="the same people"):
            load(*pair)
    assert not renders
    assert load("synthetic:1x1@1", "synthetic:1x1@2").names == ("synthetic/00000", "synthetic-2/00000")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("foldr:x", "did you mean folder:x?"),
        ("Folder:x", "did you mean folder:x?"),
        ("synth:2x3", "did you mean synthetic:2x3?"),
        ("s3:bucket", "must be folder:PATH"),
        ("nonsense", "must be folder:PATH"),
        ("", "must be folder:PATH"),
        ("folder:", "incomplete"),
        ("tfds", "incomplete"),
        ("synthetic:20", "synthetic:200x20"),
        ("synthetic:0x5", "synthetic:200x20"),
        ("synthetic:-2x5", "synthetic:200x20"),
        ("synthetic:2x5@", "synthetic:200x20"),
        ("synthetic:2x5@-1", "synthetic:200x20"),
        ("synthetic:2x99999999999999", "synthetic:200x20"),
        ("tfds:a:b:c", "not of the form"),
        ("folder:/no/where", "does not exist"),
    ],
)
def test_senseless_specs(spec: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bare_folder_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"did you mean folder:{tmp_path}"):
        load(str(tmp_path))


def test_no_source() -> None:
    with pytest.raises(UserError, match="--data"):
        load()


def test_progress_is_told(tmp_path: Path, renders: list) -> None:
    told: list[tuple] = []
    spec = folder(tmp_path / "celeba", "x", "y")
    load(spec, "synthetic:2x3", progress=lambda *what: told.append(what))
    assert told == [(spec, 2, 2), ("synthetic:2x3", 6, 6)]


def test_summary(renders: list) -> None:
    assert sources.summary(load("synthetic:3x4")) == "3 identities, 12 images (4 to 4 each), 16x16"


def test_real_renderer_through_the_cache(tmp_path: Path) -> None:
    told: list[tuple] = []
    faces = load("synthetic:2x2@5", keep=tmp_path, progress=lambda *what: told.append(what))
    whole = synthetic.synthetic_faces(2, 2, seed=5, image_size=SIZE)
    np.testing.assert_array_equal(faces.images, whole.images)
    np.testing.assert_array_equal(faces.identity, whole.identity)
    assert faces.names == whole.names
    assert told[-1] == ("synthetic:2x2", 4, 4)


def test_synthetic_faces_are_rendered_once(tmp_path: Path, renders: list) -> None:
    fresh = load("synthetic:2x3", keep=tmp_path / "new" / "cache")
    again = load("synthetic:2x3", keep=tmp_path / "new" / "cache")
    assert len(renders) == 1
    assert isinstance(again.images, np.memmap)
    assert not again.images.flags.writeable
    np.testing.assert_array_equal(again.images, fresh.images)
    load("synthetic:2x3@1", keep=tmp_path / "new" / "cache")
    load("synthetic:3x2", keep=tmp_path / "new" / "cache")
    assert len(renders) == 3
    assert len(list((tmp_path / "new" / "cache").iterdir())) == 3


def test_new_renderer_version_renders_again(tmp_path: Path, renders: list, monkeypatch: pytest.MonkeyPatch) -> None:
    load("synthetic:2x3", keep=tmp_path)
    monkeypatch.setattr(synthetic, "VERSION", "another", raising=False)
    load("synthetic:2x3", keep=tmp_path)
    assert len(renders) == 2


def test_damaged_cache_is_rendered_again(tmp_path: Path, renders: list, caplog: pytest.LogCaptureFixture) -> None:
    good = np.array(load("synthetic:2x3", keep=tmp_path).images)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    damages = [b"", b"x", whole[:-100], whole[:100], whole + b"0", bytes(len(whole)), bytes(flipped)]
    for number, damage in enumerate(damages):
        path.write_bytes(damage)
        with caplog.at_level(logging.WARNING, "advcloak_jax"):
            np.testing.assert_array_equal(load("synthetic:2x3", keep=tmp_path).images, good)
        assert len(renders) == 2 + number
        assert path.read_bytes() == whole
    assert caplog.text.count("is damaged") == len(damages)


def test_sound_file_of_another_shape_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    cache.cached_array(path, (2, 2), lambda: np.ones((2, 2), np.uint8))
    np.testing.assert_array_equal(cache.cached_array(path, (3,), lambda: np.arange(3, dtype=np.uint8)), [0, 1, 2])


def test_interrupted_rendering_leaves_nothing(tmp_path: Path) -> None:
    def stop() -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.cached_array(tmp_path / "x.npy", (1,), stop)
    assert not list(tmp_path.iterdir())


def test_full_disk(tmp_path: Path, renders: list, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"Cannot write the cache .*No space left on device"):
        load("synthetic:2x3", keep=tmp_path)
    assert not list(tmp_path.iterdir())


def test_cache_that_is_no_folder(tmp_path: Path, renders: list) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write the cache"):
        load("synthetic:2x3", keep=tmp_path / "file")
