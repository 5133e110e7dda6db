"""The cache: made once, the same bits as the files, a changed file noticed, everything wrong told at once."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.data.datasets import FolderDataset, open_dataset
from core.images.resize import Preprocess
from training.data.augment import RECIPES
from training.data.cache import Cache, CachedDataset
from training.data.storage import Contents, Kept, KeptDataset
from training.tracking.lock import hold

Cli = Callable[..., tuple[int, str, str]]
FIT = Preprocess(mode="fit", size=(32, 48), stride=8)
TINY = ("--model", "ddunet", "--width", 2, "--size", 32, 64, "--batch-size", 2, "--epochs", 2)


def made(dataset: FolderDataset, keep: Kept, folder: Path) -> CachedDataset:
    return CachedDataset(dataset, folder, Cache(dataset, keep, folder).make(skip_bad=False))


@pytest.mark.parametrize("keep", [Kept(FIT), Kept(FIT, factor=2), Kept(FIT, factor=1.3), Kept(FIT, whole_labels=True)])
def test_the_cache_holds_what_decoding_gives(scenes: Path, tmp_path: Path, keep: Kept) -> None:
    dataset = open_dataset(scenes, "train")
    cached, read = made(dataset, keep, tmp_path), KeptDataset(dataset, keep, Contents(pixels=[]))
    assert len(cached) == len(read) == 6
    for index in range(6):
        assert all(np.array_equal(a, b) for a, b in zip(cached[index], read[index], strict=True))
        assert cached.where(index) == read.where(index) == str(dataset.pairs[index][0])


def test_the_same_pictures_are_known_however_they_are_kept(scenes: Path, tmp_path: Path) -> None:
    """As the CPUs of two machines may resize them with other last bits."""
    found = [Cache(open_dataset(scenes, "train"), Kept(FIT, factor=n), tmp_path).make(skip_bad=False) for n in (1, 2)]
    assert found[0].source == found[1].source and found[0].digest != found[1].digest


def test_street_keeps_what_its_largest_scale_needs_and_never_more_than_there_is() -> None:
    keep = RECIPES["street"](Preprocess(size=(256, 256), stride=8), (0.5, 2.0)).keep
    assert keep.size(1024, 2048) == (368, 720)
    assert keep.size(200, 300) == (200, 300)


def test_photographs_of_many_sizes_lie_beside_each_other(plain: Path, tmp_path: Path) -> None:
    cached = made(open_dataset(plain, "train"), Kept(FIT, whole_labels=True), tmp_path)
    assert [cached[index][1].shape for index in range(2)] == [(48, 64), (50, 70)]


def test_the_class_pixels_are_those_of_the_labels(plain: Path, tmp_path: Path) -> None:
    dataset = open_dataset(plain, "train")
    contents = Cache(dataset, Kept(FIT, whole_labels=True), tmp_path).make(skip_bad=False)
    expected = sum(np.bincount(dataset[index][1].ravel(), minlength=256)[:3] for index in range(2))
    assert contents.pixels == expected.tolist()


def test_a_run_trains_the_same_with_and_without_the_cache(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    from tests.support.kill_resume import differences

    for name, flags in (("with", ()), ("without", ("--cache", "none"))):
        assert cli("train", "--data", scenes, "--run", tmp_path / name, *TINY, *flags)[0] == 0
    assert differences(tmp_path / "with", tmp_path / "without", epochs=2) == []
    assert len(list((tmp_path / ".cache").glob("*.cache"))) == 2


def test_no_image_file_is_opened_once_the_cache_is_there(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("train", "--data", scenes, "--run", tmp_path / "one", *TINY)[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        for name in ("read_photo", "read_label"):
            patch.setattr(f"core.data.datasets.{name}", lambda path: (_ for _ in ()).throw(AssertionError(path)))
        assert cli("train", "--data", scenes, "--run", tmp_path / "two", *TINY)[0] == 0


@pytest.fixture
def copied(scenes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scenes, tmp_path / "data"))


def test_a_changed_file_makes_the_cache_anew_and_the_old_one_goes(copied: Path, tmp_path: Path) -> None:
    folder, told = tmp_path / "cache", []
    old = Cache(open_dataset(copied, "train"), Kept(FIT), folder)
    before = CachedDataset(old.dataset, folder, old.make(False))
    photo = open_dataset(copied, "train").pairs[2][0]
    stat = photo.stat()
    cv2.imwrite(str(photo), 255 - cv2.imread(str(photo)))
    os.utime(photo, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    new = Cache(open_dataset(copied, "train"), Kept(FIT), folder)
    assert new.read() is None
    after = CachedDataset(new.dataset, folder, new.make(False, told.append))
    assert not np.array_equal(before[2][0], after[2][0]) and np.array_equal(before[1][0], after[1][0])
    assert [p.name for p in folder.glob("*.cache")] == [new.path.name]
    assert told == ["data: files of train changed; its cache is made anew"]


def test_two_data_folders_of_one_name_keep_their_caches(scenes: Path, tmp_path: Path) -> None:
    caches = []
    for fold in ("fold1", "fold2"):
        dataset = open_dataset(Path(shutil.copytree(scenes, tmp_path / fold / "data")), "train")
        caches.append(Cache(dataset, Kept(FIT), tmp_path / "cache"))
        caches[-1].make(False)
    assert all(cache.read() is not None for cache in caches)


@pytest.mark.parametrize("change", ["size", "mode", "labels", "factor"])
def test_another_rule_is_another_cache(scenes: Path, tmp_path: Path, change: str) -> None:
    dataset = open_dataset(scenes, "train")
    other = {
        "size": Kept(FIT.model_copy(update={"size": (40, 48)})),
        "mode": Kept(FIT.model_copy(update={"mode": "stretch"})),
        "labels": Kept(FIT, whole_labels=True),
        "factor": Kept(FIT, factor=2),
    }[change]
    Cache(dataset, Kept(FIT), tmp_path).make(False)
    assert Cache(dataset, Kept(FIT), tmp_path).read() is not None
    assert Cache(dataset, other, tmp_path).read() is None


@pytest.mark.parametrize("keep", [0, 8, 100, -1, -9])
def test_a_cache_that_is_not_whole_is_made_anew(scenes: Path, tmp_path: Path, keep: int) -> None:
    cache = Cache(open_dataset(scenes, "train"), Kept(FIT), tmp_path)
    contents = cache.make(False)
    cache.path.write_bytes(cache.path.read_bytes()[:keep])
    assert cache.read() is None
    assert cache.make(False) == contents and cache.read() == contents


def test_two_processes_make_one_cache(scenes: Path, tmp_path: Path) -> None:
    """The second waits for the first and takes what it made."""
    caches = [Cache(open_dataset(scenes, "train"), Kept(FIT), tmp_path) for _ in range(2)]
    made: list[Contents] = []
    threads = [threading.Thread(target=lambda c=c: made.append(c.make(False))) for c in caches]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0] == made[1] and len(list(tmp_path.glob("*.cache"))) == 1


def test_a_process_that_hangs_in_making_a_cache_is_named(scenes: Path, tmp_path: Path) -> None:
    cache, told = Cache(open_dataset(scenes, "train"), Kept(FIT), tmp_path), []
    with (
        hold(tmp_path, lambda _: None),
        pytest.raises(TimeoutError, match=f"process {os.getpid()} on .* got no further in 0.2 s"),
    ):
        cache.make(False, told.append, timeout_s=0.2)
    assert len(told) == 1 and "waiting for it" in told[0]


def test_a_process_that_gets_on_with_a_cache_is_waited_for(scenes: Path, tmp_path: Path) -> None:
    cache = Cache(open_dataset(scenes, "train"), Kept(FIT), tmp_path)
    made: list[Contents] = []
    waiting = threading.Thread(target=lambda: made.append(cache.make(False, timeout_s=2)))
    with hold(tmp_path, lambda _: None), (tmp_path / ".x.tmp").open("wb", buffering=0) as file:
        waiting.start()
        for _ in range(40):
            file.write(b"x")
            time.sleep(0.1)
        assert waiting.is_alive()
    waiting.join()
    assert len(made[0].sizes) == 6


def spoil(plain: Path) -> list[str]:
    """Something of every kind that can be wrong, in both splits; what each must be told as."""
    cv2.imwrite(str(plain / "labels" / "train" / "0.png"), np.full((48, 64), 77, np.uint8))
    (plain / "images" / "train" / "9.jpg").write_bytes((plain / "images" / "train" / "1.jpg").read_bytes())
    (plain / "images" / "val" / "0.jpg").write_bytes(b"\xff\xd8\xff")
    for name, labels in (("2", np.zeros((48, 64), np.uint8)), ("3", np.ones((9, 9), np.uint8))):
        (plain / "images" / "train" / f"{name}.jpg").write_bytes((plain / "images" / "train" / "0.jpg").read_bytes())
        cv2.imwrite(str(plain / "labels" / "train" / f"{name}.png"), labels)
    for name in ("4", "5"):
        for kind, suffix in (("images", "jpg"), ("labels", "png")):
            shutil.copy(plain / kind / "train" / f"1.{suffix}", plain / kind / "train" / f"{name}.{suffix}")
    return [
        "images/train/9.jpg has no label",
        "labels/train/0.png: holds the label value(s) 77",
        "images/train/2.jpg: every pixel of its label is void",
        "images/train/3.jpg: its label is 9x9, its photograph 64x48",
        "images/val/0.jpg: the picture is damaged",
    ]


@pytest.mark.parametrize("cache", ["cache", "none"])
def test_everything_wrong_is_one_list_before_the_first_epoch(plain: Path, tmp_path: Path, cli: Cli, cache: str) -> None:
    told = spoil(plain)
    cache = str(tmp_path / cache) if cache == "cache" else cache
    code, _, err = cli("train", "--data", plain, "--run", tmp_path / "r", "--cache", cache, *TINY)
    line = err.rsplit("\r")[-1]
    assert code == 2 and line.count("\n") == 1 and "5 files can't be used" in line and "--skip-bad" in line
    assert all(problem in line for problem in told)
    assert not (tmp_path / "r").exists() and not list(tmp_path.rglob("*.cache")) and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("cache", ["cache", "none"])
def test_skip_bad_trains_without_them_and_says_so(plain: Path, tmp_path: Path, cli: Cli, cache: str) -> None:
    told = spoil(plain)
    cache = str(tmp_path / cache) if cache == "cache" else cache
    flags = ("--data", plain, "--run", tmp_path / "r", "--cache", cache, *TINY)
    code, out, _ = cli("train", "--skip-bad", *flags)
    assert code == 0 and "3 training and 1 validation images" in out
    skipped = json.loads((tmp_path / "r" / "config.json").read_text())["skipped"]
    assert len(skipped) == 5 and all(any(problem in entry for entry in skipped) for problem in told)
    # without the flag the same data is refused again, whatever lies in the cache
    assert "5 files can't be used" in cli("train", *flags[:2], "--run", tmp_path / "other", *flags[4:])[2]


def test_nothing_left_to_train_on_is_an_error(plain: Path, tmp_path: Path, cli: Cli) -> None:
    for path in (plain / "images" / "val").iterdir():
        path.write_bytes(b"")
    code, _, err = cli("train", "--data", plain, "--run", tmp_path / "r", "--skip-bad", *TINY)
    assert code == 2 and "not one sample of val can be used" in err


def test_a_cache_that_can_t_be_written_says_what_to_do(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "file").touch()
    code, _, err = cli("train", "--data", scenes, "--run", tmp_path / "r", "--cache", tmp_path / "file" / "x", *TINY)
    assert code == 1 and "--cache DIR" in err and "--cache none" in err


def test_everything_wrong_is_told_however_much_it_is(plain: Path, tmp_path: Path, cli: Cli) -> None:
    for number in range(150):
        (plain / "images" / "train" / f"x{number}.jpg").touch()
    code, _, err = cli("train", "--data", plain, "--run", tmp_path / "r", *TINY)
    assert code == 2 and all(f"x{number}.jpg has no label" in err for number in range(150))
