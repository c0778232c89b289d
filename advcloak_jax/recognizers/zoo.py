"""The recognisers by name: which backbone, which sizes, which input, and where published weights of it come from."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.convention import Convention
from advcloak_jax.recognizers.inception_resnet_v1 import FACENET, InceptionResNetV1
from advcloak_jax.recognizers.inception_resnet_v2 import INSIGHTFACE, InceptionResNetV2
from advcloak_jax.recognizers.iresnet import UNITS, IResNet
from advcloak_jax.recognizers.mobilefacenet import MobileFaceNet
from advcloak_jax.recognizers.mobilenet import MobileNet
from advcloak_jax.recognizers.senet import SENet
from advcloak_jax.recognizers.vit import ViT


class Architecture(NamedTuple):
    """One entry of the zoo, at its published size.

    parameters: at width 1, this embedding size and 112x112 faces, without the class weights; fields: what the builder
    is given beside the usual; layout: whose layers these are; weights: who publishes weights, and on what terms.
    """

    builder: Callable[..., nn.Module]
    parameters: int
    layout: str
    weights: str = "-"
    fields: Mapping[str, Any] = {}
    embedding_size: int = 512
    convention: Convention = Convention()


EVOLVE = "face.evoLVe"
ARCFACE = "InsightFace arcface_torch"
EVOLVE_WEIGHTS = "face.evoLVe (code MIT; no terms stated for the weights)"
ARCFACE_WEIGHTS = "InsightFace (non-commercial research only)"


def _evolve(depth: int, parameters: int, layout: str, weights: str = "-") -> Architecture:
    return Architecture(IResNet, parameters, layout, weights, {"units": UNITS[depth]})


def _senet(depth: int, parameters: int, layout: str, weights: str = "-") -> Architecture:
    return Architecture(SENet, parameters, layout, weights, {"units": UNITS[depth]})


def _arcface(depth: int, parameters: int, *, squeeze: bool = False) -> Architecture:
    fields: dict[str, Any] = {"units": UNITS[depth], "layout": "arcface_torch"}
    if squeeze:
        return Architecture(
            IResNet, parameters, "ElasticFace", "ElasticFace (CC BY-NC-SA 4.0)", fields | {"reduction": 16}
        )
    return Architecture(IResNet, parameters, ARCFACE, ARCFACE_WEIGHTS, fields)


ARCHITECTURES: dict[str, Architecture] = {
    "ir18": _evolve(18, 24_017_536, f"{EVOLVE}'s unit, ResNet-18's counts"),
    "ir34": _evolve(34, 34_127_552, f"{EVOLVE}'s unit, ResNet-34's counts"),
    "ir50": _evolve(50, 43_574_976, f"{EVOLVE} IR_50, the paper's surrogate", EVOLVE_WEIGHTS),
    "ir100": _evolve(100, 65_129_792, f"{EVOLVE} IR_101"),
    "ir152": _evolve(152, 70_737_600, f"{EVOLVE} IR_152", EVOLVE_WEIGHTS),
    "senet18": _senet(18, 24_104_576, f"{EVOLVE}'s SE unit, ResNet-18's counts"),
    "senet50": _senet(50, 43_797_696, f"{EVOLVE} IR_SE_50, the paper's SENet"),
    "senet100": _senet(100, 65_502_016, f"{EVOLVE} IR_SE_101"),
    "senet152": _senet(152, 71_148_736, f"{EVOLVE} IR_SE_152"),
    "iresnet18": _arcface(18, 24_025_600),
    "iresnet34": _arcface(34, 34_139_328),
    "iresnet50": _arcface(50, 43_590_848),
    "iresnet100": _arcface(100, 65_156_160),
    "iresnet200": _arcface(200, 118_833_920),
    "iresnet_se50": _arcface(50, 43_813_568, squeeze=True),
    "iresnet_se100": _arcface(100, 65_528_384, squeeze=True),
    "mobilenet": Architecture(MobileNet, 28_911_616, "InsightFace fmobilenet, the paper's MobileNet"),
    "mobilefacenet": Architecture(
        MobileFaceNet, 1_003_136, "Chen et al. 2018", "Xiaoccer (no terms stated), InsightFace_Pytorch (MIT)", {}, 128
    ),
    "mobilefacenet_relu6": Architecture(
        MobileFaceNet, 999_936, "foamliu's variant", "foamliu (Apache 2.0)", {"relu6": True}, 128
    ),
    "mbf": Architecture(MobileFaceNet, 2_059_520, f"{ARCFACE} get_mbf", ARCFACE_WEIGHTS, {"scale": 2}),
    "mbf_large": Architecture(
        MobileFaceNet, 6_314_880, f"{ARCFACE} get_mbf_large", ARCFACE_WEIGHTS, {"scale": 4, "units": (2, 8, 12, 4)}
    ),
    "inception_resnet_v1": Architecture(
        InceptionResNetV1,
        23_482_624,
        "facenet-pytorch",
        "facenet-pytorch (code MIT; trained on VGGFace2 and CASIA-WebFace)",
        convention=FACENET,
    ),
    "inception_resnet_v2": Architecture(
        InceptionResNetV2,
        167_647_240,
        "InsightFace finception_resnet_v2, the paper's Inception-ResNet",
        convention=INSIGHTFACE,
    ),
    "vit_s8": Architecture(ViT, 21_641_856, "ViT-S/8 (ours, with timm's names)"),
}


def names() -> list[str]:
    """The names `build` knows, sorted."""
    return sorted(ARCHITECTURES)


def architecture(name: str) -> Architecture:
    """The entry called `name`. Raises UserError, with the nearest names, if there is none."""
    if name not in ARCHITECTURES:
        nearest = difflib.get_close_matches(name, names(), n=3, cutoff=0.3) or names()
        raise UserError(f"there is no recogniser '{name}': choose {', '.join(nearest)}.")
    return ARCHITECTURES[name]


def build(
    name: str,
    *,
    width: float = 1.0,
    embedding_size: int | None = None,
    dropout: float | None = None,
    convention: Convention | None = None,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    remat: bool = False,
) -> nn.Module:
    """The module called `name`: images [B, H, W, 3] in [0, 1] -> features [B, d], see `IResNet`.

    width multiplies the channels; embedding_size, dropout and convention default to the published ones; dtype is the
    compute dtype; axis_name the device axis over which BatchNorm pools its batch; remat: see `run_block`. Raises
    UserError for an unknown name.
    """
    entry = architecture(name)
    fields: dict[str, Any] = {
        "width": width,
        "embedding_size": entry.embedding_size if embedding_size is None else embedding_size,
        "convention": entry.convention if convention is None else convention,
        "dtype": dtype,
        "axis_name": axis_name,
        "remat": remat,
        **entry.fields,
    }
    if dropout is not None:
        fields["dropout"] = dropout
    return entry.builder(**fields)


def markdown() -> str:
    """The zoo as a Markdown table."""
    lines = ["| Name | Layers of | d | Parameters | Reads | Published weights |", "|---|---|---|---|---|---|"]
    for name, entry in ARCHITECTURES.items():
        lines.append(
            f"| `{name}` | {entry.layout} | {entry.embedding_size} | {entry.parameters / 1e6:.2f} M | "
            f"{_reads(entry.convention)} | {entry.weights} |"
        )
    return "\n".join(lines)


def _reads(convention: Convention) -> str:
    height, width = convention.size or (112, 112)
    return f"{height}x{width}, (p - {convention.mean[0]:g}) / {convention.std[0]:g}"
