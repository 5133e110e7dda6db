"""Evaluation and prediction on two hosts: each its share of the files, and together what one does alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.multi_host.hosts import Host, hosts
from tests.support.kill_resume import ROOT
from training.__main__ import main
from training.commands.synthesize import write_scene

IMAGES = 41


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "scenes"
    for index in range(IMAGES):
        write_scene(folder, "val", index, (64, 128), seed=0)
    return folder


@pytest.fixture
def two() -> Iterator[list[Host]]:
    with hosts(2) as made:
        yield made


def together(machines: list[Host], name: str, *arguments: object, of: int = 0) -> list[subprocess.Popen[str]]:
    """The same command under torchrun on some hosts."""
    started = []
    for host in machines:
        launcher = host.torchrun(name, "--nnodes", of or len(machines), "--nproc-per-node", 1)
        command = [*launcher, "-m", "--", "training", *map(str, arguments)]
        started.append(subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    return started


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    return [(process.wait(180), process.stdout.read() if process.stdout else "") for process in processes]


def masks(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_two_hosts_evaluate_as_one(two: list[Host], data: Path, tmp_path: Path) -> None:
    flags = ("evaluate", "unet", "--data", data, "--json")
    found = ended(together(two, "evaluate", *flags, tmp_path / "two.json"))
    assert [code for code, _ in found] == [0, 0], found
    assert main([*map(str, flags), str(tmp_path / "one.json")]) == 0
    one, both = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert both.pop("speed") and one.pop("speed")
    assert both == one and one["data"]["images"] == IMAGES


def test_a_host_that_dies_in_an_evaluation_is_named(two: list[Host], data: Path, tmp_path: Path) -> None:
    slow = ("--resolution", "native", "--flip", "--batch-size", 1, "--json", tmp_path / "report.json")
    processes = together(two, "evaluate", "evaluate", "unet", "--data", data, *slow)
    begun = ""
    while "evaluating" not in begun and processes[0].stdout and (more := processes[0].stdout.read(1)):
        begun += more
    two[1].power_off()
    (code, told), _ = ended(processes)
    assert code != 0 and "has said nothing for 30 s; is that machine there?" in told, begun + told
    assert not (tmp_path / "report.json").exists()


def test_other_labels_on_one_host_are_told(two: list[Host], data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(data, other)
    write_scene(other, "val", 0, (64, 128), seed=1)
    flags = [("evaluate", "unet", "--data", place) for place in (data, other)]
    processes = [together([host], "others", *each, of=2)[0] for host, each in zip(two, flags, strict=True)]
    found = ended(processes)
    assert all(code for code, _ in found) and any("--data: other files of val on" in told for _, told in found), found


def test_two_hosts_predict_what_one_does(two: list[Host], data: Path, tmp_path: Path) -> None:
    given = ("predict", "ddunet", data / "leftImg8bit", "--overlay")
    found = ended(together(two, "predict", *given, "--out", tmp_path / "two", "--json", tmp_path / "two.json"))
    assert [code for code, _ in found] == [0, 0], found
    assert main([*map(str, given), "--out", str(tmp_path / "one"), "--json", str(tmp_path / "one.json")]) == 0
    assert masks(tmp_path / "one") == masks(tmp_path / "two") and len(masks(tmp_path / "two")) == 2 * IMAGES
    one, both = ((tmp_path / f"{name}.json").read_text().replace(str(tmp_path / name), "OUT") for name in ("one", "two"))
    assert json.loads(both) == json.loads(one)
    assert sum(f"{IMAGES} of {IMAGES}" in text for _, text in found) == 1


def test_the_share_of_a_host_that_died_is_done_by_a_second_run(two: list[Host], data: Path, tmp_path: Path) -> None:
    given = ("predict", "unet", data / "leftImg8bit", "--resolution", "native", "--flip", "--out")
    processes = together(two, "first", *given, tmp_path / "masks")
    while len(masks(tmp_path / "masks")) < 6:
        assert processes[0].poll() is None, ended(processes)
    two[1].power_off()
    codes = [code for code, _ in ended(processes)]
    assert all(codes)
    left = masks(tmp_path / "masks")
    assert 6 <= len(left) < IMAGES
    found = ended(together(two, "second", *given, tmp_path / "masks"))
    assert [code for code, _ in found] == [0, 0], found
    assert main([*map(str, given), str(tmp_path / "one")]) == 0
    assert left.items() <= masks(tmp_path / "masks").items() and len(masks(tmp_path / "masks")) == IMAGES
    assert masks(tmp_path / "one") == masks(tmp_path / "masks")
