"""Settings of `evaluate.py verify` and `targets`."""

import dataclasses
from typing import Literal

from advcloak_jax.config.checks import require, require_seed
from advcloak_jax.config.cluster import ClusterConfig
from advcloak_jax.config.start import StartConfig
from advcloak_jax.config.training import BadImage

Mirror = Literal["auto", "yes", "no"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyConfig(ClusterConfig):
    """Measure recognisers: same or different person, on people they never saw."""

    targets: tuple[str, ...] = ("runs/recognizer",)
    """Recognisers: run folders, or onnx:FILE.onnx[,mean=127.5][,std=128][,channels=rgb][,name=NAME]."""
    data: tuple[str, ...] = ()
    """Faces to draw pairs from. Default: the people of the first run whom no recogniser trained on."""
    pairs: str = ""
    """Pairs that are drawn already, instead of --data: a CSV list (image1, image2, same, perhaps fold), LFW's
    pairs.txt, or a file of InsightFace's, which ends in .bin."""
    pairs_root: str = ""
    """Folder below which a list's images lie. Default: the list's own."""
    mirror: Mirror = "auto"
    """Add the embedding of each face's mirror image, as LFW's protocol is mostly run; auto: yes for --pairs only."""
    image_size: int = 112
    """Height and width of the faces in pixels, when --data or --pairs is given and no target is a run folder."""
    out: str = "runs/verify"
    """Folder for verification.json, verification.csv, the ROC curves and the histograms."""
    same: int = 20_000
    """Pairs of one person to draw, at most."""
    different: int = 20_000
    """Pairs of two persons to draw, at most."""
    seed: int = 0
    """Seed of the draw."""
    on_bad_image: BadImage = "refuse"
    """What to do about unreadable or misshapen images: refuse the data set, or skip them (and their pairs) and list
    them."""
    cache: str = "auto"
    """Folder for rendered synthetic faces and compiled programs; auto: `cache` beside --out; none: keep nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.targets) > 0, "--targets needs at least one recogniser.")
        require(not (self.data and self.pairs), "--data and --pairs exclude each other: draw pairs, or bring them.")
        require(bool(self.pairs or not self.pairs_root), "--pairs-root is only for the list that --pairs names.")
        require_seed(self.seed)
        require(self.image_size >= 32, "--image-size must be at least 32.")
        require(self.same >= 1, "--same must be at least 1.")
        require(self.different >= 1, "--different must be at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetsConfig(StartConfig):
    """List recognisers and check that each one works."""

    targets: tuple[str, ...] = ("runs",)
    """Recognisers as in `table`, or folders to look through for runs and ONNX files."""
    out: str = ""
    """Folder for targets.json and targets.csv. Default: only print."""
    cache: str = "auto"
    """Folder for compiled programs; auto: `cache` beside --out, or in runs/; none: keep nothing."""
