"""Rows of a table: grouped by source model, told apart by name, and by everything that decides their masks."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import small_training as small

from advcloak_jax.config import ImageConfig, ProtectionConfig
from advcloak_jax.errors import UserError
from advcloak_jax.evaluation.targets import FlaxTarget
from advcloak_jax.jobs import entries
from advcloak_jax.jobs.targets import LoadedTarget
from advcloak_jax.recognizers.recognizer import Recognizer
from advcloak_jax.training.runs import Run


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recognisers by name: "a", "b" and "c" differ, "copy" is "a" in another folder."""
    seeds = {"a": 1, "b": 2, "c": 3, "copy": 1}

    def load(folder: str, flag: str) -> LoadedTarget:
        module = small.SmallRecognizer()
        variables = module.init(jax.random.key(seeds[folder]), jnp.zeros((1, 16, 16, 3)), train=False)
        target = FlaxTarget(folder, module, variables)
        recognizer = None if folder == "c" else Recognizer(module, variables)
        return LoadedTarget(target, Path(folder), 16, frozenset(), recognizer)

    def trained(run: Run) -> list[tuple[entries.Cloak, str]]:
        return [
            (entries.Cloak("AdvFaces", "image", lambda faces, key: faces), f"{run.folder} image"),
            (entries.Cloak("AdvFaces+", "person", lambda faces, key: faces[:, 0]), f"{run.folder} person"),
        ]

    monkeypatch.setattr(entries, "load_target", load)
    monkeypatch.setattr(entries, "trained_cloaks", trained)


def run(folder: str, surrogate: str) -> Run:
    return Run(Path(folder), "image", ImageConfig(surrogate=surrogate))


def build(cloaks: list[Run], *methods: str, surrogates: tuple[str, ...] = ()) -> list[entries.Entry]:
    return entries.build(ProtectionConfig(methods=methods, surrogates=surrogates), cloaks)


def labels(rows: list[entries.Entry]) -> list[str]:
    return [row.label for row in rows]


def test_a_trained_cloak_stands_under_the_network_it_learnt_against_whichever_folder_it_is_in() -> None:
    rows = build([run("one", "copy"), run("two", "b")], "fi-uap", surrogates=("a", "a+b"))
    assert labels(rows) == [
        "FI-UAP against a",
        "AdvFaces against a",
        "AdvFaces+ against a",
        "FI-UAP against a + b",
        "AdvFaces against b",
        "AdvFaces+ against b",
    ]
    assert len({row.fingerprint for row in rows}) == 6
    assert len(rows[3].source.recognizers) == 2


def test_without_surrogates_methods_run_on_those_of_the_cloaks() -> None:
    rows = build([run("one", "a"), run("two", "a")], "fi-uap", "fi-uap:steps=2")
    assert labels(rows) == [
        "FI-UAP (1) against a",
        "FI-UAP (2) against a",
        "AdvFaces (one) against a",
        "AdvFaces+ (one) against a",
        "AdvFaces (two) against a",
        "AdvFaces+ (two) against a",
    ]


def test_a_method_is_its_settings_its_source_and_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(method: str, surrogate: str) -> str:
        return build([], method, surrogates=(surrogate,))[0].fingerprint

    first = found("fi-uap", "a")
    assert first == found("fi-uap:steps=16", "copy")
    assert (
        len(
            {
                first,
                found("fi-uap:steps=15", "a"),
                found("fi-uap", "b"),
                found("fi-uap-plus", "a"),
                found("fi-uap", "a+b"),
            }
        )
        == 5
    )
    monkeypatch.setattr(entries.fingerprint, "of_code", lambda module: "changed")
    assert found("fi-uap", "a") != first


def test_a_hybrid_starts_from_its_own_sources_cloak() -> None:
    cloaks = [run("one", "a"), run("two", "b")]
    rows = build(cloaks, "hybrid:start=AdvFaces+", surrogates=("a", "b"))
    hybrids = [row for row in rows if row.run is None]
    assert labels(hybrids) == ["Hybrid (AdvFaces+) against a", "Hybrid (AdvFaces+) against b"]
    assert hybrids[0].fingerprint != hybrids[1].fingerprint
    by_folder = build(cloaks, "hybrid:start=two", surrogates=("a", "b"))
    assert labels([row for row in by_folder if row.run is None]) == ["Hybrid (AdvFaces+) against b"]
    assert next(row for row in by_folder if row.run is None).fingerprint == hybrids[1].fingerprint


@pytest.mark.parametrize(
    ("methods", "surrogates", "message"),
    [
        (["fi-uap"], ("a", "copy"), "--surrogates copy is named twice"),
        (["fi-uap"], ("a+copy",), r"--surrogates a\+copy names one recogniser twice"),
        (["fi-uap"], ("c",), "--surrogates c cannot be differentiated"),
        (
            ["hybrid:start=AdvFaces"],
            ("a",),
            r"starts from no person-specific cloak of --cloaks; there are: AdvFaces\+\.",
        ),
        (["fi-uapp"], ("a",), "did you mean 'fi-uap'"),
    ],
)
def test_what_makes_no_row_is_refused(methods: list[str], surrogates: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build([run("one", "a")], *methods, surrogates=surrogates)
