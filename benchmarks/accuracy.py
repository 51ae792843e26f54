"""Accuracy on photos, from pretrained weights: this package, fastai and the loop of PyTorch's tutorial.

`make bench-accuracy DATA=DIR` runs it. DIR has sets (`SET/train/CLASS` and `SET/test/CLASS`, or `SET/CLASS`) and files
of weights (`weights/NETWORK.pth`). A fifth of the training images of each class is the validation set. The test images
are predicted once, with the model that a program has written. Each result is appended to a file, and a run whose result
is there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from sklearn.metrics import accuracy_score, balanced_accuracy_score

from benchmarks.accuracy_sets import PARTS, PhotoSet, find_sets, find_weights, model_name
from benchmarks.accuracy_tables import PROGRAMS, Result, Run, text_of
from benchmarks.processes import run_watched
from benchmarks.results import write_section
from tests import environments
from train_pytorch_model.cli.main import main
from train_pytorch_model.ports.scored_table import read_scored_table

_ROOT = Path(__file__).parent.parent
_OWN: dict[str, list[object]] = {
    "auto": [],
    "classic": ["--recipe", "classic", "--epochs", 5],
    # The network with the fitted head is a candidate. One epoch with tiny steps leaves its weights nearly as they are.
    "head": ["--recipe", "finetune", "--epochs", 1, "--learning-rate", 1e-9],
}


def compare() -> None:
    """Run what has no result yet, and write the tables after each run."""
    arguments = _arguments()
    # All programs and their libraries read it, so that they have the same number of threads.
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    sets = {photos.name: photos for photos in find_sets(arguments.data)}
    weights = find_weights(arguments.weights_path or arguments.data / "weights")
    results = _read(arguments.results, str(arguments.data.resolve()))
    for name in _chosen("sets", arguments.sets, sets):
        for network in _chosen("weights", arguments.weights, weights):
            for seed in arguments.seeds:
                # Alternating, so that no program always runs after the same one.
                programs = arguments.contestants if seed % 2 else arguments.contestants[::-1]
                runs = [Run(str(arguments.data.resolve()), name, network, seed, program) for program in programs]
                missing = [run for run in runs if run not in results]
                if missing:
                    _run_cell(missing, sets[name], weights[network], results, arguments.results)
    _write(results)
    print(text_of(results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="The folder of the sets, or a set.")
    parser.add_argument("--weights-path", type=Path, help="The folder of the weights. Default: weights in --data.")
    parser.add_argument("--sets", nargs="+", help="Names of sets. Default: all.")
    parser.add_argument("--weights", nargs="+", metavar="NETWORK", help="Names of networks. Default: all.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--contestants", nargs="+", choices=PROGRAMS, default=list(PROGRAMS), metavar="PROGRAM")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--results", type=Path, default=_ROOT / "build" / "accuracy.jsonl", help="The file of results.")
    return parser.parse_args()


def _chosen(kind: str, names: list[str] | None, found: Mapping[str, object]) -> list[str]:
    """Return the names that were asked for, or all."""
    unknown = sorted(set(names or ()) - set(found))
    if unknown or not found:
        sys.exit(f"There are no {kind} {', '.join(unknown)}. Found: {', '.join(found) or 'nothing'}.")
    return names or list(found)


def _read(file: Path, data: str) -> dict[Run, Result]:
    """Return the results of earlier runs on the same folder."""
    results = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        row = json.loads(line)
        if row["run"]["data"] == data:
            result = row["result"]
            results[Run(**row["run"])] = Result(**{**result, "num_images": tuple(result["num_images"])})
    return results


def _run_cell(runs: list[Run], photos: PhotoSet, weights: Path, results: dict[Run, Result], file: Path) -> None:
    """Run programs on the same images; keep each result as soon as it is there."""
    with tempfile.TemporaryDirectory(prefix="accuracy-") as folder:
        work_path = Path(folder)
        photos.write(work_path / "images", runs[0].seed)
        for run in runs:
            try:
                result = (
                    _run_own(run, weights, work_path) if run.program in _OWN else _run_peer(run, weights, work_path)
                )
            except RuntimeError as error:  # the other programs may do better
                print(f"{run}: {error}", flush=True)
                continue
            print(f"{run}: {result.accuracy:.4f} in {result.seconds:.1f} s", flush=True)
            results[run] = result
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as opened:
                opened.write(json.dumps({"run": asdict(run), "result": asdict(result)}) + "\n")
            _write(results)


def _write(results: dict[Run, Result]) -> None:
    write_section("accuracy", text_of(results), "make bench-accuracy DATA=…")


def _run_own(run: Run, weights: Path, work_path: Path) -> Result:
    """Run this package from the weights to the scored test images."""
    images, path = work_path / "images", work_path / run.program
    command = [sys.executable, "-m", "train_pytorch_model"]
    initialize = [*command, "initialize-model", "--model-name", model_name(run.network), "--weights", weights]
    prepared = run_watched([*initialize, "--untrained-model-path", path / "untrained", "--outputs-path", path / "init"])
    trained = run_watched(
        [
            *(*command, "train", "--untrained-model-path", path / "untrained"),
            *("--train-data-path", images / "train", "--valid-data-path", images / "valid"),
            *("--trained-model-path", path / "trained", "--outputs-path", path / "outputs", "--report", "off"),
            *("--random-seed", run.seed, *_OWN[run.program]),
        ]
    )
    _call("convert-to-image-directory", "--input-path", images / "test", "--output-path", path / "test")
    _call(
        *("score-image-model", "--trained-model", path / "trained", "--dataset", path / "test"),
        *("--scored-dataset", path / "scored"),
    )
    scored = read_scored_table(path / "scored")
    predicted = [scored.classes[index] for index in scored.probabilities.argmax(1)]
    return _result(list(scored.true_labels), predicted, (trained.seconds, prepared.seconds), images)


def _call(*arguments: object) -> None:
    """Run one of our commands in this process."""
    with tempfile.TemporaryDirectory(prefix="accuracy-outputs-") as outputs:
        if main([*map(str, arguments), "--outputs-path", outputs, "--quiet"]):
            raise RuntimeError(f"{arguments[0]} failed")


def _run_peer(run: Run, weights: Path, work_path: Path) -> Result:
    """Run another program, which predicts the test images itself."""
    images = work_path / "images"
    usage = run_watched(
        [
            *(environments.fastai(), "-m", "benchmarks.accuracy_peers", run.program),
            *("--network", run.network, "--weights", weights, "--images", images),
            *("--model", work_path / f"{run.program}.model", "--random-seed", run.seed),
        ]
    )
    answer = json.loads(usage.output.strip().splitlines()[-1])
    seconds = usage.seconds - answer["scoring_seconds"]
    return _result(answer["labels"], answer["predicted"], (seconds, 0.0), images)


def _result(labels: list[str], predicted: list[str], seconds: tuple[float, float], images: Path) -> Result:
    num_images = tuple(sum(1 for file in (images / part).glob("*/*")) for part in PARTS)
    if len(labels) != num_images[-1]:
        raise RuntimeError(f"{len(labels)} of {num_images[-1]} test images were predicted")
    return Result(accuracy_score(labels, predicted), balanced_accuracy_score(labels, predicted), *seconds, num_images)


if __name__ == "__main__":
    compare()
