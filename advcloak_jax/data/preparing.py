"""Any listing of pictures to array_record shards that TensorFlow Datasets opens, without TensorFlow, and resumable.

TFDS's own preparation starts from nothing after an interruption, so the shards are written here, one after the other
from consecutive pictures, and only the records and the metadata are TFDS's. A shard is in its place whole or not at
all, with a note beside it; everything is in OUT.partial until the last file is written, and then renamed.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from advcloak_jax import files, settings
from advcloak_jax.config import PrepareConfig
from advcloak_jax.data import manifest
from advcloak_jax.data.decode import BadImageError
from advcloak_jax.data.listing import Listing
from advcloak_jax.data.manifest import Manifest, Part
from advcloak_jax.data.records import Encoded, encode, features, serialise
from advcloak_jax.errors import UserError

REPORT = "report"
SPLIT = "train"
_PLAN, _NOTES = "plan.json", "notes"
_BLOCK = 256  # pictures that are decoded ahead of the one being written
_WRITER_OPTIONS = "group_size:1,uncompressed"  # one picture is read without its neighbours; JPEG does not shrink


@dataclasses.dataclass(frozen=True)
class Note:
    """What is known of a finished shard: its file, the identity of each record, the bad pictures, how many resized."""

    shard: Part
    owner: tuple[int, ...]
    bad: tuple[tuple[str, str], ...]
    resized: int


def prepare(
    listing: Listing, out: Path, config: PrepareConfig, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Write the set to `out`, going on from what an earlier call with the same settings left in OUT.partial.

    progress(done, total): pictures; the first call tells how many were done before. Returns the report that the set
    holds too. Raises UserError when `out` exists, OUT.partial is of other settings or of a source that has changed
    since, nothing is usable, or a picture is bad under "refuse".
    """
    partial = out.with_name(f"{out.name}.partial")
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder or remove it.")
    total = len(listing)
    _begin(partial, listing, config)
    if listing.bad and config.on_bad_image == "refuse":
        _refuse(listing.bad[0])
    shards = _shards(out, total, config.shard_images)
    earlier = {name: _finished(partial, name) for name in shards}
    done = sum(len(pictures) for name, pictures in shards.items() if earlier[name] is not None)

    def count(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    count(0)
    notes = [
        earlier[name] or _write_shard(partial, name, listing, pictures, config, count)
        for name, pictures in shards.items()
    ]
    return _finish(partial, out, listing, config, notes)


def _shards(out: Path, total: int, each: int) -> dict[str, range]:
    """Name of every shard, and which pictures go into it."""
    number = max(1, -(-total // each))
    return {
        f"{_set_name(out)}-{SPLIT}.array_record-{i:05d}-of-{number:05d}": range(i * each, min((i + 1) * each, total))
        for i in range(number)
    }


def _begin(partial: Path, listing: Listing, config: PrepareConfig) -> None:
    """Make the folder, or see that it was begun for the same result."""
    plan = {
        "version": manifest.VERSION,
        "source": listing.fingerprint,
        "pictures": len(listing),
        "settings": {name: value for name, value in settings.to_dict(config).items() if name not in ("source", "out")},
    }
    path = partial / _PLAN
    if path.exists():
        if settings.read_json(path) != plan:
            raise UserError(
                f"{partial} was begun with other settings, or its source has changed since; remove it to begin anew."
            )
        for unfinished in partial.glob(".*"):  # of a process that was killed
            unfinished.unlink()
    else:
        if partial.exists() and any(partial.iterdir()):
            raise UserError(f"{partial} exists and is no unfinished set; choose another folder.")
        (partial / _NOTES).mkdir(parents=True, exist_ok=True)
        files.write_json(path, plan)


def _finished(partial: Path, name: str) -> Note | None:
    """The note of a shard that an earlier call finished; None when it is to be written."""
    path = partial / _NOTES / f"{name}.json"
    if not path.exists():
        return None
    note = settings.from_dict(Note, settings.read_json(path), str(path))
    shard = partial / name
    whole = shard.is_file() and manifest.describe(partial, name, note.shard.records) == note.shard
    return note if whole else None


def _write_shard(
    partial: Path, name: str, listing: Listing, pictures: range, config: PrepareConfig, count: Callable[[int], None]
) -> Note:
    """Write one shard and then its note. count(more): pictures done."""
    from array_record.python.array_record_module import ArrayRecordWriter

    connectors = features(config.encoding, config.image_size)
    owner: list[int] = []
    bad: list[tuple[str, str]] = []
    resized = 0
    with files.replacing(partial / name) as temporary:
        writer = ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)
        try:
            for block in _blocks(pictures):
                for item, found in _encode_all(listing, block, config):
                    if isinstance(found, BadImageError):
                        bad.append((listing.where(item), str(found)))
                        if config.on_bad_image == "refuse":
                            _refuse(bad[0])
                        continue
                    person = int(listing.owner[item])
                    writer.write(serialise(connectors, found.image, listing.names[person]))
                    owner.append(person)
                    resized += found.resized
                count(len(block))
        finally:
            writer.close()
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
    note = Note(manifest.describe(partial, name, len(owner)), tuple(owner), tuple(bad), resized)
    files.write_text(partial / _NOTES / f"{name}.json", json.dumps(dataclasses.asdict(note)))
    return note


def _blocks(pictures: range) -> Iterator[range]:
    for start in range(pictures.start, pictures.stop, _BLOCK):
        yield range(start, min(start + _BLOCK, pictures.stop))


def _encode_all(listing: Listing, pictures: range, config: PrepareConfig) -> list[tuple[int, Encoded | BadImageError]]:
    """Every picture, encoded by several threads, in order."""

    def one(item: int) -> Encoded | BadImageError:
        try:
            return encode(listing.encoded(item), config)
        except BadImageError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(zip(pictures, pool.map(one, pictures), strict=True))


def _finish(partial: Path, out: Path, listing: Listing, config: PrepareConfig, notes: list[Note]) -> dict[str, Any]:
    """People, manifest, TFDS's metadata and the report; then the folder gets its name."""
    owner = np.concatenate([np.array(note.owner, np.int64) for note in notes])
    bad = sorted([*listing.bad, *(entry for note in notes for entry in note.bad)])
    if not len(owner):
        where, reason = bad[0]
        raise UserError(f"{listing.label} holds no usable image: {where}, for one, is unusable ({reason}).")
    # Names in the order of their characters, as every source has them.
    order = sorted({int(person) for person in owner}, key=lambda person: listing.names[person])
    place = np.full(len(listing.names), -1, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    with files.replacing(partial / manifest.IDENTITY) as temporary:
        np.save(temporary, place[owner])
    files.write_json(partial / manifest.NAMES, [listing.names[person] for person in order])
    others = tuple(manifest.describe(partial, name) for name in (manifest.IDENTITY, manifest.NAMES))
    shards = tuple(note.shard for note in notes)
    manifest.write_manifest(partial, Manifest(manifest.VERSION, config.encoding, config.image_size, shards, others))
    report = _report(listing, config, len(owner), len(order), bad, sum(note.resized for note in notes))
    files.write_json(partial / f"{REPORT}.json", report)
    files.write_text(partial / f"{REPORT}.txt", report_text(report))
    _write_tfds(partial, _set_name(out), listing, config, shards)
    shutil.rmtree(partial / _NOTES)
    (partial / _PLAN).unlink()
    partial.rename(out)
    return report


def _report(
    listing: Listing, config: PrepareConfig, images: int, identities: int, bad: list[tuple[str, str]], resized: int
) -> dict[str, Any]:
    return {
        "source": listing.label,
        "images": images,
        "identities": identities,
        "identities_without_images": len(listing.names) - identities,
        "encoding": config.encoding,
        "image_size": config.image_size,
        "resized": resized,
        "bad": [{"where": where, "reason": reason} for where, reason in bad],
    }


def report_text(report: dict[str, Any]) -> str:
    """A report as lines for people: the counts, then one line for each bad picture."""
    lost = report["identities_without_images"]
    lines = [
        f"{report['images']:,} images of {report['identities']:,} identities from {report['source']}, "
        f"{report['encoding']}, {report['image_size']}x{report['image_size']}",
        f"{report['resized']:,} had another size and were resized",
        f"{lost:,} identities have no usable image and are left out",
        f"{len(report['bad']):,} unusable, left out" + (":" if report["bad"] else ""),
        *(f"  {entry['where']}: {entry['reason']}" for entry in report["bad"]),
    ]
    return "\n".join(lines) + "\n"


def _write_tfds(partial: Path, name: str, listing: Listing, config: PrepareConfig, shards: tuple[Part, ...]) -> None:
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        dataset_name=name, data_dir=partial, split=SPLIT, filetype_suffix="array_record"
    )
    split = tfds.core.SplitInfo(
        name=SPLIT,
        shard_lengths=[shard.records for shard in shards],
        num_bytes=sum(shard.bytes for shard in shards),
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=partial,
        features=features(config.encoding, config.image_size),
        split_infos=[split],
        version="1.0.0",
        check_data=False,  # that check opens the set through TensorFlow
        description=f"Faces from {listing.label}.",
    )


def _set_name(out: Path) -> str:
    """What TFDS calls the set: the folder's name in the characters that TFDS allows."""
    plain = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in out.name.lower())
    return plain if plain[:1].isalpha() else f"faces_{plain}"


def _refuse(bad: tuple[str, str]) -> None:
    where, reason = bad
    raise UserError(f"{where} is unusable ({reason}); mend or remove it, or pass --on-bad-image skip.")
