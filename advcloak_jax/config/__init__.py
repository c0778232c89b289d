"""Every setting of every job. Defaults are the paper's; docstrings under the fields are the `--help` texts."""

from advcloak_jax.config.checks import flag
from advcloak_jax.config.cluster import ClusterConfig
from advcloak_jax.config.evaluation import Mirror, TargetsConfig, VerifyConfig
from advcloak_jax.config.exporting import ExportConfig, Format
from advcloak_jax.config.importing import ImportConfig
from advcloak_jax.config.preparing import Encoding, PrepareConfig
from advcloak_jax.config.protecting import ProtectConfig
from advcloak_jax.config.protection import Ablation, AblationConfig, ProtectionConfig, TableConfig
from advcloak_jax.config.recognizer import Classifier, Margin, RecognizerConfig, Sampling
from advcloak_jax.config.stages import (
    NO_STAGE_ONE,
    Distance,
    GeneratorConfig,
    ImageConfig,
    Masks,
    PersonConfig,
    Subspace,
    UniversalConfig,
)
from advcloak_jax.config.start import StartConfig
from advcloak_jax.config.training import BadImage, Dtype, FeedKind, Parallel, Preset, Remat, SplitConfig, TrainConfig

__all__ = [
    "NO_STAGE_ONE",
    "Ablation",
    "AblationConfig",
    "BadImage",
    "Classifier",
    "ClusterConfig",
    "Distance",
    "Dtype",
    "Encoding",
    "ExportConfig",
    "FeedKind",
    "Format",
    "GeneratorConfig",
    "ImageConfig",
    "ImportConfig",
    "Margin",
    "Masks",
    "Mirror",
    "Parallel",
    "PersonConfig",
    "PrepareConfig",
    "Preset",
    "ProtectConfig",
    "ProtectionConfig",
    "RecognizerConfig",
    "Remat",
    "Sampling",
    "SplitConfig",
    "StartConfig",
    "Subspace",
    "TableConfig",
    "TargetsConfig",
    "TrainConfig",
    "UniversalConfig",
    "VerifyConfig",
    "flag",
]
