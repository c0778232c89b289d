"""Every setting of every job. Defaults are the paper's; docstrings under the fields are the `--help` texts."""

import dataclasses
import math
from typing import Literal

import tyro

from advcloak_jax.errors import UserError

BadImage = Literal["refuse", "skip"]
Subspace = Literal["plain", "affine-hull", "class-centre", "convex-hull"]
Distance = Literal["cosine", "euclidean"]
Parallel = Literal["pmap", "shard_map"]
Dtype = Literal["float32", "bfloat16"]
Preset = Literal["paper", "demo"]
Mirror = Literal["auto", "yes", "no"]
Margin = Literal["softmax", "arcface", "cosface", "adaface", "sface"]
Classifier = Literal["replicated", "sharded"]
Sampling = Literal["shuffled", "balanced"]


def flag(field: str) -> str:
    """Name of a field on the command line."""
    return "--" + field.replace("_", "-")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _require_seed(seed: int) -> None:
    # JAX keeps 32 bits of a seed: beyond them, different seeds would be the same.
    _require(0 <= seed < 2**32, f"--seed {seed} must be between 0 and {2**32 - 1}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Who plays which part: dealt by identity, disjoint, in the order of these fields; what is left distracts."""

    seed: int = 0
    """Seed of the deal."""
    protected: int = 500
    """Persons whose photos are protected and probed; nothing trains on them."""
    n_inference: int = 10
    """Images per protected person that the mask is made from."""
    n_test: int = 5
    """Other images per protected person that the mask is tried on."""
    generator: int = 3000
    """Persons that stages I and II train on."""
    generator_images: int = 16
    """Images per person in stage II; persons with fewer are not dealt to this part."""
    validation: int = 100
    """Persons that periodic validation uses during training."""
    surrogate: int = 5000
    """Persons that surrogate recognisers train on; 0 when all of them are imported."""
    target: int = 0
    """Persons that black-box recognisers train on; 0: the surrogate's people, as in the paper."""
    min_images: int = 2
    """Persons with fewer images than this are dealt to no training or validation part."""
    protected_from: str = "*"
    """Only identities whose name matches this pattern can be protected (names are SOURCE/FOLDER)."""
    generator_from: str = "*"
    """Only identities whose name matches this pattern can be dealt to the generator and validation parts."""
    surrogate_from: str = "*"
    """Only identities whose name matches this pattern can be dealt to the surrogate and target parts."""

    def __post_init__(self) -> None:
        for name in ("protected", "n_inference", "n_test", "generator", "generator_images", "validation"):
            _require(getattr(self, name) >= 1, f"--split.{flag(name)[2:]} must be at least 1.")
        _require(self.n_test >= 2, "--split.n-test must be at least 2: a probe needs another image as its mate.")
        for name in ("surrogate", "target"):
            _require(getattr(self, name) >= 0, f"--split.{name} must be 0 or more.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings that every training job has."""

    run: str = "runs/run"
    """Folder of this run: settings, metrics, checkpoints and samples go there."""
    resume: bool = False
    """Continue the run in its folder (its own settings are the defaults); start it if it does not exist."""
    preset: Preset = "paper"
    """Defaults of every other flag: `paper` as published, `demo` for a few minutes on two CPU cores."""
    data: tuple[str, ...] = ()
    """Faces: folder:PATH, tfds:NAME or synthetic:IDENTITIESxIMAGES, several allowed. Default: the earlier run's."""
    image_size: int = 112
    """Height and width of the faces in pixels, a multiple of 4; taken from the earlier run, if there is one."""
    on_bad_image: BadImage = "refuse"
    """What to do about unreadable or misshapen images: refuse the data set, or skip them and list them."""
    cache: str = "runs/cache"
    """Folder for rendered synthetic faces and compiled programs."""
    split: SplitConfig = SplitConfig()
    """Who plays which part; taken from the earlier run when --data is not given."""
    seed: int = 0
    """Root of every random number of this run."""
    steps: int = 0
    """Training steps; 0: as many as --epochs asks for."""
    epochs: float = 100.0
    """Passes over the training images, when --steps is 0."""
    batch: int = 32
    """Images per step over all devices."""
    learning_rate: float = 1e-4
    """Learning rate (of recognisers: at its peak)."""
    dtype: Dtype = "float32"
    """What the networks compute in. Parameters, norms, losses and the projection stay float32."""
    devices: int = 0
    """Devices to use; 0: all of this machine."""
    parallel: Parallel = "pmap"
    """How steps are spread over devices; the results are the same."""
    steps_per_dispatch: int = 10
    """Training steps run in one compiled call; every other interval is a multiple of it."""
    log_every: int = 50
    """Steps between rows of metrics.csv."""
    checkpoint_every: int = 1000
    """Steps between checkpoints, each with a validation on held-out persons."""
    keep: int = 2
    """Newest checkpoints kept, beside the best one."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and field.name not in ("lower", "upper"):
                _require(math.isfinite(value), f"{flag(field.name)} {value} must be a finite number.")
        _require(self.image_size >= 32, "--image-size must be at least 32.")
        _require(self.image_size % 4 == 0, f"--image-size {self.image_size} must be a multiple of 4.")
        _require_seed(self.seed)
        _require(self.steps >= 0, "--steps must be 0 or more.")
        _require(self.epochs > 0, "--epochs must be more than 0.")
        _require(self.learning_rate > 0, "--learning-rate must be more than 0.")
        for name in ("batch", "steps_per_dispatch", "log_every", "checkpoint_every", "keep"):
            _require(getattr(self, name) >= 1, f"{flag(name)} must be at least 1.")
        _require(self.devices >= 0, "--devices must be 0 or more.")
        for name in ("log_every", "checkpoint_every"):
            _require(
                getattr(self, name) % self.steps_per_dispatch == 0,
                f"{flag(name)} must be a multiple of --steps-per-dispatch {self.steps_per_dispatch}.",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecognizerConfig(TrainConfig):
    """Train a face recogniser, to be a surrogate or a black-box target."""

    run: str = "runs/recognizer"
    part: Literal["surrogate", "target"] = "surrogate"
    """Whose persons it trains on."""
    data: tuple[str, ...] = ("synthetic:600x20",)
    """Faces: folder:PATH, tfds:NAME or synthetic:IDENTITIESxIMAGES, several allowed."""
    architecture: str = "ir50"
    """Backbone, a name of the zoo."""
    width: float = 1.0
    """Multiplier of the backbone's channels."""
    embedding_size: int = 512
    """Length of an embedding."""
    dropout: float = 0.4
    """Dropout before the last dense layer."""
    margin: Margin = "arcface"
    """Loss: plain softmax, ArcFace, CosFace, AdaFace or SFace."""
    margin_scale: float = 64.0
    """Scale s of the cosine logits (not for softmax)."""
    margin_value: float | None = None
    """Margin m: an angle for ArcFace, a cosine for CosFace, both for AdaFace. Default: as published, 0.5, 0.35, 0.4."""
    adaface_h: float = 0.333
    """How far AdaFace's margin follows the norm of the feature."""
    adaface_rate: float = 0.01
    """Weight of a new batch in AdaFace's running statistics of the norms."""
    sface_k: float = 80.0
    """Slope of SFace's sigmoids."""
    sface_a: float = 0.87
    """Angle below which SFace's pull to the own class fades out."""
    sface_b: float = 1.2
    """Angle beyond which SFace's push from other classes fades out."""
    classifier: Classifier = "replicated"
    """Class weights on every device, or shared between the devices (for many persons); the results are the same."""
    sampling: Sampling = "shuffled"
    """Every image equally often, or every person (balanced)."""
    batch: int = 512
    epochs: float = 40.0
    learning_rate: float = 0.1
    momentum: float = 0.9
    """SGD momentum."""
    weight_decay: float = 5e-4
    """Weight decay of kernels (none on BatchNorm, PReLU and biases)."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    schedule: Literal["steps", "cosine"] = "steps"
    """Learning rate: divided by 10 at 50, 70 and 90 % of training, or a cosine to zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.width > 0, "--width must be more than 0.")
        _require(self.embedding_size >= 1, "--embedding-size must be at least 1.")
        _require(0 <= self.dropout < 1, "--dropout must be in [0, 1).")
        _require(self.margin_scale > 0, "--margin-scale must be more than 0.")
        _require(self.margin_value is None or self.margin_value >= 0, "--margin-value must be 0 or more.")
        _require(self.adaface_h >= 0, "--adaface-h must be 0 or more.")
        _require(0 < self.adaface_rate <= 1, "--adaface-rate must be more than 0 and at most 1.")
        _require(self.sface_k > 0, "--sface-k must be more than 0.")
        _require(0 <= self.momentum < 1, "--momentum must be in [0, 1).")
        _require(self.weight_decay >= 0, "--weight-decay must be 0 or more.")
        _require(self.warmup_steps >= 0, "--warmup-steps must be 0 or more.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig(TrainConfig):
    """Stage I: train the generator to make one mask per image."""

    run: str = "runs/image"
    surrogate: str = "runs/recognizer"
    """Run folder of the recogniser to learn against."""
    images: int = 50_000
    """At most so many images of the generator's persons, drawn at random."""
    generator_width: int = 64
    """Channels of the generator's first layer."""
    discriminator_width: int = 32
    """Channels of the discriminator's first layer."""
    lambda_norm: float = 1.0
    """Weight of the norm loss (lambda1 of Eq. 8)."""
    lambda_adversarial: float = 10.0
    """Weight of the adversarial loss (lambda2 of Eq. 8)."""
    norm_floor: float = 3.0
    """Norm below which a mask costs nothing (eps of Eq. 12, 13; [0, 1] scale, at 112x112; scaled to other sizes)."""
    beta1: float = 0.5
    """Adam's first decay rate."""
    beta2: float = 0.9
    """Adam's second decay rate."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.images >= 1, "--images must be at least 1.")
        for name in ("generator_width", "discriminator_width"):
            _require(getattr(self, name) >= 1, f"{flag(name)} must be at least 1.")
        for name in ("lambda_norm", "lambda_adversarial", "norm_floor"):
            _require(getattr(self, name) >= 0, f"{flag(name)} must be 0 or more.")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, f"{flag(name)} must be in [0, 1).")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PersonConfig(ImageConfig):
    """Stage II: train the generator to make one mask per person."""

    run: str = "runs/person"
    generator: str = "runs/image"
    """Run folder of stage I, whose generator, discriminator and widths this job starts from."""
    surrogate: str = ""
    """Run folder of the recogniser to learn against. Default: stage I's."""
    persons: int = 2
    """Persons per step over all devices; --batch is this times --split.generator-images."""
    subspace: Subspace = "convex-hull"
    """What an embedding is pushed away from: its own original (plain), or a model of the person's feature subspace."""
    distance: Distance = "cosine"
    """Cosine to the nearest point of the subspace (the authors' code), or Euclidean distance to it (the paper)."""
    warmup_epochs: float = 40.0
    """Epochs for which the convex hull is replaced by the class centre, as early embeddings lie inside the hull."""
    lower: float = 0.0
    """Lower bound of the convex hull's weights."""
    upper: float = 1.0
    """Upper bound of the convex hull's weights."""
    projection_iterations: int = 20
    """Iterations of the hull projection."""
    learning_rate: float = 2e-8
    lambda_adversarial: float = 15.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.persons >= 1, "--persons must be at least 1.")
        _require(self.warmup_epochs >= 0, "--warmup-epochs must be 0 or more.")
        _require(self.projection_iterations >= 1, "--projection-iterations must be at least 1.")
        _require(self.lower <= self.upper, f"--lower {self.lower} must not exceed --upper {self.upper}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Measure protection: every cloak against every target, in the 1:N protocol."""

    cloaks: tuple[str, ...] = ("runs/image", "runs/person")
    """Runs of stage I (evaluated as AdvFaces+) and stage II (as AdvCloak). The first one's data and split are used."""
    targets: tuple[str, ...] = ("runs/recognizer",)
    """Recognisers to hide from: run folders, or onnx:FILE.onnx[,mean=127.5][,std=128][,channels=rgb][,name=NAME]."""
    out: str = "runs/table"
    """Folder for table.json, table.csv, table.txt, the pictures and report.html."""
    distractors: tuple[str, ...] = ()
    """More faces of other people to hide among, as in --data of the training jobs."""
    max_distractors: int = 0
    """Use at most so many distractors, drawn at random; 0: all."""
    norm: float = 1200.0
    """L2 norm of every mask in grey levels at 112x112; other image sizes get the same strength per pixel."""
    bootstrap: int = 2000
    """Resamplings of the persons behind the confidence intervals."""
    seed: int = 0
    """Seed of the random masks and of the bootstrap."""
    on_bad_image: BadImage = "refuse"
    """What to do about unreadable or misshapen images: refuse the data set, or skip them and list them."""
    cache: str = "runs/cache"
    """Folder for rendered synthetic faces and compiled programs."""
    pictures: int = 5
    """Persons shown in the picture grid."""
    report: str = ""
    """Where the self-contained report goes. Default: report.html in --out."""

    def __post_init__(self) -> None:
        _require(len(self.targets) > 0, "--targets needs at least one recogniser.")
        _require(len(self.cloaks) > 0, "--cloaks needs at least one run folder.")
        _require_seed(self.seed)
        _require(self.norm > 0, "--norm must be more than 0.")
        _require(self.bootstrap >= 100, "--bootstrap must be at least 100.")
        _require(self.pictures >= 1, "--pictures must be at least 1.")
        _require(self.max_distractors >= 0, "--max-distractors must be 0 or more.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyConfig:
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
    cache: str = "runs/cache"
    """Folder for rendered synthetic faces and compiled programs."""

    def __post_init__(self) -> None:
        _require(len(self.targets) > 0, "--targets needs at least one recogniser.")
        _require(not (self.data and self.pairs), "--data and --pairs exclude each other: draw pairs, or bring them.")
        _require(bool(self.pairs or not self.pairs_root), "--pairs-root is only for the list that --pairs names.")
        _require_seed(self.seed)
        _require(self.same >= 1, "--same must be at least 1.")
        _require(self.different >= 1, "--different must be at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Turn published weights into a run folder that serves as surrogate or target. Nothing in a file is executed."""

    file: tyro.conf.Positional[str]
    """PyTorch .pth, .pt or .ckpt, .safetensors, or MXNet NAME-symbol.json with NAME-0000.params beside it."""
    architecture: str = "auto"
    """Name of the zoo whose weights these are; auto: told by the names and shapes of the tensors."""
    run: str = ""
    """Folder to make. Default: runs/ and the file's name."""
    name: str = ""
    """What tables call it. Default: the run folder's name."""
    key: str = ""
    """Where in the file the tensors are, when it holds several sets of them."""
    output: str = ""
    """MXNet: the node that gives the embedding, when the graph has other outputs."""
    mean: tuple[float, ...] = ()
    """Grey levels subtracted from the pixels 0..255: one number or three. Default: the architecture's usual ones."""
    std: tuple[float, ...] = ()
    """Grey levels that the difference is divided by: one number or three."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels that the network was trained with."""
    origin: str = ""
    """Where the weights come from and under which licence; kept with them and shown by `evaluate.py targets`."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            _require(len(values) in (0, 1, 3), f"--{name} takes one number or three.")
            _require(all(map(math.isfinite, values)), f"--{name} must be finite numbers.")
        _require(0.0 not in self.std, "--std must not be 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetsConfig:
    """List recognisers and check that each one works."""

    targets: tuple[str, ...] = ("runs",)
    """Recognisers as in `table`, or folders to look through for runs and ONNX files."""
    out: str = ""
    """Folder for targets.json and targets.csv. Default: only print."""
    cache: str = "runs/cache"
    """Folder for compiled programs."""
