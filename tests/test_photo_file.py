"""Photos keep their looks and their colours' meaning, and lose what the camera tells."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from advcloak_jax.errors import UserError
from advcloak_jax.photos import photo_file

ORIENTATION, GPS, MAKER = 0x0112, 0x8825, 0x010F


def picture(width: int = 40, height: int = 24) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def tagged() -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKER] = 6, "a camera"
    exif.get_ifd(GPS)[2] = (48.0, 12.0, 1.0)
    return exif


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp"])
def test_a_photo_is_upright_and_tells_neither_camera_nor_place(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture().save(path, exif=tagged(), icc_profile=profile, quality=98)
    photo = photo_file.read(path)
    assert photo.picture.size == (24, 40)
    assert photo.profile == profile
    photo_file.write(tmp_path / "out" / f"b{suffix}", photo)
    with Image.open(tmp_path / "out" / f"b{suffix}") as written:
        assert written.size == (24, 40)
        assert dict(written.getexif()) == {}
        assert written.info.get("icc_profile") == profile
        assert written.format == {".jpg": "JPEG", ".JPEG": "JPEG", ".png": "PNG", ".webp": "WEBP"}[suffix]
        difference = np.abs(np.asarray(written.convert("RGB"), int) - np.asarray(photo.picture, int))
    assert difference.mean() < (3 if suffix.lower() in (".jpg", ".jpeg") else 0.01)


def test_the_profile_of_a_printers_colours_is_dropped(tmp_path: Path) -> None:
    picture().convert("CMYK").save(tmp_path / "a.jpg", icc_profile=b"of ink")
    assert photo_file.read(tmp_path / "a.jpg").profile is None


def test_photos_are_found_below_folders_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/z.PNG", "a/.hidden.jpg", ".thumbs/c.jpg", "notes.txt", "c/d/e.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c" / "film.MOV").touch()
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    found, others = photo_file.find(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a/z.PNG", "b.jpg", "c/d/e.webp"]
    assert [(str(path.relative_to(tmp_path)), why) for path, why in others] == [
        ("c/film.MOV", ".MOV is not read, but JPEG, PNG, BMP and WebP are"),
        ("linked", "a link to a folder"),
    ]


def test_no_photos_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.heic").touch()
    with pytest.raises(UserError, match=r"holds no photos .*HEIC to JPEG"):
        photo_file.find(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        photo_file.find(tmp_path / "a.heic")


def test_a_web_site_makes_photos_smaller_and_compresses_them() -> None:
    photo = picture(400, 240)
    assert photo_file.passed_on(photo, 0, 0) is photo
    assert photo_file.passed_on(photo, 500, 0).size == (400, 240)
    assert photo_file.passed_on(photo, 100, 0).size == (100, 60)
    losses = [
        np.abs(np.asarray(photo_file.passed_on(photo, 0, quality), int) - np.asarray(photo, int)).mean()
        for quality in (95, 75, 10)
    ]
    assert 0 < losses[0] < losses[1] < losses[2] < 20


def test_names_follow_the_format() -> None:
    assert photo_file.name_of(Path("a/b.webp"), "same") == Path("a/b.webp")
    assert photo_file.name_of(Path("a/b.webp"), "png") == Path("a/b.png")
    assert photo_file.name_of(Path("a/b.c.png"), "jpeg") == Path("a/b.c.jpg")
