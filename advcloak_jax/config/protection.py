"""Settings of `evaluate.py table` and `evaluate.py ablation`."""

import dataclasses
from typing import Literal

import tyro

from advcloak_jax.config.checks import flag, require, require_seed
from advcloak_jax.config.cluster import ClusterConfig
from advcloak_jax.config.training import BadImage, SplitConfig

Ablation = Literal["n-inference", "norm", "stages"]
DEALT = SplitConfig()
MOST_SAMPLES = 100_000
TRAINED_BY_DEFAULT = ("runs/image", "runs/person")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtectionConfig(ClusterConfig):
    """Who makes masks, against what they are made, and from whom they must hide."""

    methods: tuple[str, ...] = ()
    """Methods without training, each run on every --surrogates entry: NAME or NAME:setting=value,setting=value, as in
    fi-uap or opom-convex-hull:steps=32; a wrong name is answered with the nearest. hybrid:start=CLOAK refines a trained
    cloak, named by its run folder or, for each source model its own, by its name in the table."""
    surrogates: tuple[str, ...] = ()
    """Source models of --methods: run folders of recognisers; A+B is an ensemble of two. Default: those of --cloaks."""
    cloaks: tuple[str, ...] = ()
    """Runs of `train.py image` (evaluated as AdvFaces and AdvFaces+), person (AdvCloak) and universal (GAP); each
    stands under the surrogate it learnt against. Default, without --methods: runs/image runs/person."""
    targets: tuple[str, ...] = ("runs/target",)
    """Recognisers to hide from: run folders, onnx:FILE.onnx[,mean=127.5][,std=128][,channels=rgb][,name=NAME] or
    python:MODULE:FUNCTION. One that is a row's own surrogate counts neither in the row nor in its average."""
    data: tuple[str, ...] = ()
    """Faces, as in the training jobs. Default: those of the first of --cloaks, or of --split-from."""
    split: SplitConfig = DEALT
    """Who is protected and who distracts, when --data is given."""
    split_from: str = ""
    """Run folder whose faces and split are used. Default: the first of --cloaks."""
    image_size: int = 112
    """Height and width of the faces in pixels, when --data is given."""
    distractors: tuple[str, ...] = ()
    """More faces of other people to hide among, as in --data of the training jobs."""
    max_distractors: int = 0
    """Use at most so many distractors, drawn at random; 0: all."""
    norm: float = 1200.0
    """L2 norm of every mask in grey levels at 112x112; other image sizes get the same strength per pixel."""
    baseline: tuple[str, ...] = ("AdvFaces+", "OPOM-ConvexHull")
    """Methods, by their names in the table, that all others of the same source model are compared with, person by
    person; every one is compared with the random mask."""
    bootstrap: int = 2000
    """Resamplings of the persons behind the confidence intervals."""
    seed: int = 0
    """Seed of random masks, of the methods' random starts and of the bootstrap."""
    on_bad_image: BadImage = "refuse"
    """What to do about unreadable or misshapen images: refuse the data set, or skip them and list them."""
    cache: str = "auto"
    """Folder for rendered synthetic faces, compiled programs, and masks and embeddings, which are kept by what they
    were computed from and taken again; auto: `cache` beside --out; none: keep nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.targets) > 0, "--targets needs at least one recogniser.")
        require(not (self.surrogates and not self.methods), "--surrogates is for --methods; name some, or drop it.")
        require(
            not (self.data and (self.cloaks or self.split_from)),
            "--data is given by the runs of --cloaks or --split-from; drop one of the two.",
        )
        require_seed(self.seed)
        require(
            self.image_size >= 32 and self.image_size % 4 == 0, "--image-size must be a multiple of 4, at least 32."
        )
        require(self.norm > 0, "--norm must be more than 0.")
        require(100 <= self.bootstrap <= MOST_SAMPLES, f"--bootstrap must be between 100 and {MOST_SAMPLES}.")
        require(self.max_distractors >= 0, "--max-distractors must be 0 or more.")

    @property
    def runs(self) -> tuple[str, ...]:
        """The trained cloaks: those of --cloaks or, when nothing says what to evaluate, the default folders."""
        return self.cloaks or (() if self.methods else TRAINED_BY_DEFAULT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableConfig(ProtectionConfig):
    """Measure protection: every cloak against every target, in the 1:N protocol (Tables 1 to 3)."""

    out: str = "runs/table"
    """Folder for table.json, the CSV, text and Markdown tables, the pictures and report.html."""
    timed: int = 4
    """Persons whose masks are made twice, to time the first call and the second (Table 3); 0: time nothing."""
    pictures: int = 5
    """Persons shown in the picture grid."""
    report: str = ""
    """Where the self-contained report goes. Default: report.html in --out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.timed >= 0, "--timed must be 0 or more.")
        require(self.pictures >= 1, "--pictures must be at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblationConfig(ProtectionConfig):
    """Vary one thing and plot protection over it: n-inference (Fig. 4b), norm (Fig. 3b, 4a) or stages (Fig. 3c, 3d)."""

    name: tyro.conf.Positional[Ablation] = tyro.MISSING
    """n-inference: photos that a mask is made from. norm: strength of the masks, with SSIM. stages: what stage I and
    stage II, trained per person or per image and with a model of the subspace, each add; --cloaks names a run of each:
    `train.py image`, and `train.py person` plain, with --generator none, with --masks image, and with a --subspace."""
    n_inference: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    """Numbers of photos that n-inference tries."""
    norms: tuple[float, ...] = (300.0, 600.0, 900.0, 1200.0, 1500.0, 1800.0, 2100.0, 2400.0)
    """L2 norms in grey levels at 112x112 that norm tries."""
    out: str = "runs/ablation"
    """Folder for NAME.json, NAME.csv and the plots as PNG and SVG."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_inference", "norms"):
            values = getattr(self, name)
            require(len(values) >= 1, f"{flag(name)} needs at least one value.")
            require(list(values) == sorted(set(values)), f"{flag(name)} must rise from value to value.")
            require(min(values) > 0, f"{flag(name)} must be more than 0.")
