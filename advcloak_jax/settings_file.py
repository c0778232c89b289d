"""Files of settings for --config: JSON, YAML, or the config.json of a run."""

import re
from pathlib import Path
from typing import Any

import yaml

from advcloak_jax.errors import UserError
from advcloak_jax.settings import read_json

YAML_SUFFIXES = (".yaml", ".yml")


def read_settings(path: Path, job: str) -> dict[str, Any]:
    """Settings of `job` in a file, by name; the config.json of a run gives the run's.

    Raises UserError when the file is missing or of another kind, or its run is of another job.
    """
    if path.suffix not in (".json", *YAML_SUFFIXES):
        raise UserError(f"--config {path} must be a .json, .yaml or .yml file.")
    if not path.is_file():
        raise UserError(f"--config {path} is no file; name one that holds settings.")
    values = read_json(path) if path.suffix == ".json" else _read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"--config {path} must hold settings by name, as --print-config prints them.")
    if isinstance(values.get("config"), dict) and "job" in values:
        if values["job"] != job:
            raise UserError(f"--config {path} is of a run of `{values['job']}`, not of `{job}`; name another file.")
        return dict(values["config"])
    return values


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers and booleans: by YAML 1.1, 1e-8 is text, yes is true and 10:20 is 620."""


_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    "float": (r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in kinds if tag.rpartition(":")[2] not in _SCALARS]
    for first, kinds in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        cause = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not readable as YAML ({cause}); correct it.") from error
