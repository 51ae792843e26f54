"""What an input is made by: small values that print as they are written, so that a finding can be kept as it came."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Mutation:
    """One change of what lies on disk."""

    kind: str
    """Of `mutations.KINDS`."""
    file: str
    """Relative to the folder of the run; `train/*3` is the fourth image of `train`, counted around."""
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Command:
    """A command, its inputs and its outputs, by flag and by the name that they have in the folder of the run."""

    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    flags: tuple[tuple[str, str], ...] = ()


POSITIONAL = ""
"""In place of the name of a flag: the value is given alone."""
SEQUENCE = "sequence"
_TRAINING = (("untrained-model-path", "model"), ("train-data-path", "train"), ("valid-data-path", "valid"))
# Short: one pass, and no report, which takes longer than such a training.
_SHORT = (("epochs", "1"), ("batch-size", "6"), ("report", "off"))
COMMANDS = {
    "train": Command(_TRAINING, (("trained-model-path", "written"),), _SHORT),
    "check": Command((*_TRAINING, ("trained-model-path", "written")), (), (*_SHORT, ("json", ""))),
    "score-image-model": Command((("trained-model", "model"), ("dataset", "valid")), (("scored-dataset", "written"),)),
    "convert-to-image-directory": Command((("input-path", "train"),), (("output-path", "written"),)),
    "split-image-directory": Command(
        (("src-path", "train"),),
        (("tgt-train-path", "written"), ("tgt-test-path", "written_too")),
        (("fraction", "0.5"),),
    ),
    "apply-image-transformation": Command(
        (("input-image-transform-path", "transformation"), ("input-image-dir-path", "train")),
        (("output-path", "written"),),
    ),
    "evaluate-model": Command((("scored-dataset", "scored"),), (("evaluation-path", "written"),)),
    "initialize-model": Command(
        (("weights", "model/model"),),
        (("untrained-model-path", "written"),),
        (("model-name", "shufflenet_v2_x0_5"),),
    ),
    "run-pipeline": Command(((POSITIONAL, "pipeline/pipeline.yml"),), (("output-path", "written"),)),
    # No command of the product: `sequence` runs convert, check, train and score one after the other.
    SEQUENCE: Command(
        (("input-path", "train"), ("untrained-model-path", "model"), ("trained-model", "trained")),
        (("output-path", "written"), ("trained-model-path", "written_model"), ("scored-dataset", "written_scores")),
    ),
}


@dataclass(frozen=True)
class Recipe:
    """A command on a valid base, with flags of its own, after some changes."""

    command: str
    bases: tuple[tuple[str, str], ...] = ()
    """Which base stands at a name; `bases.DEFAULTS` says what else does."""
    flags: tuple[tuple[str, str], ...] = ()
    """In place of the command's own; `{root}` is the folder of the run, and an empty value a flag alone."""
    mutations: tuple[Mutation, ...] = ()
    failing_call: tuple[str, ...] = ()
    """A call of the file system that fails, the name of the error, and the folder where; see `faulty_files`."""
    num_processes: int = 1
    """Of the training."""

    def arguments(self, root: Path) -> list[str]:
        """The command line."""
        command = COMMANDS[self.command]
        positional = [str(root / name) for flag, name in command.inputs if flag == POSITIONAL]
        paths = [(flag, str(root / name)) for flag, name in (*command.inputs, *command.outputs) if flag != POSITIONAL]
        given = dict([*paths, ("outputs-path", str(root / "outputs")), *command.flags])
        given.update((name, value.replace("{root}", str(root))) for name, value in self.flags)
        flags = [f"--{name}={value}" if value else f"--{name}" for name, value in given.items()]
        return [self.command, *positional, *flags]

    def outputs(self, root: Path) -> list[Path]:
        """The folders that the command is to write, but for reports."""
        flags = dict(self.flags)
        outputs = COMMANDS[self.command].outputs if "dry-run" not in flags else ()
        return [Path(flags.get(flag, str(root / name)).replace("{root}", str(root))) for flag, name in outputs]

    def reports(self, root: Path) -> list[Path]:
        """The folders of reports and checkpoints."""
        flags = dict(self.flags)
        outputs = flags.get("outputs-path", "{root}/outputs")
        names = [outputs, flags.get("checkpoint-path", f"{outputs}/checkpoints")]
        if self.command == "run-pipeline" and "dry-run" not in flags:
            names.append(flags.get("output-path", "{root}/written"))  # the logs of its steps stay after a failure
        return [Path(name.replace("{root}", str(root))) for name in names]
