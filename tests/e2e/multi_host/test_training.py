"""Training under torchrun on two and three hosts: as on one, with hosts that are cut off, die or come later."""

from __future__ import annotations

import csv
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.multi_host.hosts import Host, hosts
from tests.support.kill_resume import EPOCHS, STEPS, Victim, differences, lives, write_data
from training.commands.synthesize import write_scene

ELASTIC_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"  # docs/scale.md says why
TIMEOUT = ("--timeout", 20)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("machines") / "scenes")


@pytest.fixture
def two() -> Iterator[list[Host]]:
    with hosts(2) as made:
        yield made


@pytest.fixture
def three() -> Iterator[list[Host]]:
    with hosts(3) as made:
        yield made


def agent(host: Host, data: Path, folder: Path, *flags: object, each: int = 1) -> Victim:
    """torchrun on a host, where hosts may come and go."""
    elastic = ("--nnodes", "1:4", "--max-restarts", "5", "--nproc-per-node", each)
    launcher = host.torchrun(folder.name, *elastic, before=(ELASTIC_STORE,))
    return Victim(data, folder, 2, (*TIMEOUT, *flags), program=(*launcher, "-m", "--", "tests.support.traced_training"))


def told(agents: list[Victim]) -> str:
    return "\n----\n".join(one.out[-1][-6000:] for one in agents if one.out)


def scores(folder: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((folder / "history.csv").open()))
    return [{key: value for key, value in row.items() if key not in ("images_per_s", "seconds")} for row in rows]


@pytest.mark.parametrize("each", [1, 2])
def test_two_hosts_train_as_the_processes_of_one_do_with_a_cache_each(
    two: list[Host], data: Path, tmp_path: Path, each: int
) -> None:
    whole = Victim(data, tmp_path / "whole", 2 * each)
    whole.whole()
    agents = [agent(host, data, tmp_path / "r", "--cache", tmp_path / f"disk{host.number}", each=each) for host in two]
    processes = [one.start() for one in agents]
    codes = [one.finish(process) for one, process in zip(agents, processes, strict=True)]
    assert codes == [0, 0], told(agents)
    assert differences(tmp_path / "r", whole.folder) == []
    for host in two:
        assert sorted(path.name.split("-")[1] for path in (tmp_path / f"disk{host.number}").glob("*.cache")) == ["train", "val"]
    texts = [one.out[-1] for one in agents]
    assert sum(f"epoch {EPOCHS}/{EPOCHS}  loss" in text for text in texts) == 1  # one process writes and talks


@pytest.mark.parametrize("last", [1, 2])
def test_a_host_that_dies_in_mid_epoch_is_done_without(three: list[Host], data: Path, tmp_path: Path, last: int) -> None:
    agents = [agent(host, data, tmp_path / "r") for host in three]
    processes = [one.start() for one in agents]
    assert agents[0].until(processes[0], STEPS + 1), told([agents[0]])
    three[last].power_off()
    codes = [one.finish(process) for one, process in zip(agents, processes, strict=True)]
    assert [code for n, code in enumerate(codes) if n != last] == [0, 0] and codes[last] != 0, told(agents)
    assert [row["epoch"] for row in scores(tmp_path / "r")] == [str(n + 1) for n in range(EPOCHS)]
    starts = json.loads((tmp_path / "r" / "config.json").read_text())["starts"]
    assert [start["ranks"] for start in starts] == [3, 2] and starts[1]["epoch"] >= 1


def test_a_host_that_dies_before_the_first_step_is_done_without(two: list[Host], data: Path, tmp_path: Path) -> None:
    """Nobody is told: no connection breaks, and torchrun does not look for lost hosts."""
    agents = [agent(host, data, tmp_path / "r") for host in two]
    processes = [one.start() for one in agents]
    while not agents[1].workers(processes[1]):
        assert processes[1].poll() is None, told(agents)
    two[1].cut_off()
    assert agents[0].finish(processes[0]) == 0, told(agents)
    two[1].power_off()
    agents[1].finish(processes[1])
    assert [row["epoch"] for row in scores(tmp_path / "r")] == [str(n + 1) for n in range(EPOCHS)]


def test_the_other_goes_on_without_a_host_that_is_cut_off_and_what_trains_there_ends(
    two: list[Host], data: Path, tmp_path: Path
) -> None:
    agents = [agent(host, data, tmp_path / "r") for host in two]
    processes = [one.start() for one in agents]
    assert agents[0].until(processes[0], STEPS + 1), told([agents[0]])
    (cut_off,) = agents[1].workers(processes[1])
    two[1].cut_off()
    assert agents[0].finish(processes[0]) == 0, told(agents)
    assert not lives(cut_off)  # torchrun itself waits there for a network that does not come back
    two[1].power_off()
    agents[1].finish(processes[1])
    assert [row["epoch"] for row in scores(tmp_path / "r")] == [str(n + 1) for n in range(EPOCHS)]


def test_a_job_that_lost_its_first_host_goes_on_when_it_is_started_again(two: list[Host], data: Path, tmp_path: Path) -> None:
    """The one that keeps the meeting place: a scheduler ends what is left, and starts the same commands again."""
    agents = [agent(host, data, tmp_path / "r") for host in two]
    processes = [one.start() for one in agents]
    assert agents[0].until(processes[0], STEPS + 1), told([agents[0]])
    (left,) = agents[1].workers(processes[1])
    two[0].power_off()
    ended = time.monotonic() + 60
    while lives(left):  # nothing that trains is left to its own
        assert time.monotonic() < ended
        time.sleep(0.1)
    two[1].power_off()
    codes = [one.finish(process) for one, process in zip(agents, processes, strict=True)]
    assert all(codes), told(agents)
    for one in agents:
        one.told = False
    processes = [one.start() for one in agents]
    assert [one.finish(process) for one, process in zip(agents, processes, strict=True)] == [0, 0], told(agents)
    assert [row["epoch"] for row in scores(tmp_path / "r")] == [str(n + 1) for n in range(EPOCHS)]
    starts = json.loads((tmp_path / "r" / "config.json").read_text())["starts"]
    assert [start["ranks"] for start in starts] == [2, 2] and starts[1]["epoch"] >= 1


def test_a_host_that_comes_later_joins(two: list[Host], data: Path, tmp_path: Path) -> None:
    agents = [agent(host, data, tmp_path / "r", "--epochs", 30) for host in two]
    first = agents[0].start()
    assert agents[0].until(first, 2 * STEPS), told([agents[0]])
    second = agents[1].start()
    codes = [agents[0].finish(first), agents[1].finish(second)]
    assert codes == [0, 0], told(agents)
    assert [row["epoch"] for row in scores(tmp_path / "r")] == [str(n + 1) for n in range(30)]
    starts = json.loads((tmp_path / "r" / "config.json").read_text())["starts"]
    assert [start["ranks"] for start in starts] == [1, 2]


def test_pictures_that_differ_between_hosts_are_told(two: list[Host], data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["cp", "-r", data, other], check=True)
    write_scene(other, "train", 0, (32, 64), seed=1)
    agents = [agent(host, place, tmp_path / "r") for host, place in zip(two, (data, other), strict=True)]
    agents[0].program = tuple("0" if part == "5" else part for part in agents[0].program)  # it would come again
    agents[1].program = tuple("0" if part == "5" else part for part in agents[1].program)
    processes = [one.start() for one in agents]
    codes = [one.finish(process) for one, process in zip(agents, processes, strict=True)]
    assert all(codes), told(agents)
    assert "--data: other pictures, or other ones that can't be read, on" in told(agents)
