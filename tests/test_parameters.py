from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from train_pytorch_model.cli.parser import build_parser
from train_pytorch_model.errors import UserError
from train_pytorch_model.parameters import TrainingParameters
from train_pytorch_model.parameters.definition import LARGEST_FLOAT32
from train_pytorch_model.parameters.recipes import (
    NetworkFacts,
    ResolvedParameters,
    differences_from_classic,
    identity_of_warm_up,
    resolve,
    with_batch_of_at_most,
)


@pytest.mark.parametrize(
    ("values", "error_id", "code"),
    [
        ({"epochs": 0}, "GreaterThan", 4),
        ({"batch_size": -4}, "GreaterThan", 4),
        ({"patience": 0}, "GreaterThan", 4),
        ({"print_frequency": 0}, "GreaterThan", 4),
        ({"learning_rate": 0.0}, "GreaterThanOrEqualTo", 5),
        ({"learning_rate": -0.01}, "GreaterThanOrEqualTo", 5),
        ({"learning_rate": math.nan}, "GreaterThanOrEqualTo", 5),
        ({"learning_rate": math.inf}, "NotInRangeValue", 8),
        ({"learning_rate": 1e39}, "NotInRangeValue", 8),
        ({"warmup_epochs": -1}, "GreaterThanOrEqualTo", 5),
        ({"microbatch_size": 0}, "GreaterThan", 4),
        ({"image_size": 0}, "GreaterThan", 4),
        ({"label_smoothing": 1.5}, "NotInRangeValue", 8),
        ({"label_smoothing": -0.5}, "GreaterThanOrEqualTo", 5),
        ({"model_ema": 2.0}, "NotInRangeValue", 8),
    ],
)
def test_a_value_out_of_its_range_is_a_named_error(values: dict[str, float], error_id: str, code: int) -> None:
    (fault,) = TrainingParameters(**values).faults()  # type: ignore[arg-type]
    assert (fault.error_id, fault.code) == (error_id, code)
    title = TrainingParameters.definitions()[next(iter(values))].title
    assert f'"{title}"' in fault.message


@pytest.mark.parametrize("values", [{}, {"learning_rate": 5e-324}, {"random_seed": -7}, {"random_seed": None}])
def test_values_at_the_ends_of_their_ranges_are_taken(values: dict[str, float]) -> None:
    assert TrainingParameters(**values).faults() == []  # type: ignore[arg-type]


def test_defaults_are_the_documented_ones() -> None:
    parameters = resolve(TrainingParameters(), NetworkFacts(has_weights=False, uses_layer_norm=False, num_stages=9))
    assert parameters.recipe == "classic"
    assert (parameters.epochs, parameters.batch_size, parameters.learning_rate) == (5, 16, 0.001)
    assert (parameters.random_seed, parameters.patience) == (1, 3)
    assert (parameters.warmup_epochs, parameters.print_frequency) == (0, 10)


PRETRAINED = NetworkFacts(has_weights=True, uses_layer_norm=False, num_stages=9)


@pytest.mark.parametrize(
    ("recipe", "has_weights", "resolved"),
    [
        ("auto", True, "finetune"),
        ("auto", False, "classic"),
        ("classic", True, "classic"),
        ("finetune", False, "finetune"),
        ("scratch", True, "scratch"),
        ("large", True, "large"),
    ],
)
def test_auto_is_finetune_for_weights_and_classic_otherwise(recipe: str, has_weights: bool, resolved: str) -> None:
    facts = NetworkFacts(has_weights=has_weights, uses_layer_norm=False, num_stages=9)
    assert resolve(TrainingParameters(recipe=recipe), facts).recipe == resolved


@pytest.mark.parametrize("recipe", ["classic", "finetune", "scratch", "large"])
def test_a_recipe_only_fills_what_was_not_given(recipe: str) -> None:
    given = {"epochs": 7, "batch_size": 8, "learning_rate": 0.25, "patience": 2, "clip_grad_norm": 3.0}
    given |= {"model_ema": "off", "layers_to_freeze": 1, "label_smoothing": 0.2, "optimizer": "adamw"}
    parameters = resolve(TrainingParameters(recipe=recipe, **given), PRETRAINED)  # type: ignore[arg-type]
    assert {name: getattr(parameters, name) for name in given} == given


def test_the_defaults_of_resolved_parameters_are_those_of_classic() -> None:
    classic = resolve(TrainingParameters(recipe="classic"), PRETRAINED)
    own = vars(ResolvedParameters)["__annotations__"]
    assert {name: getattr(ResolvedParameters(), name) for name in own} == {name: getattr(classic, name) for name in own}


@pytest.mark.parametrize("recipe", ["classic", "finetune", "scratch", "large"])
def test_nothing_that_a_recipe_decides_stays_open(recipe: str) -> None:
    parameters = resolve(TrainingParameters(recipe=recipe), PRETRAINED)
    still_open = {name for name in TrainingParameters.definitions() if getattr(parameters, name) == "auto"}
    expected = {"image_size", "resize", "image_store", "precision", "cuda_graph", "resume", "report", "calibration"}
    assert still_open == expected


def test_adamw_takes_a_tenth_of_the_rate_where_the_recipe_chooses_it() -> None:
    facts = NetworkFacts(has_weights=True, uses_layer_norm=True, num_stages=9)
    chosen = resolve(TrainingParameters(learning_rate=0.01), facts)
    assert (chosen.optimizer, chosen.learning_rate) == ("adamw", pytest.approx(0.001))
    given = resolve(TrainingParameters(learning_rate=0.01, optimizer="adamw"), facts)
    assert given.learning_rate == 0.01
    classic = resolve(TrainingParameters(learning_rate=0.01, recipe="classic"), facts)
    assert (classic.optimizer, classic.learning_rate) == ("sgd", 0.01)
    sgd = resolve(TrainingParameters(optimizer="sgd"), facts)
    assert (sgd.optimizer, sgd.learning_rate, sgd.weight_decay, sgd.layer_decay) == ("sgd", 0.003, 1e-4, "off")


@pytest.mark.parametrize("uses_layer_norm", [False, True])
def test_adamw_has_its_own_values_for_what_was_not_given(uses_layer_norm: bool) -> None:
    facts = NetworkFacts(has_weights=True, uses_layer_norm=uses_layer_norm, num_stages=9)
    chosen = resolve(TrainingParameters(optimizer="adamw"), facts)
    assert (chosen.learning_rate, chosen.weight_decay) == (pytest.approx(0.0003), 0.05)
    assert chosen.layer_decay == 0.9
    assert resolve(TrainingParameters(optimizer="adamw", recipe="scratch"), facts).layer_decay == "off"
    given = resolve(TrainingParameters(optimizer="adamw", learning_rate=0.01, weight_decay=0.2), facts)
    assert (given.learning_rate, given.weight_decay) == (0.01, 0.2)


def test_a_warm_up_that_follows_the_epochs_is_no_difference_between_runs() -> None:
    def identity(**values: Any) -> object:
        return identity_of_warm_up(resolve(TrainingParameters(**values), PRETRAINED))

    assert identity(epochs=3) == identity(epochs=30)
    assert identity(epochs=3) != identity(epochs=3, warmup_epochs=1.0)
    assert identity(recipe="classic", warmup_epochs=2.0) == 2
    assert isinstance(identity(recipe="classic", warmup_epochs=2.0), int)
    assert resolve(TrainingParameters(epochs=3), PRETRAINED).warmup_epochs == 0.3


def test_the_learning_rate_of_large_follows_the_batch_size_and_its_warm_up_is_at_most_five_epochs() -> None:
    def large(uses_layer_norm: bool = False, **values: Any) -> ResolvedParameters:
        facts = NetworkFacts(has_weights=False, uses_layer_norm=uses_layer_norm, num_stages=9)
        return resolve(TrainingParameters(recipe="large", **values), facts)

    assert large(batch_size=1024).learning_rate == 0.5
    assert large().learning_rate == 0.0625
    assert large(learning_rate=0.001, batch_size=16).learning_rate == 0.001
    assert large(uses_layer_norm=True, batch_size=1024).learning_rate == pytest.approx(0.001)
    assert large(optimizer="adamw", batch_size=512).learning_rate == pytest.approx(0.0005)
    assert large(uses_layer_norm=True, learning_rate=0.01).learning_rate == pytest.approx(0.001)
    assert [large(epochs=epochs).warmup_epochs for epochs in (5, 50, 600)] == [0.5, 5, 5]
    assert identity_of_warm_up(large(epochs=5)) == identity_of_warm_up(large(epochs=600))
    assert identity_of_warm_up(large(epochs=5)) != identity_of_warm_up(large(epochs=5, warmup_epochs=1.0))


@pytest.mark.parametrize(
    ("given", "batch_size", "rate"),
    [
        ({}, 10, 0.001),
        ({"recipe": "large"}, 10, 0.5 / 1024 * 10),
        ({"recipe": "large", "optimizer": "adamw"}, 10, 0.001 / 1024 * 10),
        ({"recipe": "large", "learning_rate": 0.25}, 10, 0.25),
        ({"recipe": "large", "batch_size": 128}, 128, 0.0625),
        ({"batch_size": 16}, 16, 0.001),
        ({"batch_size": 8}, 8, 0.001),
    ],
)
def test_a_batch_that_the_recipe_chose_holds_at_most_all_images(
    given: dict[str, Any], batch_size: int, rate: float
) -> None:
    parameters = TrainingParameters(**given)
    resolved = resolve(parameters, NetworkFacts(has_weights=False, uses_layer_norm=False, num_stages=9))
    assert with_batch_of_at_most(1000, resolved, parameters) == resolved
    found = with_batch_of_at_most(10, resolved, parameters)
    assert found == replace(resolved, batch_size=batch_size, learning_rate=found.learning_rate)
    assert found.learning_rate == pytest.approx(rate)


def test_parts_of_augmentation_tell_runs_apart_where_they_have_an_effect() -> None:
    def differences(**values: Any) -> dict[str, object]:
        return differences_from_classic(resolve(TrainingParameters(recipe="classic", **values), PRETRAINED))

    assert differences(color_augment="off", auto_augment="crop") == {"auto augment": "crop"}
    assert differences(color_augment="off", auto_augment="trivialaugment") == {
        "auto augment": "trivialaugment",
        "color augment": "off",
    }
    assert differences(mixup_alpha=0.2, cutmix_alpha=1, random_erase=0.1) == {
        "mixup alpha": 0.2,
        "cutmix alpha": 1,
        "random erase": 0.1,
    }
    assert differences(mixup_alpha=0.0) == {}


def test_only_other_runs_than_classic_ones_have_more_in_their_fingerprint() -> None:
    assert (
        differences_from_classic(resolve(TrainingParameters(epochs=9, patience=1), NetworkFacts(False, False, 9))) == {}
    )
    differing = differences_from_classic(resolve(TrainingParameters(class_weights="sqrt"), PRETRAINED))
    assert (differing["recipe"], differing["class weights"], differing["lr schedule"]) == ("finetune", "sqrt", "cosine")


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("224", 224), ("192x256", "192x256")])
def test_image_sizes_are_numbers_or_height_and_width(text: str, value: object) -> None:
    assert build_parser().parse_args(["train", *PORTS, "--image-size", text]).image_size == value


@pytest.mark.parametrize("text", ["0x4", "224x", "x", "224,224", "-3x4"])
def test_other_image_sizes_are_wrong_usage(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["train", *PORTS, f"--image-size={text}"])
    assert "expected 'auto' or an integer or HEIGHTxWIDTH" in capsys.readouterr().err


PORTS = ["--untrained-model-path", "u", "--train-data-path", "t", "--valid-data-path", "v", "--trained-model-path", "m"]


def test_the_retired_modules_flags_still_work() -> None:
    parsed = build_parser().parse_args(["train", *PORTS, "--num-warmup-steps", "2", "--print-freq", "7"])
    assert (parsed.warmup_epochs, parsed.print_frequency) == (2, 7)


@pytest.mark.parametrize(
    ("flag", "text", "name", "value"),
    [
        ("--compile", "on", "cuda_graph", "on"),
        ("--auto-batch-size", "on", "microbatch_size", "auto"),
        ("--auto-batch-size", "off", "microbatch_size", "off"),
        ("--scale-learning-rate", "off", "scale_learning_rate", False),
        ("--sync-batch-norm", "on", "sync_batch_norm", True),
    ],
)
def test_flags_and_values_of_version_0_1_still_work(flag: str, text: str, name: str, value: object) -> None:
    assert getattr(build_parser().parse_args(["train", *PORTS, flag, text]), name) == value


@pytest.mark.parametrize(
    ("flag", "text", "value"),
    [
        *[("--sync-batch-norm", text, True) for text in ("true", "True", "on", "yes", "1")],
        *[("--sync-batch-norm", text, False) for text in ("false", "False", "OFF", "no", "0")],
        # YAML reads an unquoted `on` as a boolean, which Azure hands on as True.
        *[("--cuda-graph", text, "on") for text in ("on", "True", "yes")],
        *[("--cuda-graph", text, "off") for text in ("off", "False", "0")],
        *[("--microbatch-size", text, "auto") for text in ("auto", "on", "True")],
        *[("--microbatch-size", text, "off") for text in ("off", "False", "no")],
        *[("--microbatch-size", text, int(text)) for text in ("1", "8")],
        ("--report", "False", "off"),
    ],
)
def test_booleans_and_words_have_the_usual_spellings(flag: str, text: str, value: object) -> None:
    name = flag[2:].replace("-", "_")
    assert getattr(build_parser().parse_args(["train", *PORTS, flag, text]), name) == value


@pytest.mark.parametrize(
    ("name", "text", "lowest", "highest"),
    [
        ("layer_decay", "0", 0, None),
        ("layer_decay", "0.0", 0, None),
        ("layer_decay", "1.5", 0, 1),
        ("random_erase", "-0.1", 0, None),
        ("random_erase", "1.1", 0, 1),
        ("mixup_alpha", "-1", 0, None),
        ("mixup_alpha", "nan", 0, None),
        ("cutmix_alpha", "inf", 0, LARGEST_FLOAT32),
        ("freeze_epochs", "-1", 0, None),
    ],
)
def test_values_of_parts_that_are_out_of_range_are_named(
    name: str, text: str, lowest: float, highest: float | None
) -> None:
    parameters = TrainingParameters.parse({name: text})
    (fault,) = parameters.faults()
    assert TrainingParameters.definitions()[name].title in str(fault)
    for bound in (lowest, highest):
        assert bound is None or str(bound) in str(fault)


@pytest.mark.parametrize(("name", "value"), [("layer_decay", "off"), ("model_ema", "off"), ("clip_grad_norm", "off")])
def test_a_part_can_be_switched_off(name: str, value: str) -> None:
    texts = ("off", "False", "no", *(() if name == "layer_decay" else ("0",)))
    assert {getattr(TrainingParameters.parse({name: text}), name) for text in texts} == {value}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", 2, 2),
        ("epochs", np.int64(2), 2),
        ("learning_rate", 1, 1.0),
        ("learning_rate", np.float32(0.5), 0.5),
        ("random_seed", None, None),
        ("cuda_graph", True, "on"),
        ("sync_batch_norm", False, False),
        ("microbatch_size", 4, 4),
    ],
)
def test_values_given_in_python_are_converted(name: str, value: object, expected: object) -> None:
    parsed = getattr(TrainingParameters.parse({name: value}), name)
    assert (parsed, type(parsed)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("epochs", "many", "epochs: expected 'auto' or an integer, but got 'many'."),
        ("epochs", 1.5, "epochs: expected 'auto' or an integer, but got 1.5."),
        ("epochs", None, "epochs: expected 'auto' or an integer, but got None."),
        ("sync_batch_norm", 2, "sync_batch_norm: expected true or false, but got 2."),
        ("cuda_graph", "max", "cuda_graph: expected 'auto' or 'on' or 'off', but got 'max'."),
        ("microbatch_size", "x", "microbatch_size: expected 'off' or 'auto' or an integer, but got 'x'."),
    ],
)
def test_values_of_another_kind_are_named_errors(name: str, value: object, words: str) -> None:
    with pytest.raises(UserError) as raised:
        TrainingParameters.parse({name: value})
    assert str(raised.value) == words


@pytest.mark.parametrize("text", ["none", "None", "NONE"])
def test_seed_none_means_unseeded(text: str) -> None:
    assert build_parser().parse_args(["train", *PORTS, "--random-seed", text]).random_seed is None


def test_an_unseeded_run_draws_a_new_seed_each_time() -> None:
    assert len({TrainingParameters(random_seed=None).seed() for _ in range(8)}) > 1


@pytest.mark.parametrize(
    "more",
    [["--epoch", "3"], ["--unknown", "1"], ["--epochs"], ["--epochs", "abc"], ["--include-samples", "maybe"]],
    ids=["abbreviated", "unknown", "without a value", "unparsable", "no boolean"],
)
def test_wrong_usage_exits_with_2(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        build_parser().parse_args(["train", *PORTS, *more])
    assert raised.value.code == 2
    assert more[0] in capsys.readouterr().err


@pytest.mark.parametrize(("text", "value"), [("True", True), ("false", False), ("FALSE", False)])
def test_booleans_are_taken_as_azure_writes_them(text: str, value: bool) -> None:
    assert build_parser().parse_args(["train", *PORTS, "--include-samples", text]).include_samples is value
    assert build_parser().parse_args(["train", *PORTS, "--include-samples"]).include_samples is True
