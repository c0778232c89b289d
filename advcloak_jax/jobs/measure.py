"""Protection of one row after another: masks on the test photos, and who is still found by which target."""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advcloak_jax import images, mappings
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation import cost, identification, quality, verification
from advcloak_jax.evaluation.store import Store
from advcloak_jax.jobs.entries import Entry
from advcloak_jax.jobs.targets import Faces, LoadedTarget, hashed, require_unseen, stored_embeddings
from advcloak_jax.jobs.trials import Trials
from advcloak_jax.progress import Progress

SAME_NETWORK = 0.999
"""Mean cosine above which two recognisers' embeddings of the same photos come from one network."""


@dataclasses.dataclass(frozen=True)
class Worn:
    """A row's protected test images [P, T, H, W, 3] uint8, the masks of the first photos [P, H, W, 3] and timings.

    applying: seconds per image of putting the masks on.
    """

    protected: np.ndarray
    masks: np.ndarray
    making: cost.MakingTime | None
    applying: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """A row's ranks, target -> [P, T, T], of the targets that are black boxes for it; mean SSIM and PSNR [dB]."""

    ranks: Mapping[str, np.ndarray]
    ssim: float
    psnr: float


class Gallery:
    """The targets with the clean embeddings of everybody; rows are tried on them one by one."""

    def __init__(
        self, trials: Trials, targets: Sequence[LoadedTarget], entries: Sequence[Entry], store: Store, seed: int
    ) -> None:
        """Embed the clean photos by all targets and by all surrogates of the entries.

        Raises UserError when a recogniser was trained on a protected person, or is no black box for any row.
        """
        self.targets, self._store, self._seed = list(targets), store, seed
        surrogates = {one.target.name: one for entry in entries if entry.source for one in entry.source.members}
        for loaded in (*surrogates.values(), *targets):
            require_unseen(loaded, trials.persons)
        own = np.concatenate([trials.inference, trials.test], axis=1)
        self._identity = np.repeat(np.arange(len(own)), own.shape[1])
        clean, crowd = hashed(own, "clean photos"), hashed(trials.distractors, "distractors")
        total = (len(targets) + len(surrogates)) * len(clean.images) + len(targets) * len(crowd.images)
        with Progress("embedding clean photos", total, "faces") as progress:
            self._surrogates = {
                name: stored_embeddings(store, one, clean, progress) for name, one in surrogates.items()
            }
            self._clean = {one.target.name: stored_embeddings(store, one, clean, progress) for one in targets}
            self._crowd = {one.target.name: stored_embeddings(store, one, crowd, progress) for one in targets}
        shape = (*own.shape[:2], -1)
        first = trials.inference.shape[1]
        self._mates = {name: clean.reshape(shape)[:, first:] for name, clean in self._clean.items()}
        for entry in entries:
            if not self.black_boxes(entry):
                raise UserError(f"every one of --targets is the surrogate of {entry.label}; name another recogniser.")

    def black_boxes(self, entry: Entry) -> list[LoadedTarget]:
        """The targets that are no surrogate of the row: told by their embeddings, whatever file they come from."""
        own = [] if entry.source is None else [self._surrogates[one.target.name] for one in entry.source.members]
        return [
            one for one in self.targets if not any(_same_network(self._clean[one.target.name], mine) for mine in own)
        ]

    def common(self, entries: Sequence[Entry]) -> list[str]:
        """Names of the targets that are black boxes for every row."""
        sets = [{one.target.name for one in self.black_boxes(entry)} for entry in entries]
        return [one.target.name for one in self.targets if all(one.target.name in names for names in sets)]

    def summaries(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(recogniser, role, verification on the clean photos of the protected persons)."""
        roles = (("surrogate", self._surrogates), ("black box", self._clean))
        return [
            (name, role, verification.summary(embeddings, self._identity, seed=self._seed))
            for role, found in roles
            for name, embeddings in found.items()
        ]

    def unprotected(self) -> dict[str, np.ndarray]:
        """Ranks of the clean photos themselves."""
        return {name: identification.ranks(mates, mates, self._crowd[name]) for name, mates in self._mates.items()}

    def ranks(self, entry: Entry, protected: Faces, progress: Progress) -> dict[str, np.ndarray]:
        """Ranks of protected photos, of the row's black boxes."""
        found = {}
        for one in self.black_boxes(entry):
            name = one.target.name
            probes = stored_embeddings(self._store, one, protected, progress).reshape(self._mates[name].shape)
            found[name] = identification.ranks(probes, self._mates[name], self._crowd[name])
        return found


def measure(
    gallery: Gallery, entry: Entry, worn: Worn, test: np.ndarray, progress: Progress, label: str = ""
) -> Measured:
    """Try one row on all of its black boxes; test [P, T, H, W, 3]: the photos without masks."""
    protected = hashed(worn.protected, label or entry.label)
    before = test.reshape(protected.images.shape)
    ssim, psnr = (float(one(before, protected.images).mean()) for one in (quality.ssim, quality.psnr))
    return Measured(gallery.ranks(entry, protected, progress), ssim, psnr)


def wear(entry: Entry, trials: Trials, store: Store, *, norm: float, seed: int, timed: int = 0) -> Worn:
    """Make the masks, or take them from the store, bring them to the norm, and put them on the test images.

    Masks of the kind "image" are made from the test images, all others from the inference images. norm: grey levels at
    112x112. timed: persons whose masks are made twice to time it; a timing of the same masks on the same kind of device
    is taken from the store too.
    """
    mappings.spare()
    per_image = entry.cloak.kind == "image"
    faces = trials.test if per_image else trials.inference
    key = {"cloak": entry.fingerprint, "faces": hashed(faces, "").fingerprint, "seed": seed}
    random = jax.random.key(seed)
    making = None
    if timed:
        few = faces[:timed]
        device = {"device": device_name(), "timed": len(few)}
        stored = store.array(
            "timings", entry.label, key | device, lambda: np.array(cost.time_making(entry.cloak, few, random))
        )
        making = cost.MakingTime(float(stored[0]), float(stored[1]), int(stored[2]), int(stored[3]))
    raw = store.array(
        "masks",
        entry.label,
        key,
        lambda: np.asarray(entry.cloak.make_masks(images.to_unit(jnp.asarray(faces)), random)),
    )
    masks = np.asarray(images.rescale(jnp.asarray(raw), images.mask_norm_at(trials.image_size, norm)))
    began = time.perf_counter()
    protected = images.protect(trials.test, masks if per_image else _spread(masks))
    applying = (time.perf_counter() - began) / np.prod(trials.test.shape[:2])
    shown = masks[:, 0] if per_image else np.broadcast_to(masks, trials.test[:, 0].shape)
    return Worn(protected, shown, making, float(applying))


def device_name() -> str:
    """What computed: accelerators with their number, or the processor's cores."""
    first = jax.devices()[0]
    return f"cpu, {os.cpu_count()} cores" if first.platform == "cpu" else f"{jax.device_count()} x {first.device_kind}"


def _spread(masks: np.ndarray) -> np.ndarray:
    """Masks of persons [P, H, W, C] or of all [H, W, C], broadcastable to [P, T, H, W, C]."""
    return masks[:, None] if masks.ndim == 4 else masks[None, None]


def _same_network(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and float((one * other).sum(-1).mean()) > SAME_NETWORK
