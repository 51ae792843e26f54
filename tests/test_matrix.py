"""Who makes and who takes: initialisers, trainers and scorers, ours and the retired ones, in every order."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests import environments
from tests.making import Inputs, run_here, run_retired_tool

pytestmark = pytest.mark.environment

RETIRED_INITIALISERS = {"resnet18": "resnet", "resnext50_32x4d": "resnet", "densenet121": "densenet"}
WHO = ("ours", "retired")
QUICK = (("resnet18", "retired", "ours"), ("resnet18", "ours", "retired"))
OTHERS = ("mobilenet_v3_small", "efficientnet_b0", "vit_b_32", "googlenet", "squeezenet1_1")
# The retired trainer takes no network with auxiliary heads.
NOT_TAKEN = {("googlenet", "retired")}
CELLS = [
    *((network, initialiser, trainer) for network in RETIRED_INITIALISERS for initialiser in WHO for trainer in WHO),
    *((network, "ours", trainer) for network in OTHERS for trainer in WHO if (network, trainer) not in NOT_TAKEN),
]


def initialise(who: str, network: str, path: Path) -> None:
    if who == "ours":
        assert (
            run_here("initialize-model", model_name=network, untrained_model_path=path, outputs_path=path.parent) == 0
        )
        return
    module = f"dl.pytorch.initialize_models.vision.classification.{RETIRED_INITIALISERS[network]}"
    arguments = ("--untrained-model-path", path, "--model-name", network, "--pretrained", "False")
    run_retired_tool(environments.retired(), module, *arguments)


def train(who: str, inputs: Inputs) -> None:
    if who == "ours":
        assert inputs.fit(epochs=2, learning_rate=0.01) == 0
        return
    run_retired_tool(
        environments.retired(),
        "dl.pytorch.train.train_pytorch_model",
        *("--untrained-model-path", inputs.untrained, "--train-data-path", inputs.train),
        *("--valid-data-path", inputs.valid, "--trained-model-path", inputs.trained),
        *("--epochs", 1, "--batch-size", 6),
    )


def score(who: str, inputs: Inputs, target: Path) -> pd.DataFrame:
    ports = {"trained_model": inputs.trained, "dataset": inputs.valid, "scored_dataset": target}
    if who == "ours":
        assert run_here("score-image-model", **ports, outputs_path=inputs.outputs) == 0
    else:
        flags = [part for name, path in ports.items() for part in (f"--{name.replace('_', '-')}", path)]
        run_retired_tool(environments.retired(), "dl.pytorch.score.score_image_model.module_invoker", *flags)
    return pd.read_parquet(target / "_data.parquet")


@pytest.mark.parametrize(
    ("network", "initialiser", "trainer"),
    [pytest.param(*cell, marks=() if cell in QUICK else pytest.mark.thorough) for cell in CELLS],
)
def test_what_one_makes_the_others_take(network: str, initialiser: str, trainer: str, tmp_path: Path) -> None:
    size = 224 if network.startswith("vit") else 96
    inputs = Inputs(tmp_path).make(network, classes=("007", "cat"), per_class=6, size=size)
    inputs.untrained = tmp_path / "initialised"
    initialise(initialiser, network, inputs.untrained)
    train(trainer, inputs)
    ours = score("ours", inputs, tmp_path / "by_ours")
    assert len(ours) == 12
    # The retired trainer writes the class that one of torchvision's functions made its network of, which nobody but
    # our reader finds the function to again: the retired scorer refuses such a model of its own sibling.
    if (initialiser, trainer) == ("ours", "retired"):
        return
    theirs = score("retired", inputs, tmp_path / "by_retired")
    assert list(ours) == list(theirs)
    for name in ours.columns:
        if name.startswith("Scored Probabilities_"):
            assert ours[name].tolist() == pytest.approx(theirs[name].tolist(), abs=1e-6)
        elif trainer == "ours":
            assert ours[name].tolist() == theirs[name].tolist()
        else:  # its label map makes a number of the text 007
            assert [str(value) for value in ours[name]] == [str(value) for value in theirs[name]]
