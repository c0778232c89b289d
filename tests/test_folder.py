"""Folder source: pixels as Pillow decodes them, and everything a user's folder can hold by mistake."""

import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advcloak_jax.data import decode
from advcloak_jax.data.folder import load_folder
from advcloak_jax.errors import UserError

SIZE = 32
CELEBA = Path(__file__).parents[1].parent / "shared" / "faces" / "celeba"


def picture(seed: int, size: int = SIZE, mode: str = "RGB") -> Image.Image:
    """A smooth picture, so that lossy formats and resampling come near it."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    channels = [127 + 120 * np.sin(3 * x * (c + 1) + 2 * y + seed) for c in range(3)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8)).convert(mode)


def save(image: Image.Image, path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def load(root: Path, policy: str = "refuse", **options):
    return load_folder(root, image_size=SIZE, on_bad_image=policy, **options)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Two persons with two good images each."""
    for person in ("ann", "bob"):
        for number in range(2):
            save(picture(number), tmp_path / "faces" / person / f"{number}.png")
    return tmp_path / "faces"


def test_formats_are_read_exactly_and_in_order(tmp_path: Path) -> None:
    files = [
        save(picture(0), tmp_path / "b" / "1.JPG", quality=80),
        save(picture(1), tmp_path / "b" / "2.jpeg"),
        save(picture(2), tmp_path / "a" / "z.png"),
        save(picture(3), tmp_path / "a" / "y.bmp"),
        save(picture(4), tmp_path / "a" / "x.webp"),
    ]
    faces = load(tmp_path)
    assert faces.names == ("a", "b")
    assert faces.identity.tolist() == [0, 0, 0, 1, 1]
    assert faces.identity.dtype == np.int32
    for pixels, file in zip(faces.images, [files[4], files[3], files[2], files[0], files[1]], strict=True):
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(file)))


def test_many_threads_and_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        save(picture(number), tmp_path / f"{number % 3}" / f"{number:02d}.png")
    monkeypatch.setattr(decode, "_BLOCK", 3)
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(decode, "_threads", lambda: 8)
    parallel = load(tmp_path, progress=lambda label, done, total: calls.append((done, total)))
    monkeypatch.setattr(decode, "_threads", lambda: 1)
    single = load(tmp_path)
    np.testing.assert_array_equal(parallel.images, single.images)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (40, 40)


def test_real_faces_bit_exact() -> None:
    if not CELEBA.exists():
        pytest.skip("the real faces are not here")
    faces = load_folder(CELEBA, image_size=112, on_bad_image="refuse")
    assert (len(faces.names), len(faces)) == (200, 4023)
    assert int((faces.counts() >= 15).sum()) == 151
    for person in (0, 77, 199):
        files = sorted((CELEBA / faces.names[person]).iterdir())
        for index, file in zip(faces.images_of(person), files, strict=True):
            np.testing.assert_array_equal(faces.images[index], np.asarray(Image.open(file)))


def test_grey_alpha_palette_cmyk_and_16_bit(tmp_path: Path) -> None:
    grey = np.asarray(picture(1, mode="L"))
    save(Image.fromarray(grey), tmp_path / "p" / "1-grey.png")
    deep = grey.astype(np.uint16) * 257
    save(Image.fromarray(deep), tmp_path / "p" / "2-deep.png")
    alpha = Image.new("RGBA", (SIZE, SIZE), (200, 0, 100, 51))  # 20 % of the colour over white
    save(alpha, tmp_path / "p" / "3-alpha.png")
    palette = save(picture(2).quantize(64), tmp_path / "p" / "4-palette.png")
    save(picture(2, mode="CMYK"), tmp_path / "p" / "5-cmyk.jpg", quality=95)
    save(Image.new("LA", (SIZE, SIZE), (0, 0)), tmp_path / "p" / "6-clear.png")
    images = load(tmp_path).images
    np.testing.assert_array_equal(images[0], np.repeat(grey[..., None], 3, -1))
    np.testing.assert_array_equal(images[1], images[0])
    np.testing.assert_allclose(images[2].reshape(-1, 3)[0], [0.2 * 200 + 204, 204, 0.2 * 100 + 204], atol=1)
    np.testing.assert_array_equal(images[3], np.asarray(Image.open(palette).convert("RGB")))
    assert np.abs(images[4].astype(int) - np.asarray(picture(2))).mean() < 4
    assert images[5].min() == 255


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    file = save(picture(0), tmp_path / "p" / "1.jpg", exif=exif)
    stored = np.asarray(Image.open(file))
    np.testing.assert_array_equal(load(tmp_path).images[0], np.rot90(stored, -1))


def test_other_sizes_are_resized_with_one_warning(people: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(picture(0, 4 * SIZE), people / "ann" / "large.png")
    save(picture(0, SIZE // 2), people / "ann" / "small.png")
    save(picture(0, 64).resize((64, 60)), people / "bob" / "nearly.png")
    with caplog.at_level(logging.WARNING, "advcloak_jax"):
        faces = load(people)
    assert [record.message for record in caplog.records] == [
        f"folder:{people}: 3 of 7 images were not 32x32 and were resized"
    ]
    for index in (2, 3):
        assert np.abs(faces.images[index].astype(int) - np.asarray(picture(0))).mean() < 3


def test_reduction_does_not_alias(tmp_path: Path) -> None:
    checks = ((np.indices((4 * SIZE, 4 * SIZE)).sum(0) % 2) * 255).astype(np.uint8)
    save(Image.fromarray(checks), tmp_path / "p" / "1.png")
    assert np.abs(load(tmp_path).images[0, 2:-2, 2:-2].astype(int) - 127).max() <= 2


def truncated(path: Path) -> None:
    save(picture(0), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bomb(path: Path) -> None:
    """A PNG of 60000 x 60000 pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 9)))


def float_tiff_named_png(path: Path) -> None:
    Image.fromarray(np.zeros((SIZE, SIZE), np.float32)).save(path, "TIFF")


BAD = {
    "garbage.jpg": (lambda path: path.write_bytes(os.urandom(500)), "not a JPEG, PNG, BMP or WebP"),
    "empty.png": (lambda path: path.write_bytes(b""), "not a JPEG, PNG, BMP or WebP"),
    "text.jpg": (lambda path: path.write_text("hello"), "not a JPEG, PNG, BMP or WebP"),
    "tiff.png": (float_tiff_named_png, "not a JPEG, PNG, BMP or WebP"),
    "cut.jpg": (truncated, "cannot be decoded"),
    "cut.png": (truncated, "cannot be decoded"),
    "cut.webp": (truncated, ""),
    "cut.bmp": (truncated, "cannot be decoded"),
    "bomb.png": (bomb, "too many"),
    "notes.txt": (lambda path: path.write_text("hello"), "suffix"),
    "deeper": (lambda path: save(picture(0), path / "1.png"), "folder inside"),
    "wide.png": (lambda path: save(picture(0, 64).resize((64, 32)), path), "not square"),
    "tall.png": (lambda path: save(picture(0, 64).resize((50, 56)), path), "not square"),
    "tiny.png": (lambda path: save(picture(0, 15), path), "too small"),
    "dangling.jpg": (lambda path: path.symlink_to("nowhere.jpg"), "not a readable file"),
    "pipe.jpg": (os.mkfifo, "not a readable file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_entries_are_refused_or_skipped(people: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, reason = BAD[name]
    good = load(people)
    make(people / "ann" / name)
    with pytest.raises(UserError) as caught:
        load(people)
    assert f"ann/{name}" in str(caught.value)
    assert reason in str(caught.value)
    assert "--on-bad-image skip" in str(caught.value)
    with caplog.at_level(logging.WARNING, "advcloak_jax"):
        left = load(people, "skip")
    np.testing.assert_array_equal(left.images, good.images)
    np.testing.assert_array_equal(left.identity, good.identity)
    assert f"skipped {people}/ann/{name}" in caplog.records[0].message


def test_first_bad_file_and_their_number(people: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("bob/0.jpg", "ann/9.jpg", "bob/1.txt"):
        (people / name).write_text("no image")
    with pytest.raises(UserError, match=r"ann/9\.jpg is unusable.*2 more"):
        load(people)
    with caplog.at_level(logging.WARNING, "advcloak_jax"):
        assert len(load(people, "skip")) == 4
    listed = [record.message for record in caplog.records if record.message.startswith("skipped ")]
    assert len(listed) == 3


def test_identity_left_without_images_is_left_out(people: Path, caplog: pytest.LogCaptureFixture) -> None:
    (people / "aaa").mkdir()
    (people / "bab").mkdir()
    (people / "bab" / "1.jpg").write_text("no image")
    with caplog.at_level(logging.WARNING, "advcloak_jax"):
        faces = load(people, "skip")
    assert faces.names == ("ann", "bob")
    assert faces.identity.tolist() == [0, 0, 1, 1]
    assert sum("left out" in record.message for record in caplog.records) == 2


def test_litter_and_lists_are_ignored_silently(people: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = load(people)
    (people / "README.txt").write_text("licence")
    (people / ".git").mkdir()
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
        (people / "ann" / name).write_bytes(b"\0")
    with caplog.at_level(logging.WARNING, "advcloak_jax"):
        assert load(people).names == good.names
    assert not caplog.records


def test_image_beside_the_identities(people: Path) -> None:
    save(picture(0), people / "stray.png")
    with pytest.raises(UserError, match=r"stray\.png.*no identity"):
        load(people)
    assert len(load(people, "skip")) == 4


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is empty"):
        load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        load(tmp_path / "file")
    save(picture(0), tmp_path / "flat" / "1.png")
    with pytest.raises(UserError, match=r"1 image\(s\) but no sub-folders"):
        load(tmp_path / "flat")
    (tmp_path / "hollow" / "ann").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no images"):
        load(tmp_path / "hollow")
    save(picture(0), tmp_path / "deep" / "train" / "ann" / "1.png")
    with pytest.raises(UserError, match="folder inside an identity"):
        load(tmp_path / "deep")
    with pytest.raises(UserError, match="no usable image"):
        load(tmp_path / "deep", "skip")


def test_no_permission(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated, because root may read everything."""
    listdir = os.listdir

    def forbidden(path: Path) -> list[str]:
        if Path(path).name == "bob":
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", forbidden)
    with pytest.raises(UserError, match=r"Cannot read the folder .*bob: Permission denied"):
        load(people)


def test_unreadable_image(people: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (people / "ann" / "0.png").chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        load(people)


def test_names_outside_ascii(tmp_path: Path) -> None:
    save(picture(0), tmp_path / "Zoë [2]" / "é.png")
    latin = os.fsencode(tmp_path) + b"/\xe9ric"
    os.mkdir(latin)
    save(picture(1), tmp_path / "plain.png").rename(os.path.join(os.fsdecode(latin), "1.png"))
    (tmp_path / "x").mkdir()
    faces = load(tmp_path)
    assert set(faces.names) == {"Zoë [2]", "\\xe9ric"}
    for name in faces.names:
        name.encode()
