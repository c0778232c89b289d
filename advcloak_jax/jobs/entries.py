"""The rows of a table: every cloak with the source model it is made against."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advcloak_jax import fingerprint
from advcloak_jax.cloaks import methods
from advcloak_jax.cloaks.cloak import Cloak
from advcloak_jax.cloaks.hybrid import refined
from advcloak_jax.cloaks.noise import noise
from advcloak_jax.config import GeneratorConfig, ProtectionConfig
from advcloak_jax.config.cloaks import HybridSettings, LowKeySettings
from advcloak_jax.errors import UserError
from advcloak_jax.jobs.targets import LoadedTarget, load_target
from advcloak_jax.jobs.trained import trained_cloaks
from advcloak_jax.recognizers.recognizer import Recognizer
from advcloak_jax.training.runs import Run

HYBRID = "hybrid"


@dataclasses.dataclass(frozen=True)
class Source:
    """A source model: one recogniser or an ensemble, whose mean the methods drive images away by."""

    members: tuple[LoadedTarget, ...]

    @property
    def label(self) -> str:
        """What tables call it."""
        return " + ".join(member.target.name for member in self.members)

    @property
    def recognizers(self) -> list[Recognizer]:
        """What is differentiated."""
        return [member.recognizer for member in self.members if member.recognizer is not None]

    @property
    def fingerprints(self) -> list[str | None]:
        """Hashes of the members."""
        return [member.fingerprint for member in self.members]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row: a cloak, its source model (None: it needs none), and the hash of everything that decides its masks.

    run: the folder of a trained one.
    """

    cloak: Cloak
    source: Source | None
    fingerprint: str
    run: Run | None = None

    @property
    def label(self) -> str:
        """Name that tells it from every other row."""
        return self.cloak.name if self.source is None else f"{self.cloak.name} against {self.source.label}"


def random_mask() -> Entry:
    """The row that every cloak must beat."""
    cloak = noise()
    return Entry(cloak, None, fingerprint.of_value(["random", _code(cloak)]))


def build(config: ProtectionConfig, cloak_runs: Sequence[Run]) -> list[Entry]:
    """All rows with a source model, grouped by it: in each, methods as asked for, then the trained cloaks.

    Raises UserError for an unknown method, a surrogate that is no recogniser, or one that is named twice.
    """
    sources: list[Source] = []
    for spec in config.surrogates:
        source = _load_source(spec)
        if _find(sources, source) is not None:
            raise UserError(f"--surrogates {spec} is named twice; drop one.")
        sources.append(source)
    asked = len(sources)
    trained: list[tuple[Source, Run]] = []
    for run in cloak_runs:
        assert isinstance(run.config, GeneratorConfig)
        source = _load_source(run.config.surrogate)
        known = _find(sources, source)
        sources += [source] if known is None else []
        trained.append((known or source, run))
    entries = []
    for number, source in enumerate(sources):
        own = [entry for place, run in trained if place is source for entry in _trained(run, source)]
        specs = config.methods if number < asked or not config.surrogates else ()
        made = [entry for spec in specs for entry in _method(spec, source, own)]
        entries += _told_apart([*made, *own])
    _require_starts(config.methods, entries)
    return entries


def _load_source(spec: str) -> Source:
    """FOLDER, or FOLDER+FOLDER for an ensemble."""
    folders = [spec] if Path(spec).exists() else spec.split("+")
    members = tuple(load_target(folder, "--surrogates") for folder in folders)
    for folder, member in zip(folders, members, strict=True):
        if member.recognizer is None:
            raise UserError(f"--surrogates {folder} cannot be differentiated; name a run folder (import its weights).")
    if len({member.fingerprint for member in members}) < len(members):
        raise UserError(f"--surrogates {spec} names one recogniser twice; drop one.")
    return Source(members)


def _find(sources: Sequence[Source], wanted: Source) -> Source | None:
    """The source of the same recognisers, in whichever folders they are."""
    names = set(wanted.fingerprints)
    return next((one for one in sources if set(one.fingerprints) == names), None)


def _trained(run: Run, source: Source) -> list[Entry]:
    return [Entry(cloak, source, identity, run) for cloak, identity in trained_cloaks(run)]


def _method(spec: str, source: Source, own: Sequence[Entry]) -> list[Entry]:
    """The row of a method on a source model; of a hybrid one for each start that belongs to this source."""
    method, chosen = methods.parse(spec)
    if method.name == HYBRID:
        return _hybrids(spec, method, chosen, source, own)
    cloak = method.build(source.recognizers, chosen)
    if isinstance(chosen, LowKeySettings) and chosen.alexnet:  # what is in the files decides, not where they lie
        alexnet, heads = (fingerprint.of_file(Path(file)) for file in (chosen.alexnet, chosen.lpips))
        chosen = dataclasses.replace(chosen, alexnet=alexnet, lpips=heads)
    return [Entry(cloak, source, _identity(cloak, method.name, chosen, source))]


def _hybrids(
    spec: str, method: methods.Method, chosen: HybridSettings, source: Source, own: Sequence[Entry]
) -> list[Entry]:
    """Trained cloaks of this source, refined: the start is given by its run folder or by its name in the table."""
    if not chosen.start:
        raise UserError(f"method '{spec}' needs start=, the run folder of a trained cloak or its name in the table.")
    found = []
    for entry in own:
        assert entry.run is not None
        is_it = entry.run.folder.absolute() == Path(chosen.start).absolute() or entry.cloak.name == chosen.start
        if is_it and entry.cloak.kind == "person":
            cloak = refined(f"{method.title} ({entry.cloak.name})", entry.cloak, source.recognizers, chosen)
            settings = dataclasses.replace(chosen, start=entry.fingerprint)
            found.append(Entry(cloak, source, _identity(cloak, method.name, settings, source)))
    return found


def _require_starts(specs: Sequence[str], entries: Sequence[Entry]) -> None:
    """Raise UserError for a hybrid that found its start under no source model."""
    trained = [entry for entry in entries if entry.run is not None and entry.cloak.kind == "person"]
    known = {name for entry in trained if entry.run for name in (entry.cloak.name, str(entry.run.folder.absolute()))}
    for spec in specs:
        method, chosen = methods.parse(spec)
        if method.name == HYBRID and not {chosen.start, str(Path(chosen.start).absolute())} & known:
            names = ", ".join(dict.fromkeys(entry.cloak.name for entry in trained)) or "none"
            raise UserError(f"method '{spec}' starts from no person-specific cloak of --cloaks; there are: {names}.")


def _told_apart(entries: list[Entry]) -> list[Entry]:
    """Rows of one source with different names: equal ones get their run's folder or their number behind them."""
    names = [entry.cloak.name for entry in entries]
    told = []
    for number, entry in enumerate(entries):
        name = entry.cloak.name
        if names.count(name) > 1:
            tail = entry.run.folder.name if entry.run is not None else str(names[: number + 1].count(name))
            entry = dataclasses.replace(entry, cloak=dataclasses.replace(entry.cloak, name=f"{name} ({tail})"))
        told.append(entry)
    return told


def _identity(cloak: Cloak, name: str, chosen: Any, source: Source) -> str:
    """Hash of a method with its settings, its source model and its code."""
    settings = dataclasses.asdict(chosen)
    return fingerprint.of_value([name, settings, source.fingerprints, _code(cloak)])


def _code(cloak: Cloak) -> str:
    return fingerprint.of_code(cloak.make_masks.__module__)
