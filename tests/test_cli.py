"""The command line: every flag explained, every mistake one sentence and exit status 2."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Capture, kept_hooks, main, status

from advcloak_jax import cli, commands, settings
from advcloak_jax.config import (
    ExportConfig,
    ImageConfig,
    ImportConfig,
    PersonConfig,
    PrepareConfig,
    RecognizerConfig,
    SplitConfig,
    flag,
)
from advcloak_jax.errors import UserError
from advcloak_jax.training.runs import JOBS, start_run

TINY = ["--data", "synthetic:24x4", "--image-size", "32", "--split.protected", "3", "--split.n-inference", "2"]
TINY += ["--split.n-test", "2", "--split.generator", "6", "--split.generator-images", "4", "--split.surrogate", "4"]
TINY += ["--split.target", "4"]


@pytest.fixture(autouse=True)
def hooks() -> Iterator[None]:
    with kept_hooks():
        yield


@pytest.mark.parametrize("job", JOBS)
def test_help_explains_every_flag_with_its_default(job: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert status(lambda: cli.parse("train.py", JOBS, [job, "--help"])) == 0
    text = re.sub(r"\x1b\[[0-9;]*m|│", "", capsys.readouterr().out)
    for field in dataclasses.fields(JOBS[job]):
        names = (
            [f"--split.{part.name.replace('_', '-')}" for part in dataclasses.fields(SplitConfig)]
            if field.name == "split"
            else [flag(field.name)]
        )
        for name in names:
            # From the flag to the next one: its kind, its text and its default.
            found = re.search(rf"^ {{,4}}{name}\s(.*?)(?=^ {{,4}}--|\Z)", text, re.DOTALL | re.MULTILINE)
            assert found is not None, name
            words = found[1].split()
            assert len(words) >= 5, words
            assert {"(default:", "(required)"} & set(words), words


def test_help_alone_lists_the_jobs(capsys: Capture) -> None:
    assert status(lambda: cli.parse("train.py", JOBS, ["--help"])) == 0
    listed = capsys.readouterr().out
    assert all(job in listed for job in JOBS)
    assert status(lambda: cli.parse("train.py", JOBS, [])) == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["image", "--lerning-rate", "1"], "--learning-rate"),
        (["image", "--split.protectd", "1"], "--split.protected"),
        (["person", "--subspace", "convex"], "convex-hull"),
        (["image", "--steps", "many"], "--steps"),
        (["image", "--steps"], "--steps"),
        (["image", "--dtype", "float16"], "bfloat16"),
        (["image", "--preset"], "--preset"),
    ],
)
def test_an_unknown_flag_or_value_is_told_in_one_sentence_that_names_the_nearest(
    arguments: list[str], named: str, capsys: Capture
) -> None:
    with pytest.raises(UserError) as told:
        cli.parse("train.py", JOBS, arguments)
    sentence = str(told.value)
    assert named in sentence
    assert sentence.endswith(f"(python train.py {arguments[0]} --help).")
    assert "\n" not in sentence
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["imag"], r"'imag' is no job of train.py; .*image"),
        (["image", "--preset", "dmeo"], r"--preset dmeo .*demo"),
        (["image", "--batch", "0"], r"--batch must be at least 1"),
        (["image", "--seed", "-1"], r"--seed"),
        (["image", "--log-every", "7"], r"--log-every must be a multiple of --steps-per-dispatch 10"),
        (["image", "--surrogate", "nowhere"], r"nowhere is no run folder"),
        (["recognizer", "--steps", "1" + 20 * "0"], r"--steps 10+ must be within 2147483647"),
        (["recognizer", "--split.generator", str(2**31)], r"--split\.generator 2147483648 must be within"),
        (["image", "--lambda-norm", "1e300"], r"--lambda-norm 1e\+300 must be a finite number within 3.4e\+38"),
        (["image", "--lambda-norm", "nan"], r"--lambda-norm nan must be a finite number"),
        (["image", "--generator-width", "99999999"], r"--generator-width must be between 1 and 4096"),
        (["recognizer", "--width", "1e9"], r"--width must be more than 0 and at most 64"),
        (["recognizer", *TINY, "--split.validation", "1"], r"--split\.validation 1 is too few"),
        (["person", "--generator", "none"], r"--surrogate is needed"),
        (["person", "--generator", "nowhere"], r"nowhere is no run folder"),
        (["recognizer", "--data", "folder:nowhere"], r"nowhere"),
        (["recognizer", "--data", "synthetic:x"], r"--data synthetic:x must be synthetic:IDENTITIESxIMAGES"),
        (["recognizer", "--data", "synthetic:9x2"], r"--split\.protected 500 asks for more persons"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(sentence, main(monkeypatch, capsys, *arguments))
    assert not (tmp_path / "runs" / "recognizer").exists()
    assert not (tmp_path / "runs" / "image").exists()
    assert not (tmp_path / "runs" / "person").exists()


def test_the_wrong_kind_of_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    start_run("image", ImageConfig(run="stage-one"))
    said = main(monkeypatch, capsys, "image", "--surrogate", "stage-one")
    assert said == "--surrogate stage-one is a run of `train.py image`; name one of `train.py recognizer`."
    start_run("recognizer", RecognizerConfig(run="recognizer"))
    said = main(monkeypatch, capsys, "person", "--generator", "recognizer")
    assert "--generator recognizer is a run of `train.py recognizer`" in said


def test_bounds_that_no_weights_meet_are_told_before_the_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    start_run("recognizer", RecognizerConfig(run="r", image_size=32))
    arguments = ["person", "--generator", "none", "--surrogate", "r", *TINY, "--split.validation", "2"]
    said = main(monkeypatch, capsys, *arguments, "--lower", "0.3")
    assert said.startswith("No 4 weights between 0.3 and 1.0 can sum to 1")
    assert not (tmp_path / "runs" / "person").exists()


def test_a_damaged_config_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    start_run("recognizer", RecognizerConfig(run="r"))
    good = json.loads((tmp_path / "r" / "config.json").read_text())
    for bad in (
        "{",
        "[]",
        json.dumps({"job": "image"}),
        json.dumps({"job": "recognizer", "config": 3}),
        json.dumps({"job": ["recognizer"], "config": {}}),
        json.dumps({**good, "config": {**good["config"], "widht": 1.0}}),
        json.dumps({**good, "config": {**good["config"], "width": -1.0}}),
    ):
        (tmp_path / "r" / "config.json").write_text(bad)
        assert "r/config.json" in main(monkeypatch, capsys, "image", "--surrogate", "r")
        assert "r/config.json" in main(monkeypatch, capsys, "recognizer", "--run", "r", "--resume")


def test_the_preset_and_a_flag_above_it() -> None:
    _, config = cli.parse("train.py", JOBS, ["recognizer", "--preset", "demo", "--width", "0.5"])
    assert (config.width, config.architecture, config.preset) == (0.5, "ir18", "demo")
    _, config = cli.parse("train.py", JOBS, ["recognizer", "--preset=demo"])
    assert config.architecture == "ir18"


def test_a_file_replaces_defaults_and_flags_override_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("preset: demo\nwidth: 0.75\nsplit: {protected: 9}\nsteps: 40\n")
    _, config = cli.parse("train.py", JOBS, ["recognizer", "--config", str(path), "--steps", "80"])
    assert (config.architecture, config.width, config.steps) == ("ir18", 0.75, 80)  # the preset, the file, the flag
    assert (config.split.protected, config.split.surrogate) == (9, 200)
    _, config = cli.parse("train.py", JOBS, ["recognizer", f"--config={path}", "--preset", "paper"])
    assert (config.architecture, config.width) == ("ir50", 0.75)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lerning_rate: 1.0", r"mine.yaml has an unknown setting 'lerning_rate'; did you mean 'learning_rate'"),
        ("steps: many", r"mine.yaml: steps is 'many'; it must be of type int"),
        ("split: {protectd: 3}", r"split has an unknown setting 'protectd'; did you mean 'protected'"),
        ("batch: 0", r"mine.yaml: --batch must be at least 1"),
        ("preset: [demo]", r"mine.yaml: preset is .*must be one of paper"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert re.search(said, main(monkeypatch, capsys, "image", "--config", str(tmp_path / "mine.yaml")))


@pytest.mark.parametrize("job", JOBS)
def test_what_is_printed_works_as_a_file(job: str, tmp_path: Path, capsys: Capture) -> None:
    flags = ["--preset", "demo", "--learning-rate", "3e-8", "--data", "folder:a", "folder:b", "--split.protected", "3"]
    assert status(lambda: commands.train([job, *flags, "--print-config"])) == 0
    (tmp_path / "printed.json").write_text(capsys.readouterr().out)
    _, asked = cli.parse("train.py", JOBS, [job, *flags])
    _, found = cli.parse("train.py", JOBS, [job, "--config", str(tmp_path / "printed.json")])
    start = {"preset": "paper", "config": ""}
    assert dataclasses.replace(found, **start) == dataclasses.replace(asked, **start)


def test_a_measurements_settings_are_printed_too(tmp_path: Path, capsys: Capture) -> None:
    assert status(lambda: commands.evaluate(["table", "--norm", "600", "--print-config"])) == 0
    (tmp_path / "printed.json").write_text(capsys.readouterr().out)
    _, found = cli.parse("evaluate.py", commands.EVALUATIONS, ["table", "--config", str(tmp_path / "printed.json")])
    assert found.norm == 600


def test_what_is_printed_is_completed_by_the_earlier_run(tmp_path: Path, capsys: Capture) -> None:
    surrogate = str(tmp_path / "r")
    start_run("recognizer", RecognizerConfig(run=surrogate, data=("folder:a",), image_size=64))
    assert status(lambda: commands.train(["image", "--surrogate", surrogate, "--print-config"])) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["data"], printed["image_size"]) == (["folder:a"], 64)
    assert status(lambda: commands.train(["image", "--surrogate", "nowhere", "--print-config"])) == 0
    assert "nowhere is no run folder" in capsys.readouterr().err


def test_a_program_of_one_job_takes_a_file_too(tmp_path: Path, capsys: Capture) -> None:
    program = ("python -m advcloak_jax.export", ExportConfig)
    given = ["runs/a", "out", "--formats", "onnx", "--print-config"]
    assert status(lambda: cli.parse_one(*program, given, job="export")) == 0
    file = tmp_path / "mine.json"
    file.write_text(capsys.readouterr().out)
    found = cli.parse_one(*program, ["--config", str(file), "--image-size", "64"], job="export")
    assert (found.run, found.out, found.formats, found.image_size) == ("runs/a", "out", ("onnx",), 64)
    file.write_text('{"formats": ["onnx"]}')
    assert cli.parse_one(*program, ["runs/b", "out", "--config", str(file)], job="export").run == "runs/b"
    with pytest.raises(UserError, match=r"Missing from .*Run folder of a stage"):
        cli.parse_one(*program, ["--config", str(file)], job="export")
    file.write_text('{"formatz": ["onnx"]}')
    with pytest.raises(UserError, match=r"unknown setting 'formatz'; did you mean 'formats'\?"):
        cli.parse_one(*program, ["runs/b", "out", "--config", str(file)], job="export")


def test_an_imports_config_repeats_it(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    values = settings.to_dict(ImportConfig(file="a.pth", run="runs/a", mean=(127.5,)))
    file.write_text(json.dumps({"job": "import", "code": {}, "config": values}))
    program = ("python -m advcloak_jax.recognizers.import_weights", ImportConfig)
    found = cli.parse_one(*program, ["--config", str(file), "--run", "runs/b"], job="import")
    assert found == ImportConfig(file="a.pth", run="runs/b", mean=(127.5,), config=str(file))
    with pytest.raises(UserError, match=r"is of a run of `import`, not of `prepare`"):
        cli.parse_one("prepare", PrepareConfig, ["a", "b", "--config", str(file)], job="prepare")


@pytest.mark.parametrize("arguments", [["table", "--norm", "inf"], ["ablation", "norm", "--norms", "100", "nan"]])
def test_masks_of_no_finite_norm_are_refused(arguments: list[str]) -> None:
    """They would black every face out, and count as protection."""
    with pytest.raises(UserError, match=r"--norms? (inf|nan) must be a finite number"):
        cli.parse("evaluate.py", commands.EVALUATIONS, arguments)


def test_the_cache_lies_beside_the_run() -> None:
    for flags, folder in (
        (["--run", "/scratch/a/image"], "/scratch/a/cache"),
        ([], "runs/cache"),
        (["--cache", "here"], "here"),
        (["--cache", "none"], ""),
    ):
        assert cli.parse("train.py", JOBS, ["image", *flags])[1].cache == folder
    assert cli.parse("evaluate.py", commands.EVALUATIONS, ["table", "--out", "/a/b/table"])[1].cache == "/a/b/cache"


def test_a_file_can_name_the_run_that_is_resumed(tmp_path: Path) -> None:
    start_run("image", ImageConfig(run=str(tmp_path / "r"), steps=7))
    (tmp_path / "mine.json").write_text(json.dumps({"run": str(tmp_path / "r"), "keep": 5}))
    _, config = cli.parse("train.py", JOBS, ["image", "--config", str(tmp_path / "mine.json"), "--resume"])
    assert (config.steps, config.keep) == (7, 5)


def test_a_resumed_runs_own_settings_are_the_defaults(tmp_path: Path) -> None:
    run = str(tmp_path / "r")
    start_run("person", PersonConfig(run=run, steps=7, data=("folder:a", "folder:b"), split=SplitConfig(protected=3)))
    for arguments in (["--run", run], [f"--run={run}"]):
        _, config = cli.parse("train.py", JOBS, ["person", *arguments, "--resume", "--keep", "5"])
        assert (config.steps, config.data, config.split.protected) == (7, ("folder:a", "folder:b"), 3)
        assert (config.run, config.resume, config.keep) == (run, True, 5)
    _, config = cli.parse("train.py", JOBS, ["person", "--run", run])
    assert config.steps == 0


def test_several_sources() -> None:
    _, config = cli.parse("train.py", JOBS, ["image", "--data", "folder:a", "synthetic:3x4", "--steps", "10"])
    assert config.data == ("folder:a", "synthetic:3x4")
