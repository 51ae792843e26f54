"""The Python API: results, errors, the examples of its docstrings, and the caller's process, which stays as it was."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import train_pytorch_model as tpm
from tests.making import Inputs, read_json_lines, run_here, write_class_folders
from train_pytorch_model import api
from train_pytorch_model.cli.parser import build_parser
from train_pytorch_model.errors import InvalidDatasetError, UserError
from train_pytorch_model.parameters import TrainingParameters, parse_boolean, parse_export_formats
from train_pytorch_model.session import in_caller

# In the order of a pipeline: an example finds what those before it wrote.
ORDER = (
    *("convert_to_image_directory", "split_image_directory", "init_image_transformation"),
    *("apply_image_transformation", "initialize_model", "check", "train", "score", "evaluate", "cross_validate"),
    "run_pipeline",
)
PIPELINE = """
type: pipeline
jobs:
  copy:
    type: command
    component: ./component.yaml
    inputs: {images: {type: uri_folder, path: ./photos}}
"""
COMPONENT = """
type: command
name: copy_images
version: 0.0.1
inputs: {images: {type: uri_folder}}
outputs: {copy: {type: uri_folder}}
environment: azureml:none:1
command: cp -r ${{inputs.images}}/. ${{outputs.copy}}
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_of_the_docstrings_are_true(workplace: Path) -> None:
    write_class_folders(workplace / "photos", classes=("cat", "dog"), per_class=12, size=32)
    (workplace / "pipeline.yaml").write_text(PIPELINE)
    (workplace / "component.yaml").write_text(COMPONENT)
    assert set(ORDER) == {name for name in tpm.__all__ if inspect.isfunction(getattr(tpm, name))}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for name in ORDER:
        found = doctest.DocTestFinder(recurse=False).find(getattr(tpm, name), name, globs={})
        assert [example for test in found for example in test.examples], f"{name} has no example"
        for test in found:
            runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def parameters_of(name: str) -> dict[str, object]:
    signature = inspect.signature(getattr(api, name))
    return {key: item.default for key, item in signature.parameters.items() if key != "_session"}


@pytest.mark.parametrize("name", ["train", "check"])
def test_the_keywords_are_the_flags_with_their_defaults(name: str) -> None:
    given = parameters_of(name)
    for parameter in TrainingParameters.definitions():
        assert given[parameter] == TrainingParameters.default(parameter)
    assert given == parameters_of("train")


def test_a_fold_takes_the_parameters_of_train() -> None:
    given = parameters_of("cross_validate")
    for parameter in TrainingParameters.definitions():
        assert given[parameter] == TrainingParameters.default(parameter)


@pytest.mark.parametrize("name", ORDER)
def test_every_flag_of_the_command_is_a_keyword(name: str) -> None:
    commands = build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr,index,call-overload]
    command = {"score": "score-image-model", "evaluate": "evaluate-model"}.get(name, name.replace("_", "-"))
    flags = {action.dest for action in commands[command]._actions} - {"help", "quiet", "log_format", "json", "list"}
    keywords = set(parameters_of(name))
    if name == "init_image_transformation":
        assert keywords - {"options"} <= flags
    else:
        assert keywords == flags


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, train_pytorch_model as t; t.train; t.ModuleError; t.__version__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"train_pytorch_model.api", "train_pytorch_model.errors"} <= set(loaded)
    assert not {"torch", "torchvision", "numpy", "pandas", "rich", "PIL", "azureml"} & set(loaded)


def test_what_train_returns_is_what_the_command_writes(inputs: Inputs, workplace: Path) -> None:
    paths = (inputs.untrained, inputs.train, inputs.valid)
    how: dict[str, Any] = {"epochs": 3, "learning_rate": 0.01}
    result = tpm.train(*paths, workplace / "called", batch_size=6, report="basic", outputs_path="own", **how)
    assert inputs.fit(**how) == 0
    lines = read_json_lines(workplace / "own" / "metrics.jsonl")
    assert lines == inputs.metrics()
    for name in ("model", "model_spec.yaml", "index_to_label.csv"):
        written, called = ((folder / name).read_bytes() for folder in (inputs.trained, workplace / "called"))
        if name == "model":
            assert str(torch.load(workplace / "called" / name)) == str(torch.load(inputs.trained / name))
        elif name != "model_spec.yaml":  # which has the time of its creation
            assert called == written
    table = result.to_dataframe()
    assert isinstance(table, pd.DataFrame)
    assert table["epoch"].tolist() == [1, 2, 3]
    assert table["valid_loss"].tolist() == [line["valid_loss"] for line in lines]
    assert result.best_epoch == max(line["epoch"] for line in lines if line["is_best"])  # type: ignore[type-var]
    assert result.trained_model_path == workplace / "called"
    assert result.report_path is not None
    assert result.report_path.is_file()
    assert result.metrics_path.samefile(workplace / "own" / "metrics.jsonl")
    assert str(result.best_epoch) in repr(result)


def test_named_errors_are_raised_and_nothing_is_written(inputs: Inputs, workplace: Path) -> None:
    others = write_class_folders(workplace / "others", classes=("bird", "cat", "dog"))
    with pytest.raises(InvalidDatasetError) as raised:
        tpm.train(inputs.untrained, inputs.train, others, workplace / "called", batch_size=6)
    assert raised.value.code == 18
    assert isinstance(raised.value, tpm.ModuleError)
    assert not (workplace / "called").exists()
    with pytest.raises(UserError, match="epochs: expected 'auto' or an integer, but got 'many'"):
        tpm.train(inputs.untrained, inputs.train, inputs.valid, workplace / "called", epochs="many")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"trust_model_code": "perhaps"}, "trust_model_code: expected true or false, but got 'perhaps'"),
        ({"export": "json"}, "export: expected formats among mlflow, onnx, but got 'json'"),
        ({"learning_rate": 10**400}, "learning_rate: expected 'auto' or a number"),
    ],
)
def test_wrong_values_are_named_errors(values: dict[str, Any], words: str, workplace: Path) -> None:
    with pytest.raises(UserError, match=words):
        tpm.train("untrained", "train", "valid", "trained", **values)


def test_false_as_a_text_trusts_no_code(workplace: Path) -> None:
    assert parse_boolean("trust_model_code", "false") is False
    assert parse_export_formats("onnx") == ("onnx",)


def test_an_unknown_option_is_a_type_error(workplace: Path) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        tpm.init_image_transformation("transformation", nonsense=True)


def test_variables_of_a_launcher_concern_only_training(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # without RANK
    assert tpm.init_image_transformation("transformation", pad=True, padding=2) == [("Pad", 2)]
    assert not (workplace / "outputs").exists()


def test_code_of_a_model_does_not_outlive_the_call(tmp_path: Path) -> None:
    before = list(sys.path)
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "code_of_a_model.py").write_text(f"VERSION = {version!r}")
        with in_caller():
            sys.path.append(str(tmp_path / version))
            assert version == importlib.import_module("code_of_a_model").VERSION
            importlib.invalidate_caches()
    assert sys.path == before
    assert "code_of_a_model" not in sys.modules


def test_two_trainings_of_one_program_in_two_processes(inputs: Inputs, workplace: Path) -> None:
    (workplace / "program.py").write_text(
        "import sys, train_pytorch_model as tpm\n"
        "for number in range(2):\n"
        "    result = tpm.train(*sys.argv[1:4], f'trained-{number}', epochs=1, batch_size=6, report='off')\n"
        "    assert result.best_epoch == 1\n"
    )
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "program.py")
    paths = (inputs.untrained, inputs.train, inputs.valid)
    finished = subprocess.run(
        [sys.executable, *launch, *map(str, paths)], capture_output=True, text=True, cwd=workplace, timeout=300
    )
    assert finished.returncode == 0, finished.stderr
    first, second = (torch.load(workplace / f"trained-{number}" / "model") for number in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_check_returns_problems_instead_of_raising_them(inputs: Inputs, workplace: Path) -> None:
    result = tpm.check(inputs.untrained, inputs.train, inputs.valid, workplace / "called", epochs=0, batch_size=6)
    assert [problem.id for problem in result.problems] == ["GreaterThan"]
    assert result.classes == ("cat", "dog", "owl")
    assert not (workplace / "outputs").exists()


def surroundings() -> dict[str, object]:
    """Everything of a process that a call could change for its caller."""
    logger = logging.getLogger("train_pytorch_model")
    return {
        "root handlers": list(logging.getLogger().handlers),
        "root level": logging.getLogger().level,
        "handlers": list(logger.handlers),
        "level": logger.level,
        "filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "torch seed": torch.get_rng_state().tolist(),
        "numpy seed": str(np.random.get_state()),
        "python seed": random.getstate(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "tf32": (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
        "fills": torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        "gradients": torch.is_grad_enabled(),
        "signals": {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)},
        "excepthook": threading.excepthook,
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "streams": (sys.stdout, sys.stderr),
    }


@pytest.mark.parametrize("fails", [False, True], ids=["success", "error"])
def test_nothing_outlives_the_call(fails: bool, inputs: Inputs, workplace: Path) -> None:
    warnings.filterwarnings("ignore", message="of the caller's own")
    torch.backends.cudnn.benchmark = True
    before = surroundings()
    if fails:
        with pytest.raises(tpm.ModuleError):
            tpm.train(inputs.untrained, workplace / "none", inputs.valid, workplace / "called")
    else:
        tpm.train(inputs.untrained, inputs.train, inputs.valid, workplace / "called", epochs=1, batch_size=6)
    after = surroundings()
    torch.backends.cudnn.benchmark = False
    assert {name for name in before if before[name] != after[name]} == set()


def test_a_call_in_another_thread_trains(inputs: Inputs, workplace: Path) -> None:
    results = []
    paths = (inputs.untrained, inputs.train, inputs.valid, workplace / "called")
    thread = threading.Thread(target=lambda: results.append(tpm.train(*paths, epochs=1, batch_size=6, report="off")))
    thread.start()
    thread.join()
    assert [result.best_epoch for result in results] == [1]


def test_logging_of_the_caller_gets_the_lines(
    inputs: Inputs, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "train_pytorch_model")
    tpm.split_image_directory(inputs.train, "first", "second", fraction=0.5)
    assert any("First output" in message for message in caplog.messages)


def test_score_needs_no_folder_and_agrees_with_the_command(inputs: Inputs, workplace: Path) -> None:
    assert inputs.fit() == 0
    table = tpm.score(inputs.trained, inputs.valid)
    assert not (workplace / "scored").exists()
    code = run_here(
        "score-image-model",
        trained_model=inputs.trained,
        dataset=inputs.valid,
        scored_dataset=workplace / "scored",
        outputs_path=workplace / "outputs",
    )
    assert code == 0
    pd.testing.assert_frame_equal(table, pd.read_parquet(workplace / "scored" / "_data.parquet"))


def test_evaluate_returns_what_it_writes(inputs: Inputs, workplace: Path) -> None:
    assert inputs.fit() == 0
    tpm.score(inputs.trained, inputs.valid, "scored")
    metrics = tpm.evaluate("scored", "evaluation")
    assert metrics == json.loads((workplace / "evaluation" / "metrics.json").read_text())
