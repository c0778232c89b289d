"""`python -m advcloak_jax.data.prepare`: faces to array_record shards that stay on disk while they are trained on."""

import sys
from pathlib import Path

from advcloak_jax.config import PrepareConfig
from advcloak_jax.data.folder import list_folder
from advcloak_jax.data.listing import Listing
from advcloak_jax.data.preparing import REPORT, prepare, report_text
from advcloak_jax.data.recordio_source import list_recordio
from advcloak_jax.errors import UserError
from advcloak_jax.files import require_folder
from advcloak_jax.progress import Progress

INTERRUPTED_STATUS = 130
_SHOWN = 10


def run(config: PrepareConfig) -> Path:
    """Prepare the set and return its folder. Raises UserError, with what is finished kept in OUT.partial."""
    out = Path(config.out).expanduser()
    require_folder(out, f"{out}")
    source = Path(config.source.partition(":")[2]).expanduser()
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{out} is inside the source {source}, which would then hold it too; name a folder elsewhere.")
    listing = listed(config.source)
    bars: list[Progress] = []
    reached = 0

    def report(done: int, total: int) -> None:
        nonlocal reached
        if not bars:
            bars.append(Progress(f"preparing {out}", total, "images", start=done))
        else:
            bars[0].update(done - reached)
        reached = done

    try:
        found = prepare(listing, out, config, progress=report)
    except KeyboardInterrupt:
        print(f"Interrupted; the same command goes on from {out}.partial.", file=sys.stderr)
        raise SystemExit(INTERRUPTED_STATUS) from None
    finally:
        for bar in bars:
            bar.close()
    lines = report_text(found).splitlines()
    for line in [*lines[: 4 + _SHOWN], *(["  ..."] if len(lines) > 4 + _SHOWN else [])]:
        print(line, file=sys.stderr)
    print(f"Train on it with --data tfds:{out}; {out / REPORT}.txt has this report.", file=sys.stderr)
    return out


def listed(source: str) -> Listing:
    """What `folder:PATH` or `recordio:PATH` holds. Raises UserError for another kind."""
    kind, _, text = source.partition(":")
    path = Path(text).expanduser()
    if kind == "folder" and text:
        return list_folder(path)
    if kind == "recordio" and text:
        return list_recordio(path)
    raise UserError(f"{source} is no source to prepare; give folder:PATH or recordio:PATH.")
