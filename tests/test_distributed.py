"""Several processes, for real: they speak through gloo here as they speak through NCCL on GPUs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score

from tests.fit_job import make_network
from tests.jobs import TORCHRUN, Job, free_port, process_variables, results, train_job
from tests.making import Inputs
from tests.small_training import make_images
from tests.worlds import met
from train_pytorch_model.data.batches import shuffled, training_shards
from train_pytorch_model.distributed import rendezvous
from train_pytorch_model.distributed.device import find_shared_gpus
from train_pytorch_model.distributed.launch import Launch
from train_pytorch_model.distributed.rendezvous import connected
from train_pytorch_model.errors import UserError
from train_pytorch_model.training.graph import use_cuda_graph

# From the fault of one process to the end of the last.
END_SECONDS = 30


@pytest.mark.parametrize("world_size", [2, 3, 8])
@pytest.mark.parametrize(("count", "batch_size"), [(64, 4), (65, 4), (66, 4), (67, 4), (71, 4), (67, 1), (9, 16)])
def test_every_image_is_dealt_out_once_in_the_global_order(count: int, batch_size: int, world_size: int) -> None:
    order = shuffled(count, seed=1, epoch=1)
    of_ranks = [training_shards(order, batch_size, rank, world_size) for rank in range(world_size)]
    dealt = torch.cat([torch.cat([shard.indices for shard in step]) for step in zip(*of_ranks)])
    assert torch.equal(dealt[:count], order)
    # Padding: what each process needs for two images (one, at a batch size of 1) in the last step, from the beginning.
    last = count % (batch_size * world_size) or batch_size * world_size
    padding = max(0, world_size * min(2, batch_size) - last)
    assert torch.equal(dealt[count:], order[:padding])
    for step in zip(*of_ranks):
        sizes = [len(shard.indices) for shard in step]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= max(batch_size, 2)
        # The mean of means, so weighted, is the mean over all images.
        assert [shard.weight for shard in step] == pytest.approx([size * world_size / sum(sizes) for size in sizes])


@pytest.mark.parametrize(
    "options",
    [
        *([], ["--augmented"], ["--parts", "sgd"], ["--frozen", "--parts", "sgd"], ["--freeze-epochs", "2"]),
        ["--task", "multilabel"],
    ],
    ids=" ".join,
)
def test_two_processes_with_half_the_batch_equal_one_with_the_whole(options: list[str], tmp_path: Path) -> None:
    count = 85  # five images remain for the last step: three for one process, two for the other

    def train(world_size: int, *microbatch_size: str) -> Any:
        job = Job(tmp_path, ["tests.fit_job", "result.pt", str(count), "16", *microbatch_size, *options], world_size)
        assert job.wait() == [0] * world_size, job.log()
        return torch.load(tmp_path / "result.pt")

    one, two = train(1), train(2)
    for other in (two, train(2, "3")):  # also in microbatches of three images
        assert one["num_steps"] == other["num_steps"] >= 20
        assert one["epoch"] == other["epoch"]
        for key, value in one["best"].items():
            assert (value - other["best"][key]).abs().max() <= 1e-6
        for record, of_other in zip(one["records"], other["records"]):
            assert record["train_loss"] == pytest.approx(of_other["train_loss"], abs=1e-6)
            assert record["valid_loss"] == pytest.approx(of_other["valid_loss"], abs=1e-6)
    # Each of the 37 validation images is counted once, whatever their number leaves over.
    task = options[-1] if "--task" in options else "multiclass"
    network, valid, record = make_network(), make_images(37, 1, task), two["records"][two["epoch"] - 1]
    network.load_state_dict(two["best"])
    with torch.no_grad():
        logits = network((valid.pixels.float() / 255 - 0.5) / 0.5)
    predicted = logits >= 0 if task == "multilabel" else logits.argmax(1)
    assert record["top1_acc"] == accuracy_score(valid.labels, predicted)
    if task == "multilabel":
        expected = average_precision_score(valid.labels, logits.sigmoid(), average="macro")
        assert record["average_precision"] == pytest.approx(expected)
        assert one["thresholds"] == pytest.approx(two["thresholds"], abs=1e-6)


@pytest.mark.parametrize(
    "parts",
    [
        *(
            ["sgd"],
            ["adamw"],
            ["adamw", "--frozen"],
            ["sgd", "--frozen", "--fits-head"],
            ["sgd", "--freeze-epochs", "1"],
            ["sgd", "--frozen", "--fits-head", "--freeze-epochs", "1"],
            ["sgd", "--mixed"],
        ),
        ["sgd", "--frozen", "--fits-head", "--task", "multilabel"],
    ],
    ids=" ".join,
)
def test_two_processes_that_resume_end_with_the_same_bits(parts: list[str], tmp_path: Path) -> None:
    def train(name: str, *options: str) -> None:
        arguments = ["tests.fit_job", name, "85", "16", "3", "--noisy", "--augmented", "--parts", *parts, *options]
        job = Job(tmp_path, arguments, 2)
        assert job.wait() == [0, 0], job.log()

    train("whole.pt")
    # In the first epoch, in its validation, and in the second epoch; or in the first, and while weights are mixed.
    for stop_after in (16, 70) if "--fits-head" in parts else (4, 10, 17):
        train("resumed.pt", "--stop-after", str(stop_after))
        assert (torch.load(tmp_path / "resumed.snapshot")["epoch"] == 4) is (stop_after == 70)
        train("resumed.pt")
        whole, resumed = torch.load(tmp_path / "whole.pt"), torch.load(tmp_path / "resumed.pt")
        assert resumed["num_steps"] < whole["num_steps"]
        assert resumed["records"] == whole["records"]
        assert resumed["thresholds"] == whole["thresholds"]
        for state in ("best", "last"):
            assert all(torch.equal(value, resumed[state][key]) for key, value in whole[state].items())


def test_the_real_command_in_two_processes(inputs: Inputs) -> None:
    flags = {"epochs": 2, "batch_size": 4, "image_store": "memory", "precision": "float32"}
    job = train_job(inputs, 2, **flags)
    assert job.wait() == [0, 0], job.log()
    expected = results(inputs)
    assert "2 processes take 4 images each a step, at a learning rate of 0.002" in job.log()
    # Only the first process writes and logs.
    assert "INFO" not in job.log(1)
    assert job.log().count("images decoded") == 2
    records = inputs.metrics()
    assert [record["epoch"] for record in records] == [1, 2]
    assert records[0]["learning_rate"] == 0.002
    assert inputs.error() is None

    # The same from files on disk, from files decoded by each process, and under Azure's MPI launcher.
    for image_store, launcher in (("disk", "pytorch"), ("none", "mpi")):
        shutil.rmtree(inputs.trained)
        job = train_job(inputs, 2, launcher, **{**flags, "image_store": image_store})
        assert job.wait() == [0, 0], job.log()
        assert results(inputs) == expected


def test_all_processes_shrink_a_batch_that_nobody_asked_for(inputs: Inputs) -> None:
    broken = sorted((inputs.train / "image").iterdir())[::2]
    for image in broken:
        image.write_bytes(image.read_bytes()[:200])
    flags = {"image_store": "memory", "precision": "float32", "skip_unreadable_images": True}
    job = train_job(inputs, 2, batch_size=None, **flags)
    assert job.wait() == [0, 0], job.log()
    assert "2 processes take 12 images each a step" in job.log()
    expected = results(inputs)
    shutil.rmtree(inputs.trained)
    job = train_job(inputs, 2, batch_size=12, **flags)
    assert job.wait() == [0, 0], job.log()
    assert results(inputs) == expected


def test_faults_of_all_kinds_are_reported_together_and_once(inputs: Inputs) -> None:
    (inputs.train / "image" / "0_0.png").unlink()
    (inputs.untrained / "model").unlink()
    job = train_job(inputs, 2, epochs=0, batch_size=1, sync_batch_norm=True)
    assert job.wait() == [1, 1]
    error = inputs.error()
    assert error is not None
    assert (error["ErrorId"], error["ErrorCode"]) == ("GreaterThan", 4)
    lines = str(error["Message"]).splitlines()
    assert len(lines) == len(set(lines)) == 4
    assert "--sync-batch-norm true requires GPUs" in str(error["Message"])
    assert not inputs.trained.exists()
    assert "Traceback" not in job.log() + job.log(1)


def test_more_processes_than_images_are_refused(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make(classes=("cat",), per_class=1)
    job = train_job(inputs, 2, batch_size=1)
    assert job.wait() == [1, 1]
    assert "2 processes were started for 1 training images" in str(inputs.error())


def under_torchrun(inputs: Inputs, *options: str, **flags: object) -> Job:
    """Two processes that torchrun starts; its own port is the same for each job of a machine."""
    options = ("--nproc-per-node=2", f"--master-port={free_port()}", *options)
    return Job(inputs.path, [TORCHRUN, *options, "-m", "train_pytorch_model", *inputs.arguments(**flags)])


def running(inputs: Inputs, launcher: str = "pytorch", first: str = "", **flags: object) -> Job:
    """Two processes in the midst of a training."""
    flags = {"epochs": 500, "patience": 500, "batch_size": 4, **flags}
    job = (
        under_torchrun(inputs, **flags)
        if launcher == "torchrun"
        else train_job(inputs, 2, launcher, first=first, **flags)
    )
    assert job.until(lambda: "Epoch 1/500:" in job.log()), job.log()
    return job


@pytest.mark.parametrize("launcher", ["pytorch", "torchrun"])
def test_an_image_lost_on_the_way_ends_all_with_its_name(launcher: str, inputs: Inputs) -> None:
    job = running(inputs, launcher, image_store="none")
    lost = sorted((inputs.train / "image").glob("1_*.png"))[-1]
    lost.unlink()
    started = time.monotonic()
    assert set(job.wait()) == {1}
    assert time.monotonic() - started < END_SECONDS
    assert "An image has changed during training" in str(inputs.error())
    assert lost.name in str(inputs.error())
    assert not inputs.trained.exists()
    assert (inputs.outputs / "checkpoints" / "best" / "model").is_file()
    assert launcher == "torchrun" or "Traceback" not in job.log() + job.log(1)  # torchrun shows its own


def test_a_loss_that_is_not_finite_ends_all(inputs: Inputs) -> None:
    job = train_job(inputs, 2, epochs=5, learning_rate=1e30, batch_size=4)
    assert job.wait() == [1, 1]
    assert "no longer a finite number" in str(inputs.error())
    assert "there is no model to save" in str(inputs.error())


@pytest.mark.parametrize(("number", "lost"), [(signal.SIGKILL, 1), (signal.SIGSTOP, 1), (signal.SIGKILL, 0)])
def test_a_process_that_is_gone_or_silent_ends_the_others(number: signal.Signals, lost: int, inputs: Inputs) -> None:
    # Sooner than users' processes are taken to be lost, but not before all are under way.
    first = (
        "from train_pytorch_model.distributed import watchdog\n"
        "from train_pytorch_model.job.history import History\n"
        "done = History.epoch_done\n"
        "def lower(*arguments):\n"
        "    watchdog.LOST_AFTER_SECONDS = 4.0\n"
        "    return done(*arguments)\n"
        "History.epoch_done = lower"
    )
    job = running(inputs, first=first)
    job.send(number, lost)
    started = time.monotonic()
    assert job.processes[1 - lost].wait(END_SECONDS) == 1
    assert time.monotonic() - started < END_SECONDS
    job.send(signal.SIGKILL)
    told = str(inputs.error()) if lost == 1 else job.log(1)
    assert "was lost" in told
    assert "Run the same command again" in told
    assert not inputs.trained.exists()


def test_a_device_that_takes_long_to_start_is_no_lost_process(inputs: Inputs) -> None:
    # CUDA holds the interpreter's lock while it starts, as `PyDLL` does, so that no thread sends a heartbeat.
    slow = (
        "import ctypes, os\n"
        "from train_pytorch_model.distributed import rendezvous, watchdog\n"
        "watchdog.LOST_AFTER_SECONDS = 2.0\n"
        "choose = rendezvous.choose_device\n"
        "def choose_slowly(*arguments):\n"
        "    ctypes.PyDLL(None).sleep(6 * (1 - int(os.environ['RANK'])))\n"
        "    return choose(*arguments)\n"
        "rendezvous.choose_device = choose_slowly\n"
        "join = rendezvous.World.join\n"
        "def joined(*arguments):\n"
        "    watchdog.LOST_AFTER_SECONDS = 60.0\n"  # what follows is not what this test is about
        "    return join(*arguments)\n"
        "rendezvous.World.join = joined"
    )
    job = train_job(inputs, 2, first=slow, epochs=1, batch_size=4)
    assert job.wait() == [0, 0], job.log()


def test_a_device_that_does_not_start_ends_all(inputs: Inputs) -> None:
    broken = (
        "import os\n"
        "from train_pytorch_model.distributed import rendezvous\n"
        "choose = rendezvous.choose_device\n"
        "def fail(*arguments):\n"
        "    if os.environ['RANK'] == '1':\n"
        "        raise RuntimeError('CUDA error: all CUDA-capable devices are busy or unavailable')\n"
        "    return choose(*arguments)\n"
        "rendezvous.choose_device = fail"
    )
    job = train_job(inputs, 2, first=broken)
    started = time.monotonic()
    assert job.wait() == [1, 1]
    assert time.monotonic() - started < END_SECONDS
    assert "devices are busy or unavailable" in str(inputs.error())


def test_processes_that_do_not_come_are_named(inputs: Inputs) -> None:
    variables = {**process_variables(2)[0], "MASTER_ADDR": "127.0.0.1"}
    code = (
        "import os, sys\n"
        "import train_pytorch_model.distributed.rendezvous as rendezvous\n"
        "from train_pytorch_model.cli.main import main\n"
        "rendezvous._RENDEZVOUS_SECONDS = 2\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, *inputs.arguments()],
        env={**os.environ, **variables},
        capture_output=True,
        timeout=120,
    )
    assert finished.returncode == 1
    assert "Ranks [1] of 2 processes did not connect to 127.0.0.1" in str(inputs.error())


def test_two_processes_on_one_gpu_are_named() -> None:
    own = [("a pid:[1]", "GPU-1"), ("a pid:[1]", "GPU-2"), ("b pid:[1]", "GPU-1"), ("b pid:[1]", None)]
    assert find_shared_gpus(own) == ""
    assert find_shared_gpus([*own, ("a pid:[1]", "GPU-2")]) == "ranks 1 and 4 on a"
    assert find_shared_gpus([("a", None), ("a", None)]) == ""


def test_the_exchange_between_processes_is_captured_on_request(caplog: pytest.LogCaptureFixture) -> None:
    gpu = torch.device("cuda")
    assert use_cuda_graph("auto", gpu, 100, is_known=True)
    assert not use_cuda_graph("auto", gpu, 100, is_known=True, is_alone=False)
    assert use_cuda_graph("on", gpu, 100, is_known=True, is_alone=False)
    assert caplog.text == ""
    assert not use_cuda_graph("on", gpu, 100, is_known=False, is_alone=False)
    assert "with several processes, requires a network of torchvision or timm" in caplog.text


# A capture that runs nothing, and whose replay runs the step. In the second process it may fail after the forward pass.
CAPTURED = """
import os, torch
from train_pytorch_model.training import graph, loop
def capture(work):
    if os.environ["RANK"] == {failing!r}:
        def fail(*_):
            raise RuntimeError("cannot be captured")
        backward, torch.Tensor.backward = torch.Tensor.backward, fail
        try:
            work()
        finally:
            torch.Tensor.backward = backward
    return work
graph.capture_cuda_graph = capture
loop.use_graph = lambda *_: True
"""


@pytest.mark.parametrize("failing", ["1", "none"])
def test_two_processes_capture_their_step_or_train_on_together(failing: str, inputs: Inputs) -> None:
    given = []
    for first in ("", CAPTURED.format(failing=failing)):
        job = train_job(inputs, 2, first=first, epochs=5, batch_size=4)  # 15 steps, of which 11 warm up
        assert job.wait() == [0, 0], job.log()
        given.append(results(inputs))
        shutil.rmtree(inputs.trained)
    assert given[0] == given[1]
    assert ("as a CUDA graph" in job.log()) is (failing == "none")
    assert ("training continues without it: RuntimeError: cannot be captured" in job.log()) is (failing == "1")


# The defaults of DistributedDataParallel, which exchange more.
DEFAULTS = (
    "from train_pytorch_model.distributed import world\n"
    "wrap = world.DistributedDataParallel\n"
    "flags = {'broadcast_buffers': True, 'gradient_as_bucket_view': False}\n"
    "world.DistributedDataParallel = lambda network, **given: wrap(network, **{**given, **flags})"
)


@pytest.mark.parametrize("microbatch_size", ["off", 2])
def test_results_equal_those_of_the_defaults_of_distributed_data_parallel(
    microbatch_size: int | str, inputs: Inputs
) -> None:
    given = []
    for first in ("", DEFAULTS):
        job = train_job(inputs, 2, first=first, epochs=2, batch_size=4, microbatch_size=microbatch_size)
        assert job.wait() == [0, 0], job.log()
        given.append(results(inputs))
        shutil.rmtree(inputs.trained)
    assert given[0] == given[1]


def test_torchrun_restarts_a_crashed_job_and_it_resumes(inputs: Inputs) -> None:
    flags = {
        "epochs": 20,  # so many that the signal comes before the end
        "patience": 20,
        "batch_size": 4,
        "precision": "float32",
        "checkpoint_minutes": 0,
        "scale_learning_rate": False,
    }
    job = train_job(inputs, 2, **flags)
    assert job.wait() == [0, 0], job.log()
    assert inputs.metrics()[0]["learning_rate"] == 0.001
    expected = results(inputs)
    shutil.rmtree(inputs.trained)
    job = under_torchrun(inputs, "--max-restarts=1", **flags)
    assert job.until(lambda: "Checkpoint of epoch 2" in job.log()), job.log()
    os.kill(_children(job.processes[0].pid)["1"], signal.SIGKILL)
    assert job.wait() == [0], job.log()
    assert "Resuming from the checkpoint" in job.log()
    assert results(inputs) == expected


def _children(pid: int) -> dict[str, int]:
    """The processes that another has started, by their rank."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        for variable in Path(f"/proc/{child}/environ").read_bytes().decode().split("\0"):
            name, _, value = variable.partition("=")
            if name == "RANK":
                found[value] = int(child)
    return found


def test_each_process_knows_those_of_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    world = met(monkeypatch, ("a", "GPU-1"), ("b", "GPU-2"), ("b", "GPU-3"), ("a", "GPU-4"))
    assert world.node == (1, 2)
    assert world.is_leader


def test_processes_that_had_nothing_to_do_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[object] = []
    monkeypatch.setattr(torch.distributed, "barrier", lambda group: waits.append(group))
    met(monkeypatch, ("a", None), ("a", None)).finish()
    assert len(waits) == 1


def test_gpus_that_do_not_go_round_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"Ranks \[0, 2\] have no GPU but other ranks do"):
        met(monkeypatch, ("a", None), ("b", "GPU-1"), ("c", None))
    with pytest.raises(UserError, match="Several processes use the same GPU: ranks 0 and 1 on a"):
        met(monkeypatch, ("a", "GPU-1"), ("a", "GPU-1"))


@pytest.mark.parametrize(("rank", "words"), [(0, "cannot listen at"), (1, "cannot connect to rank 0 at")])
def test_a_meeting_point_that_cannot_be_had_is_named(rank: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "_RENDEZVOUS_SECONDS", 1)
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if rank == 0:
            taken.listen()
        port = taken.getsockname()[1]
        launch = Launch(rank, rank, 2, "127.0.0.1", port)
        with (
            pytest.raises(UserError, match=f"Rank {rank} of 2 processes {words} 127.0.0.1:{port}"),
            connected(launch, print),
        ):
            pass
