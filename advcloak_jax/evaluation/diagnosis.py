"""Why a recogniser tells nobody apart: other input scales, channel orders and crops are tried on a few pairs."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from advcloak_jax.errors import UserError
from advcloak_jax.evaluation.targets import Target
from advcloak_jax.evaluation.verification import Pairs, auc, cosine
from advcloak_jax.recognizers.convention import Convention, Three

TOO_LOW = 0.75
"""Half way from guessing to telling everybody apart. Four published recognisers reach 0.997 on aligned CelebA faces as
they want them, and 0.57 to 0.70 with pixels on the wrong scale of 0..255 against -1..1."""
ENOUGH_PAIRS = 300
"""With fewer pairs a low AUC may be an accident."""
TRIED_IMAGES = 256
FOUND = 0.9
"""An AUC after which crops are not tried any more."""
CLEARLY_BETTER = 0.15
"""Three standard errors of the AUC of 64 same and 64 different pairs at chance (sqrt(1/12 (1/64 + 1/64)) = 0.05)."""

SCALES: tuple[tuple[Three, Three], ...] = (
    ((127.5,) * 3, (127.5,) * 3),
    ((127.5,) * 3, (128.0,) * 3),
    ((0.0,) * 3, (1.0,) * 3),
    ((0.0,) * 3, (255.0,) * 3),
    ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
)
"""(mean, std) in grey levels, in the order R, G, B: the usual ones of face networks, and ImageNet's."""


@runtime_checkable
class Adjustable(Protocol):
    """A target whose input convention is known and can be another."""

    name: str

    @property
    def convention(self) -> Convention:
        """What the network is fed now."""
        ...

    def with_convention(self, convention: Convention) -> Target:
        """The same network, fed otherwise."""
        ...


@dataclasses.dataclass(frozen=True)
class Trial:
    """One alternative. `change`: what was done, as a clause; `advice`: what the user does about it."""

    change: str
    advice: str
    auc: float


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What was tried on `pairs` pairs, whose AUC is `auc` as things are."""

    auc: float
    pairs: int
    scales_tried: bool
    trials: tuple[Trial, ...]

    @property
    def cause(self) -> Trial | None:
        """The best alternative, if it is clearly better."""
        best = max(self.trials, key=lambda trial: trial.auc, default=None)
        return best if best is not None and best.auc >= self.auc + CLEARLY_BETTER else None


def suspicious(measured: float, pairs: int) -> bool:
    """Whether an AUC over so many pairs is closer to guessing than to recognising, and no accident."""
    return measured < TOO_LOW and pairs >= ENOUGH_PAIRS


def diagnose(target: Target, images: np.ndarray, pairs: Pairs, *, seed: int = 0) -> Diagnosis:
    """Embed at most 256 of the images [n, H, W, 3] uint8 again in every other way that applies, and compare the AUC.

    pairs: of both kinds, indices of images. Other scales and channel orders go first, crops follow where none of them
    is the answer. Ways in which the network fails are left out.
    """
    few = _few(pairs, seed)
    chosen, place = np.unique(np.concatenate([few.first, few.second]), return_inverse=True)
    faces = images[chosen]
    first, second = np.split(place, 2)
    renumbered = Pairs(first, second, few.same)

    def measure(other: Target, shown: np.ndarray) -> float:
        return auc(cosine(other.embed(shown), renumbered), renumbered.same)

    def tried(ways: Iterable[_Way]) -> Iterator[Trial]:
        for change, advice, other, shown in ways:
            try:
                yield Trial(change, advice, measure(other, shown(faces)))
            except UserError:  # embeddings that are not finite, say: that way is no cure
                continue

    trials = list(tried(_inputs(target)))
    if all(trial.auc < FOUND for trial in trials):
        trials += tried(_crops(target))
    return Diagnosis(measure(target, faces), len(few.same), isinstance(target, Adjustable), tuple(trials))


def explain_trained(name: str, measured: float, pairs: int) -> str:
    """The warning about a recogniser that was trained here, and so is fed as it should be."""
    return (
        f"{_head(name, measured, pairs)}: train it longer or on more people, and check that these faces are cropped "
        "like those it was trained on."
    )


def _head(name: str, measured: float, pairs: int) -> str:
    return f"{name}: AUC {measured:.2f} over {pairs:,} pairs is closer to guessing (0.5) than to recognising (1)"


def explain(name: str, measured: float, pairs: int, diagnosis: Diagnosis) -> str:
    """The warning about a recogniser whose AUC over `pairs` pairs is too low, in one sentence."""
    head = _head(name, measured, pairs)
    cause = diagnosis.cause
    if cause is not None:
        return (
            f"{head}; {cause.change} gives {cause.auc:.2f} instead of {diagnosis.auc:.2f} on {diagnosis.pairs} of "
            f"them: {cause.advice}."
        )
    tried = "other scales, channel orders and crops" if diagnosis.scales_tried else "other channel orders and crops"
    check = "" if diagnosis.scales_tried else "what scale of pixels the network wants, "
    return (
        f"{head}, and none of {len(diagnosis.trials)} {tried} makes it better: check {check}that the faces are aligned "
        f"as the network wants them, that the pairs are labelled right, and that the network recognises faces."
    )


def _few(pairs: Pairs, seed: int) -> Pairs:
    """As many pairs of each kind, drawn at random, as have no more than TRIED_IMAGES images."""
    rng = np.random.default_rng(seed)
    each = min(TRIED_IMAGES // 4, int(pairs.same.sum()), int((~pairs.same).sum()))
    chosen = np.concatenate([rng.permutation(np.flatnonzero(pairs.same == kind))[:each] for kind in (True, False)])
    return Pairs(pairs.first[chosen], pairs.second[chosen], pairs.same[chosen])


_Way = tuple[str, str, Target, Callable[[np.ndarray], np.ndarray]]
"""(change, advice, target, what to do with the faces)."""


def _inputs(target: Target) -> Iterator[_Way]:
    """Other scales and channel orders, where the target can be told, else swapped channels of the faces."""
    if isinstance(target, Adjustable):
        for convention in conventions(target.convention):
            options = difference(target.convention, convention)
            yield (
                options,
                f"give the recogniser {options} (an imported one: import it again with them)",
                target.with_convention(convention),
                np.asarray,
            )
    else:
        advice = "the network wants BGR; import or wrap it with that order"
        yield "swapping red and blue", advice, target, lambda faces: faces[..., ::-1]


def _crops(target: Target) -> Iterator[_Way]:
    for change, advice, share, down in _CROPS:
        yield change, advice, target, functools.partial(window, share=share, down=down)


def conventions(now: Convention) -> list[Convention]:
    """Every usual scale in both channel orders, of the same input size; the one that is used now is left out."""
    found = []
    for mean, std in [(now.mean, now.std), *SCALES]:
        for channels in ("rgb", "bgr"):
            flipped = channels == "bgr" and (mean, std) != (now.mean, now.std)
            scale = (mean[::-1], std[::-1]) if flipped else (mean, std)
            found.append(now._replace(mean=scale[0], std=scale[1], channels=channels))
    return [one for one in dict.fromkeys(found) if one != now]


def difference(now: Convention, other: Convention) -> str:
    """What of a convention changes, as the options of a target: "mean=0,std=1,channels=bgr"."""
    changed = []
    if (now.mean, now.std) != (other.mean, other.std):
        changed += [f"mean={_numbers(other.mean)}", f"std={_numbers(other.std)}"]
    if now.channels != other.channels:
        changed.append(f"channels={other.channels}")
    return ",".join(changed)


_TIGHTER, _LOOSER = "crop the faces tighter", "crop the faces looser"
_CROPS = (
    ("taking the central 80 % of each image", _TIGHTER, 0.8, 0.0),
    ("taking the central 64 % of each image", _TIGHTER, 0.64, 0.0),
    ("taking the central 50 % of each image", _TIGHTER, 0.5, 0.0),
    ("shrinking each image to 80 %", _LOOSER, 1.25, 0.0),
    ("shrinking each image to 64 %", _LOOSER, 1.5625, 0.0),
    ("taking a window 12 % lower", "crop the faces lower", 1.0, 0.12),
    ("taking a window 12 % higher", "crop the faces higher", 1.0, -0.12),
)


def window(images: np.ndarray, share: float, down: float) -> np.ndarray:
    """A window of `share` of each image's sides, `down` of its height below the centre, resized to the whole size.

    images: [B, H, W, 3] uint8, and so is the result. Beyond an image its edge is repeated.
    """
    height, width = images.shape[1:3]
    margin_y, margin_x = height // 2, width // 2
    padded = np.pad(images, ((0, 0), (margin_y, margin_y), (margin_x, margin_x), (0, 0)), mode="edge")
    left = margin_x + width * (1 - share) / 2
    top = margin_y + height * ((1 - share) / 2 + down)
    box = (left, top, left + width * share, top + height * share)
    resized = [Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC, box) for one in padded]
    return np.stack([np.asarray(one) for one in resized])


def _numbers(values: Three) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else "/".join(f"{value:g}" for value in values)
