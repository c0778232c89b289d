"""How an ONNX recogniser wants its pixels, as the user writes it."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advcloak_jax.errors import UserError
from advcloak_jax.recognizers.convention import Three


@dataclasses.dataclass(frozen=True)
class OnnxSpec:
    """An ONNX recogniser and how it wants its pixels: (p - mean) / std of p in 0..255, per channel as it gets them.

    `flip` adds the mirrored face's embedding before normalising, as verification protocols do. `size` (height, width)
    and `layout` ("nchw" or "nhwc") are for graphs that leave them open.
    """

    path: Path
    name: str
    mean: Three = (127.5, 127.5, 127.5)
    std: Three = (127.5, 127.5, 127.5)
    channels: str = "rgb"
    flip: bool = False
    size: tuple[int, int] | None = None
    layout: str = ""


def parse_onnx(spec: str) -> OnnxSpec:
    """Read `onnx:FILE.onnx[,mean=M][,std=S][,channels=rgb|bgr][,size=HxW][,layout=nchw|nhwc][,flip=true|false]
    [,name=NAME]`.

    M and S are one number or one for each channel, separated by "/". The same keys may stand in a JSON file beside the
    network, FILE.onnx.json or FILE.json, where M and S may also be lists; what the spec says goes before it.
    Raises UserError for a missing file, an unknown option or a bad value.
    """
    path_text, *options = spec.removeprefix("onnx:").split(",")
    path = Path(path_text).expanduser()
    if not path.is_file():
        raise UserError(f"There is no ONNX file {path}: name one as onnx:FILE.onnx.")
    values: dict[str, Any] = {}
    for beside in (path.with_suffix(".json"), path.with_name(path.name + ".json")):
        if beside.is_file():
            values |= _read_json(beside)
    for option in options:
        key, separator, value = option.partition("=")
        if not separator:
            raise UserError(f"'{option}' in '{spec}' should read KEY=VALUE.")
        values[key] = value
    readers: dict[str, Callable[[str, Any], Any]] = {
        "mean": _three,
        "std": _three,
        "channels": _channels,
        "flip": _flag,
        "size": _size,
        "layout": _layout,
        "name": _name,
    }
    unknown = sorted(set(values) - set(readers))
    if unknown:
        raise UserError(
            f"Unknown option '{unknown[0]}' for the ONNX target {path}: the options are {', '.join(readers)}."
        )
    read: dict[str, Any] = {"name": path.stem} | {key: readers[key](key, value) for key, value in values.items()}
    if 0.0 in read.get("std", ()):
        raise UserError(f"std of the ONNX target {path} must not be 0.")
    return OnnxSpec(path, **read)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(values, dict):
        raise UserError(f'{path} should hold a JSON object such as {{"mean": 127.5, "std": 128}}.')
    return values


def _three(key: str, value: Any) -> tuple[float, ...]:
    """One number or three, as text or from JSON."""
    parts = value.split("/") if isinstance(value, str) else value if isinstance(value, list) else [value]
    try:
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) not in (1, 3) or not all(math.isfinite(number) for number in numbers):
        raise UserError(f"{key}={value} should be one number or three, as in {key}=123.675/116.28/103.53.")
    return numbers * (3 // len(numbers))


def _name(key: str, value: Any) -> str:
    return str(value)


def _channels(key: str, value: Any) -> str:
    if value not in ("rgb", "bgr"):
        raise UserError(f"{key}={value} should be rgb or bgr.")
    return value


def _size(key: str, value: Any) -> tuple[int, int]:
    """Height and width, as "112x96" or from JSON [112, 96]."""
    parts = value.split("x") if isinstance(value, str) else value if isinstance(value, list) else [value] * 2
    if len(parts) != 2 or not all(str(part).isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"{key}={value} should read HxW, as in {key}=112x96.")
    return int(parts[0]), int(parts[1])


def _layout(key: str, value: Any) -> str:
    if value not in ("nchw", "nhwc"):
        raise UserError(f"{key}={value} should be nchw or nhwc.")
    return value


def _flag(key: str, value: Any) -> bool:
    flags = {"true": True, "false": False}
    if str(value).lower() not in flags:
        raise UserError(f"{key}={value} should be true or false.")
    return flags[str(value).lower()]
