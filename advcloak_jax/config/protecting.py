"""Settings of `protect.py`."""

import dataclasses
from typing import Literal

import tyro

from advcloak_jax.config.checks import flag, require, require_seed
from advcloak_jax.config.start import StartConfig

FileFormat = Literal["same", "png", "jpeg"]
CROPS = "crops"
"""What --detector says when the photos are aligned crops."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtectConfig(StartConfig):
    """Put one person's cloak on all of their photos. Use it for your own, or for those of people who asked you to."""

    photos: tyro.conf.Positional[str]
    """Folder with the person's photos (JPEG, PNG, BMP, WebP), also in sub-folders."""
    out: tyro.conf.Positional[str]
    """Folder to make: photos/, the protected photos under their names, and beside it what tells of the clean ones and
    is not to be shown around: protection.csv and .json, comparison.png, mask.npy."""
    detector: str = ""
    """SCRFD network (.onnx) that finds faces with five landmarks, as InsightFace's det_10g.onnx; crops: every photo is
    an aligned square crop of the face already, as in the data sets."""
    cloak: str = ""
    """Trained cloak: a run folder of `train.py person`, `image` or `universal`, or the folder of an export of one."""
    method: str = ""
    """Method without training in its place, against --surrogate, as in opom-convex-hull:steps=32; hybrid: refines
    --cloak."""
    surrogate: str = ""
    """Recogniser that --method drives the photos away from: a run folder; A+B is an ensemble of two."""
    mask: str = ""
    """mask.npy of an earlier call: the same cloak for more photos of the person, in place of a new one."""
    mask_photos: int = 10
    """Photos that the mask is made from, at most: those with the largest faces."""
    norm: float | None = None
    """L2 norm of the mask in grey levels on the face's crop at 112x112: more hides better and is seen more easily.
    Default: 1200, as published; with --mask its own."""
    fade: int = 8
    """Pixels at the border of the crop over which the mask fades out, so that its edge is not seen; 0: none. That of
    --mask is part of it."""
    recognizer: str = ""
    """Recogniser that tells which of several faces in a photo is the person. Default: the surrogate of the cloak or the
    method; needed where none is there, as with --mask or an export, and photos show several faces."""
    who: str = ""
    """Photo of the person alone: of several faces in a photo, the one most similar to it is taken. Default: whom the
    photos have in common."""
    targets: tuple[str, ...] = ()
    """Recognisers to try the protected photos on, as in `evaluate.py table`."""
    distractors: tuple[str, ...] = ()
    """Faces of other people to hide among in that trial, as in --data of the training jobs; for two photos and more."""
    upload_side: int = 0
    """Try the photos as a web site may show them: with this length of the longer side, at most; 0: as they are."""
    upload_quality: int = 0
    """The same: through a JPEG of this quality, 1 to 100; 0: as they are."""
    file_format: FileFormat = "same"
    """Of the protected photos: that of the originals, png (without loss) or jpeg (nearly without)."""
    image_size: int = 112
    """Side of the face's crop in pixels; that of the cloak or of a surrogate trained here, if there is one."""
    seed: int = 0
    """Seed of the methods' random starts."""
    cache: str = "auto"
    """Folder for rendered synthetic faces, compiled programs and embeddings of --distractors, never of the person's
    photos; auto: `cache` beside OUT; none: keep nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.mask_photos >= 1, "--mask-photos must be at least 1.")
        require(self.norm is None or self.norm > 0, "--norm must be more than 0.")
        require(0 <= self.fade <= 16, "--fade must be between 0 and 16.")
        require(
            self.image_size >= 32 and self.image_size % 4 == 0, "--image-size must be a multiple of 4, at least 32."
        )
        for name in ("distractors", "upload_side", "upload_quality"):
            require(bool(self.targets or not getattr(self, name)), f"{flag(name)} is for a trial; name --targets too.")
        require(self.upload_side == 0 or self.upload_side >= 32, "--upload-side must be at least 32.")
        require(0 <= self.upload_quality <= 100, "--upload-quality must be between 1 and 100.")
        require_seed(self.seed)

    @property
    def hybrid(self) -> bool:
        """Whether --method refines --cloak."""
        return self.method.startswith("hybrid")

    def require_complete(self) -> None:
        """Raise UserError unless exactly one cloak is asked for, with what it needs, and a way to find faces."""
        require(bool(self.detector), "--detector is needed: an SCRFD network (.onnx), or crops for aligned crops.")
        require(bool(self.cloak or self.method or self.mask), "--cloak, --method or --mask is needed: which cloak.")
        require(
            not (self.mask and (self.cloak or self.method)),
            "--mask is a cloak that was made before; drop it, or --cloak and --method.",
        )
        require(
            not self.method or self.hybrid == bool(self.cloak), "--cloak goes with --method hybrid alone; drop one."
        )
        require(
            bool(self.surrogate) == bool(self.method and not self.hybrid),
            "--surrogate belongs to --method (a hybrid's is that of its cloak); give both or none.",
        )
        fixed = ("image_size", "fade", "mask_photos", "seed") if self.mask else ("image_size",) if self.cloak else ()
        for name in fixed:
            asked = getattr(self, name) != getattr(type(self), name)
            require(not asked, f"{flag(name)} is fixed by {'--mask' if self.mask else '--cloak'}; drop it.")
