from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.fuzzing.findings import FINDINGS
from tests.fuzzing.proof import MISBEHAVIOURS, NUM_INPUTS
from tests.making import ROOT

Proof = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Proof:
    path = tmp_path_factory.mktemp("proof") / "found.json"
    # One thread: what forks must have no others.
    subprocess.run(
        [sys.executable, "-m", "tests.fuzzing.proof", str(path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    found: Proof = json.loads(path.read_text())
    return found


def test_inputs_end_well_or_with_a_named_error(proof: Proof) -> None:
    assert proof["campaign"] == {"inputs": str(NUM_INPUTS), "found": ""}


@pytest.mark.parametrize("command", ["train", "check"])
def test_valid_inputs_keep_every_promise(command: str, proof: Proof) -> None:
    assert proof["valid"][command] == ""


@pytest.mark.parametrize("name", FINDINGS)
def test_earlier_findings_stay_fixed(name: str, proof: Proof) -> None:
    assert proof["findings"][name] == ""


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_a_broken_promise_is_found(name: str, proof: Proof) -> None:
    assert MISBEHAVIOURS[name][1] in proof["misbehaviours"][name].splitlines()[0]
