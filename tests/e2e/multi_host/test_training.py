"""Train under torchrun on two and three hosts: as on one host, and with hosts that disconnect, die or join later."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.e2e.multi_host.hosts import Host
from tests.support.kill_resume import TIMING_COLUMNS, run_differences
from tests.support.training_process import EPOCHS, STEPS_PER_EPOCH, TrainingRun, is_running, write_scenes
from tests.support.wait import wait_until
from training.synthetic.dataset import write_scene

pytestmark = pytest.mark.timeout(900)

ELASTIC_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"  # docs/scale.md explains it
TIMEOUT = ("--timeout", 20)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("hosts") / "scenes")


def elastic_run(
    host: Host, data: Path, run_dir: Path, *flags: object, ranks_per_host: int = 1, max_restarts: int = 5
) -> TrainingRun:
    """Return the run of one host's torchrun; hosts may leave and join."""
    elastic = ("--nnodes", "1:4", "--max-restarts", max_restarts, "--nproc-per-node", ranks_per_host)
    launcher = host.torchrun(run_dir.name, *elastic, environment=(ELASTIC_STORE,))
    program = (*launcher, "-m", "--", "tests.support.traced_training")
    return TrainingRun(data, run_dir, 2, (*TIMEOUT, *flags), program=program)


def finish_all(runs: list[TrainingRun], processes: list) -> list[int]:
    """Wait for the torchrun of all hosts; return the exit codes."""
    return [run.finish(process) for run, process in zip(runs, processes, strict=True)]


def outputs(runs: list[TrainingRun]) -> str:
    """Return the end of each host's last output, for messages of assertions."""
    return "\n----\n".join(run.outputs[-1][-6000:] for run in runs if run.outputs)


def read_history(run_dir: Path) -> list[dict[str, str]]:
    """Return the history without timings."""
    with (run_dir / "history.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in TIMING_COLUMNS} for row in csv.DictReader(file)]


def assert_epochs_complete(run_dir: Path, epochs: int = EPOCHS) -> None:
    assert [row["epoch"] for row in read_history(run_dir)] == [str(epoch) for epoch in range(1, epochs + 1)]


def read_starts(run_dir: Path) -> list[dict]:
    """Return what config.json records of each start of the run."""
    return json.loads((run_dir / "config.json").read_text())["starts"]


@pytest.mark.parametrize("ranks_per_host", [1, 2])
def test_two_hosts_train_bitwise_like_one(two_hosts: list[Host], data: Path, tmp_path: Path, ranks_per_host: int) -> None:
    reference = TrainingRun(data, tmp_path / "reference", 2 * ranks_per_host)
    reference.run_to_completion()
    caches = {host: tmp_path / f"cache{host.number}" for host in two_hosts}
    runs = [
        elastic_run(host, data, tmp_path / "run", "--cache", cache, ranks_per_host=ranks_per_host)
        for host, cache in caches.items()
    ]
    processes = [run.start() for run in runs]
    assert finish_all(runs, processes) == [0, 0], outputs(runs)
    assert run_differences(tmp_path / "run", reference.run_dir) == []
    for cache in caches.values():
        assert sorted(path.name.split("-")[1] for path in cache.glob("*.cache")) == ["train", "val"]
    assert sum(f"epoch {EPOCHS}/{EPOCHS}  loss" in run.outputs[-1] for run in runs) == 1  # one process writes and logs


@pytest.mark.parametrize("dead", [1, 2])
def test_training_continues_without_host_that_died(three_hosts: list[Host], data: Path, tmp_path: Path, dead: int) -> None:
    runs = [elastic_run(host, data, tmp_path / "run") for host in three_hosts]
    processes = [run.start() for run in runs]
    assert runs[0].wait_for_events(processes[0], STEPS_PER_EPOCH + 1), outputs(runs)
    three_hosts[dead].kill_processes()
    codes = finish_all(runs, processes)
    assert codes.pop(dead) != 0 and codes == [0, 0], outputs(runs)
    assert_epochs_complete(tmp_path / "run")
    starts = read_starts(tmp_path / "run")
    assert [start["world_size"] for start in starts] == [3, 2] and starts[1]["epoch"] >= 1


def test_training_continues_without_host_that_disconnects_before_the_first_step(
    two_hosts: list[Host], data: Path, tmp_path: Path
) -> None:
    """No connection breaks in this case, and torchrun does not check whether hosts are alive."""
    runs = [elastic_run(host, data, tmp_path / "run") for host in two_hosts]
    processes = [run.start() for run in runs]
    while not runs[1].worker_pids(processes[1]):
        assert processes[1].poll() is None, outputs(runs)
    two_hosts[1].disconnect()
    assert runs[0].finish(processes[0]) == 0, outputs(runs)
    two_hosts[1].kill_processes()
    runs[1].finish(processes[1])
    assert_epochs_complete(tmp_path / "run")


def test_training_continues_without_disconnected_host_whose_ranks_exit(
    two_hosts: list[Host], data: Path, tmp_path: Path
) -> None:
    runs = [elastic_run(host, data, tmp_path / "run") for host in two_hosts]
    processes = [run.start() for run in runs]
    assert runs[0].wait_for_events(processes[0], STEPS_PER_EPOCH + 1), outputs(runs)
    (disconnected_rank,) = runs[1].worker_pids(processes[1])
    two_hosts[1].disconnect()
    assert runs[0].finish(processes[0]) == 0, outputs(runs)
    assert not is_running(disconnected_rank)  # its torchrun does keep waiting for the network
    two_hosts[1].kill_processes()
    runs[1].finish(processes[1])
    assert_epochs_complete(tmp_path / "run")


def test_restarted_job_resumes_after_its_first_host_died(two_hosts: list[Host], data: Path, tmp_path: Path) -> None:
    """The first host keeps the rendezvous: the others can't continue, and a scheduler starts the same commands again."""
    runs = [elastic_run(host, data, tmp_path / "run") for host in two_hosts]
    processes = [run.start() for run in runs]
    assert runs[0].wait_for_events(processes[0], STEPS_PER_EPOCH + 1), outputs(runs)
    (remaining_rank,) = runs[1].worker_pids(processes[1])
    two_hosts[0].kill_processes()
    wait_until(lambda: not is_running(remaining_rank), 60, interval_s=0.1)
    two_hosts[1].kill_processes()
    assert all(finish_all(runs, processes)), outputs(runs)
    for run in runs:
        run.auto_resume = False  # the job id identifies the run
    processes = [run.start() for run in runs]
    assert finish_all(runs, processes) == [0, 0], outputs(runs)
    assert_epochs_complete(tmp_path / "run")
    starts = read_starts(tmp_path / "run")
    assert [start["world_size"] for start in starts] == [2, 2] and starts[1]["epoch"] >= 1


def test_host_that_starts_later_joins(two_hosts: list[Host], data: Path, tmp_path: Path) -> None:
    runs = [elastic_run(host, data, tmp_path / "run", "--epochs", 30) for host in two_hosts]
    first = runs[0].start()
    assert runs[0].wait_for_events(first, 2 * STEPS_PER_EPOCH), outputs(runs)
    assert finish_all(runs, [first, runs[1].start()]) == [0, 0], outputs(runs)
    assert_epochs_complete(tmp_path / "run", 30)
    assert [start["world_size"] for start in read_starts(tmp_path / "run")] == [1, 2]


def test_training_rejects_hosts_with_different_images(two_hosts: list[Host], data: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(data, changed)
    write_scene(changed, "train", 0, (32, 64), seed=1)
    runs = [
        elastic_run(host, directory, tmp_path / "run", max_restarts=0)  # every restart would fail in the same way
        for host, directory in zip(two_hosts, (data, changed), strict=True)
    ]
    processes = [run.start() for run in runs]
    assert all(finish_all(runs, processes)), outputs(runs)
    assert "--data: other images, or other unreadable images, on" in outputs(runs)
