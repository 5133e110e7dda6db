"""Evaluate and predict on two hosts: each host processes its shard, and the result equals that of one host."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.multi_host.hosts import Host
from tests.support.paths import ROOT
from tests.support.wait import wait_until
from training.__main__ import main
from training.synthetic.dataset import write_scene

pytestmark = pytest.mark.timeout(900)

NUM_IMAGES = 41


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shared") / "scenes"
    for index in range(NUM_IMAGES):
        write_scene(directory, "val", index, (64, 128), seed=0)
    return directory


def start_on(host: Host, job: str, *arguments: object, num_nodes: int = 2) -> subprocess.Popen[str]:
    """Start `python -m training ARGUMENTS` under torchrun on a host."""
    launcher = host.torchrun(job, "--nnodes", num_nodes, "--nproc-per-node", 1)
    command = [*launcher, "-m", "--", "training", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_all(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Wait for all processes and return their exit codes and outputs."""
    return [(process.wait(180), process.stdout.read() if process.stdout else "") for process in processes]


def run_on_all(hosts: list[Host], job: str, *arguments: object) -> list[str]:
    """Run the same command on all hosts, check that it succeeds, and return the outputs."""
    results = wait_all([start_on(host, job, *arguments, num_nodes=len(hosts)) for host in hosts])
    assert [code for code, _ in results] == [0] * len(hosts), results
    return [output for _, output in results]


def read_masks(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.png")}


def test_evaluate_on_two_hosts_gives_report_of_one(two_hosts: list[Host], data: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", "unet", "--data", data, "--json")
    run_on_all(two_hosts, "evaluate", *arguments, tmp_path / "two.json")
    assert main([*map(str, arguments), str(tmp_path / "one.json")]) == 0
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one.pop("speed") and two.pop("speed")
    assert two == one and one["data"]["images"] == NUM_IMAGES


def test_evaluate_reports_host_that_died(two_hosts: list[Host], data: Path, tmp_path: Path) -> None:
    slow = ("--resolution", "native", "--flip", "--batch-size", 1)
    arguments = ("evaluate", "unet", "--data", data, *slow, "--json", tmp_path / "report.json")
    processes = [start_on(host, "evaluate", *arguments) for host in two_hosts]
    output = ""
    while "evaluating" not in output and processes[0].stdout and (character := processes[0].stdout.read(1)):
        output += character
    two_hosts[1].kill_processes()
    (code, rest), _ = wait_all(processes)
    assert code != 0 and "no heartbeat for 30 s; check that the node is running" in rest, output + rest
    assert not (tmp_path / "report.json").exists()


def test_evaluate_rejects_hosts_with_different_labels(two_hosts: list[Host], data: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(data, changed)
    write_scene(changed, "val", 0, (64, 128), seed=1)
    arguments = [("evaluate", "unet", "--data", directory) for directory in (data, changed)]
    processes = [start_on(host, "labels", *own) for host, own in zip(two_hosts, arguments, strict=True)]
    results = wait_all(processes)
    assert all(code for code, _ in results) and any("--data: other files of val on" in out for _, out in results), results


def test_predict_on_two_hosts_gives_masks_of_one(two_hosts: list[Host], data: Path, tmp_path: Path) -> None:
    arguments = ("predict", "ddunet", data / "leftImg8bit", "--overlay")
    outputs = run_on_all(two_hosts, "predict", *arguments, "--out", tmp_path / "two", "--json", tmp_path / "two.json")
    assert main([*map(str, arguments), "--out", str(tmp_path / "one"), "--json", str(tmp_path / "one.json")]) == 0
    masks = read_masks(tmp_path / "two")
    assert masks == read_masks(tmp_path / "one") and len(masks) == 2 * NUM_IMAGES
    one, two = ((tmp_path / f"{name}.json").read_text().replace(str(tmp_path / name), "OUT") for name in ("one", "two"))
    assert json.loads(two) == json.loads(one)
    assert sum(f"{NUM_IMAGES} of {NUM_IMAGES}" in output for output in outputs) == 1


def test_second_predict_completes_shard_of_dead_host(two_hosts: list[Host], data: Path, tmp_path: Path) -> None:
    arguments = ("predict", "unet", data / "leftImg8bit", "--resolution", "native", "--flip", "--out")
    processes = [start_on(host, "first", *arguments, tmp_path / "masks") for host in two_hosts]

    def some_masks_written() -> bool:
        assert processes[0].poll() is None, wait_all(processes)
        return len(read_masks(tmp_path / "masks")) >= 6

    wait_until(some_masks_written, 120)
    two_hosts[1].kill_processes()
    assert all(code for code, _ in wait_all(processes))
    first_masks = read_masks(tmp_path / "masks")
    assert 6 <= len(first_masks) < NUM_IMAGES
    run_on_all(two_hosts, "second", *arguments, tmp_path / "masks")
    assert main([*map(str, arguments), str(tmp_path / "one")]) == 0
    all_masks = read_masks(tmp_path / "masks")
    assert first_masks.items() <= all_masks.items() and len(all_masks) == NUM_IMAGES
    assert all_masks == read_masks(tmp_path / "one")
