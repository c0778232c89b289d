"""Every way of making masks by gradients, under the name it has on the command line."""

import dataclasses
import difflib
import typing
from collections.abc import Callable, Sequence
from typing import Any

from advcloak_jax.cloaks import aggregated, gradient, lowkey, objectives
from advcloak_jax.cloaks.cloak import Cloak, Kind
from advcloak_jax.config.cloaks import (
    AggregationSettings,
    AttackSettings,
    DropoutHullSettings,
    DropoutSettings,
    HullSettings,
    HybridSettings,
    LowKeySettings,
)
from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.recognizer import Recognizer


@dataclasses.dataclass(frozen=True)
class Method:
    """One way of making masks.

    name: on the command line; title: as the paper's tables print it; settings: a frozen dataclass whose defaults are
    the published values; build(surrogates, settings) -> cloak, whose loss is the mean over the surrogates (the hybrid
    needs a cloak to start from too: `hybrid.refined`); paper: where it is from.
    """

    name: str
    title: str
    kind: Kind
    settings: type
    build: Callable[[Sequence[Recognizer], Any], Cloak]
    paper: str


def _person(name: str, title: str, kind: objectives.Kind, settings: type[AttackSettings], paper: str) -> Method:
    def build(surrogates: Sequence[Recognizer], chosen: Any) -> Cloak:
        return gradient.person_specific(title, kind, surrogates, chosen)

    return Method(name, title, "person", settings, build, paper)


def _needs_start(surrogates: Sequence[Recognizer], settings: Any) -> Cloak:
    raise UserError("hybrid starts from a generator's masks: name its run as hybrid:start=RUN where runs are read.")


OPOM = "Zhong and Deng, OPOM, TPAMI 2022"
DFANET = "Zhong and Deng, DFANet, TIFS 2020, as in OPOM"

_METHODS = (
    Method(
        "fim",
        "FIM",
        "image",
        AttackSettings,
        lambda surrogates, settings: gradient.image_specific("FIM", surrogates, settings),
        "Zhong and Deng, TIFS 2020",
    ),
    Method(
        "lowkey",
        "LowKey",
        "image",
        LowKeySettings,
        lambda surrogates, settings: lowkey.lowkey(
            "LowKey (LPIPS)" if settings.alexnet else "LowKey", surrogates, settings
        ),
        "Cherepanova et al., LowKey, ICLR 2021",
    ),
    _person("fi-uap", "FI-UAP", "plain", AttackSettings, OPOM),
    _person("fi-uap-plus", "FI-UAP+", "all-pairs", AttackSettings, OPOM),
    _person("opom-affine-hull", "OPOM-AffineHull", "affine-hull", AttackSettings, OPOM),
    _person("opom-class-centre", "OPOM-ClassCenter", "class-centre", AttackSettings, OPOM),
    _person("opom-convex-hull", "OPOM-ConvexHull", "convex-hull", HullSettings, OPOM),
    _person("fi-uap-dfanet", "FI-UAP (DFANet-M)", "plain", DropoutSettings, DFANET),
    _person("fi-uap-plus-dfanet", "FI-UAP+ (DFANet-M)", "all-pairs", DropoutSettings, DFANET),
    _person("opom-affine-hull-dfanet", "OPOM-AffineHull (DFANet-M)", "affine-hull", DropoutSettings, DFANET),
    _person("opom-class-centre-dfanet", "OPOM-ClassCenter (DFANet-M)", "class-centre", DropoutSettings, DFANET),
    _person("opom-convex-hull-dfanet", "OPOM-ConvexHull (DFANet-M)", "convex-hull", DropoutHullSettings, DFANET),
    Method(
        "sga-uap",
        "SGA-UAP",
        "person",
        AggregationSettings,
        lambda surrogates, settings: aggregated.aggregated("SGA-UAP", surrogates, settings),
        "Liu et al., SGA, ICCV 2023, for persons",
    ),
    Method("hybrid", "Hybrid", "person", HybridSettings, _needs_start, "AdvCloak and OPOM together; ours"),
)


def names() -> tuple[str, ...]:
    """The names that `method` knows, in the order of the tables."""
    return tuple(entry.name for entry in _METHODS)


def method(name: str) -> Method:
    """The method called `name`. Raises UserError naming the nearest one, or all, if there is none."""
    for entry in _METHODS:
        if entry.name == name:
            return entry
    nearest = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
    if nearest:
        raise UserError(f"there is no method '{name}': did you mean '{nearest[0]}'?")
    raise UserError(f"there is no method '{name}'; the methods are {', '.join(names())}.")


def parse(text: str) -> tuple[Method, Any]:
    """Method and settings of "NAME" or "NAME:setting=value,setting=value".

    Raises UserError for an unknown name or setting, naming the nearest one, and for a value of the wrong type or range.
    """
    name, _, rest = text.partition(":")
    found = method(name.strip())
    fields = [field.name for field in dataclasses.fields(found.settings)]
    hints = typing.get_type_hints(found.settings)
    values: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = part.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UserError(f"method '{text}': write setting=value, not '{part}'.")
        if key not in fields:
            nearest = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)[0]
            raise UserError(f"method '{text}' has no setting '{key}': did you mean '{nearest}'?")
        if key in values:
            raise UserError(f"method '{text}' has the setting '{key}' twice.")
        values[key] = _typed(hints[key], value.strip(), f"method '{text}': {key}")
    try:
        return found, found.settings(**values)
    except UserError as error:
        raise UserError(f"method '{text}': {error}") from error


def _typed(hint: Any, value: str, where: str) -> Any:
    if typing.get_origin(hint) is typing.Literal:
        if value in typing.get_args(hint):
            return value
        raise UserError(f"{where} must be one of {', '.join(typing.get_args(hint))}, not '{value}'.")
    try:
        return hint(value)
    except ValueError:
        raise UserError(f"{where} must be {'a whole number' if hint is int else 'a number'}, not '{value}'.") from None


def markdown() -> str:
    """The methods as a Markdown table."""
    lines = ["| Name | In tables | Masks | Settings and their defaults | From |", "|---|---|---|---|---|"]
    for entry in _METHODS:
        settings = entry.settings()
        shown = [f"{field.name}={_shown(getattr(settings, field.name))}" for field in dataclasses.fields(settings)]
        masks = {"person": "per person", "image": "per image", "universal": "one for all"}[entry.kind]
        lines.append(f"| `{entry.name}` | {entry.title} | {masks} | {', '.join(shown)} | {entry.paper} |")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
