"""Tests of the cache of decoded images, and of the check of all files before the first epoch."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.data.datasets import DirectoryDataset, open_dataset
from core.images.resize import Preprocess
from tests.support.cli import Cli
from tests.support.kill_resume import run_differences
from training.data.augment import AUGMENTATIONS, AugmentOptions
from training.data.cache import CachedDataset, DecodedCache
from training.data.storage import ResizedDataset, SplitIndex, StoragePolicy
from training.tracking.lock import dir_lock

FIT = Preprocess(mode="fit", size=(32, 48), stride=8)
TINY = ("--model", "ddunet", "--width", 2, "--size", 32, 64, "--batch-size", 2, "--epochs", 2)


def build_cache(dataset: DirectoryDataset, policy: StoragePolicy, cache_dir: Path) -> CachedDataset:
    """Build the cache of a split and open it."""
    return CachedDataset(dataset, cache_dir, DecodedCache(dataset, policy, cache_dir).build(skip_bad=False))


@pytest.mark.parametrize(
    "policy",
    [
        StoragePolicy(FIT),
        StoragePolicy(FIT, factor=2),
        StoragePolicy(FIT, factor=1.3),
        StoragePolicy(FIT, full_size_labels=True),
        StoragePolicy(FIT.model_copy(update={"reduce_jpeg": True}), full_size_labels=True),
    ],
)
def test_cache_equals_decoded_files(scenes: Path, tmp_path: Path, policy: StoragePolicy) -> None:
    dataset = open_dataset(scenes, "train")
    cached, resized = build_cache(dataset, policy, tmp_path), ResizedDataset(dataset, policy, SplitIndex(pixels=[]))
    assert len(cached) == len(resized) == 6
    for index in range(6):
        assert all(np.array_equal(a, b) for a, b in zip(cached[index], resized[index], strict=True))
        assert cached.sample_name(index) == resized.sample_name(index) == str(dataset.pairs[index][0])


def test_original_digest_does_not_depend_on_stored_size(scenes: Path, tmp_path: Path) -> None:
    """Resizing can differ in the last bit between CPUs, so runs are compared by the digest of the original images."""
    dataset = open_dataset(scenes, "train")
    first, second = (DecodedCache(dataset, StoragePolicy(FIT, factor=n), tmp_path).build(skip_bad=False) for n in (1, 2))
    assert first.original_digest == second.original_digest and first.digest != second.digest


def test_digests_do_not_depend_on_reduction_of_jpegs(plain_dataset: Path, tmp_path: Path) -> None:
    preprocess = Preprocess(mode="stretch", size=(16, 16))
    whole, reduced = (
        DecodedCache(
            open_dataset(plain_dataset, "val"),
            StoragePolicy(preprocess.model_copy(update={"reduce_jpeg": reduce}), full_size_labels=True),
            tmp_path,
        ).build(skip_bad=False)
        for reduce in (False, True)
    )
    assert (whole.original_digest, whole.image_digests) == (reduced.original_digest, reduced.image_digests)
    assert whole.digest != reduced.digest


def test_street_stores_size_of_largest_scale_without_upsampling() -> None:
    policy = AUGMENTATIONS["street"](Preprocess(size=(256, 256), stride=8), AugmentOptions((0.5, 2.0))).storage_policy
    assert policy.stored_size(1024, 2048) == (368, 720)
    assert policy.stored_size(200, 300) == (200, 300)


def test_cache_keeps_different_image_sizes(plain_dataset: Path, tmp_path: Path) -> None:
    cached = build_cache(open_dataset(plain_dataset, "train"), StoragePolicy(FIT, full_size_labels=True), tmp_path)
    assert [cached[index][1].shape for index in range(2)] == [(48, 64), (50, 70)]


def test_pixels_per_class_match_labels(plain_dataset: Path, tmp_path: Path) -> None:
    dataset = open_dataset(plain_dataset, "train")
    split_index = DecodedCache(dataset, StoragePolicy(FIT, full_size_labels=True), tmp_path).build(skip_bad=False)
    expected = sum(np.bincount(dataset[index][1].ravel(), minlength=256)[:3] for index in range(2))
    assert split_index.pixels == expected.tolist()


def test_run_is_identical_with_and_without_cache(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    for name, flags in (("cached", ()), ("uncached", ("--cache", "none"))):
        assert cli("train", "--data", scenes, "--run", tmp_path / name, *TINY, *flags)[0] == 0
    assert run_differences(tmp_path / "cached", tmp_path / "uncached", epochs=2) == []
    assert len(list((tmp_path / ".cache").glob("*.cache"))) == 2


def test_existing_cache_avoids_reading_images(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("train", "--data", scenes, "--run", tmp_path / "one", *TINY)[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        for name in ("load_image", "read_label"):
            patch.setattr(f"core.data.datasets.{name}", lambda path, *_: (_ for _ in ()).throw(AssertionError(path)))
        assert cli("train", "--data", scenes, "--run", tmp_path / "two", *TINY)[0] == 0


@pytest.fixture
def scenes_copy(scenes: Path, tmp_path: Path) -> Path:
    """A copy of `scenes` that a test may change."""
    return Path(shutil.copytree(scenes, tmp_path / "data"))


def test_changed_file_rebuilds_cache_and_deletes_old_one(scenes_copy: Path, tmp_path: Path) -> None:
    cache_dir, messages = tmp_path / "cache", []
    old = DecodedCache(open_dataset(scenes_copy, "train"), StoragePolicy(FIT), cache_dir)
    before = CachedDataset(old.dataset, cache_dir, old.build(False))
    image_path = open_dataset(scenes_copy, "train").pairs[2][0]
    stat = image_path.stat()
    cv2.imwrite(str(image_path), 255 - cv2.imread(str(image_path)))
    os.utime(image_path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    new = DecodedCache(open_dataset(scenes_copy, "train"), StoragePolicy(FIT), cache_dir)
    assert new.read() is None
    after = CachedDataset(new.dataset, cache_dir, new.build(False, messages.append))
    assert not np.array_equal(before[2][0], after[2][0]) and np.array_equal(before[1][0], after[1][0])
    assert [p.name for p in cache_dir.glob("*.cache")] == [new.path.name]
    assert messages == ["data: files of train have changed; rebuilding its cache"]


def test_datasets_with_same_directory_name_have_separate_caches(scenes: Path, tmp_path: Path) -> None:
    caches = []
    for parent in ("first", "second"):
        dataset = open_dataset(Path(shutil.copytree(scenes, tmp_path / parent / "data")), "train")
        caches.append(DecodedCache(dataset, StoragePolicy(FIT), tmp_path / "cache"))
        caches[-1].build(False)
    assert all(cache.read() is not None for cache in caches)


@pytest.mark.parametrize("change", ["size", "mode", "labels", "factor"])
def test_other_storage_policy_has_separate_cache(scenes: Path, tmp_path: Path, change: str) -> None:
    dataset = open_dataset(scenes, "train")
    other = {
        "size": StoragePolicy(FIT.model_copy(update={"size": (40, 48)})),
        "mode": StoragePolicy(FIT.model_copy(update={"mode": "stretch"})),
        "labels": StoragePolicy(FIT, full_size_labels=True),
        "factor": StoragePolicy(FIT, factor=2),
    }[change]
    DecodedCache(dataset, StoragePolicy(FIT), tmp_path).build(False)
    assert DecodedCache(dataset, StoragePolicy(FIT), tmp_path).read() is not None
    assert DecodedCache(dataset, other, tmp_path).read() is None


@pytest.mark.parametrize("length", [0, 8, 100, -1, -9])
def test_truncated_cache_is_rebuilt(scenes: Path, tmp_path: Path, length: int) -> None:
    cache = DecodedCache(open_dataset(scenes, "train"), StoragePolicy(FIT), tmp_path)
    split_index = cache.build(False)
    cache.path.write_bytes(cache.path.read_bytes()[:length])
    assert cache.read() is None
    assert cache.build(False) == split_index and cache.read() == split_index


def test_concurrent_builds_write_one_cache(scenes: Path, tmp_path: Path) -> None:
    """The second process waits for the first and then reads its cache."""
    caches = [DecodedCache(open_dataset(scenes, "train"), StoragePolicy(FIT), tmp_path) for _ in range(2)]
    results: list[SplitIndex] = []
    threads = [threading.Thread(target=lambda c=c: results.append(c.build(False))) for c in caches]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1] and len(list(tmp_path.glob("*.cache"))) == 1


def test_wait_for_stalled_build_times_out(scenes: Path, tmp_path: Path) -> None:
    cache, messages = DecodedCache(open_dataset(scenes, "train"), StoragePolicy(FIT), tmp_path), []
    with (
        dir_lock(tmp_path, lambda _: None),
        pytest.raises(TimeoutError, match=f"process {os.getpid()} on .* has made no progress in 0.2 s"),
    ):
        cache.build(False, messages.append, timeout_s=0.2)
    assert len(messages) == 1 and "waiting for process" in messages[0]


def test_wait_for_progressing_build_does_not_time_out(scenes: Path, tmp_path: Path) -> None:
    cache = DecodedCache(open_dataset(scenes, "train"), StoragePolicy(FIT), tmp_path)
    results: list[SplitIndex] = []
    waiting = threading.Thread(target=lambda: results.append(cache.build(False, timeout_s=2)))
    with dir_lock(tmp_path, lambda _: None), (tmp_path / ".x.tmp").open("wb", buffering=0) as file:
        waiting.start()
        for _ in range(40):
            file.write(b"x")
            time.sleep(0.1)
        assert waiting.is_alive()
    waiting.join()
    assert len(results[0].sizes) == 6


def damage_dataset(plain: Path) -> list[str]:
    """Damage files of both splits in every way that is checked, and return the expected messages."""
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
        "labels/train/0.png: contains label ids 77",
        "images/train/2.jpg: every pixel of its label is void",
        "images/train/3.jpg: its label is 9x9, its image 64x48",
        "images/val/0.jpg: the image is damaged",
    ]


@pytest.mark.parametrize("cache", ["cache", "none"])
def test_all_bad_files_are_reported_before_first_epoch(plain_dataset: Path, tmp_path: Path, cli: Cli, cache: str) -> None:
    messages = damage_dataset(plain_dataset)
    cache = str(tmp_path / cache) if cache == "cache" else cache
    code, _, err = cli("train", "--data", plain_dataset, "--run", tmp_path / "r", "--cache", cache, *TINY)
    line = err.rsplit("\r")[-1]
    assert code == 2 and line.count("\n") == 1 and "5 files can't be used" in line and "--skip-bad" in line
    assert all(message in line for message in messages)
    assert not (tmp_path / "r").exists() and not list(tmp_path.rglob("*.cache")) and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("cache", ["cache", "none"])
def test_skip_bad_trains_without_bad_files_and_records_them(plain_dataset: Path, tmp_path: Path, cli: Cli, cache: str) -> None:
    messages = damage_dataset(plain_dataset)
    cache = str(tmp_path / cache) if cache == "cache" else cache
    flags = ("--data", plain_dataset, "--run", tmp_path / "r", "--cache", cache, *TINY)
    code, out, _ = cli("train", "--skip-bad", *flags)
    assert code == 0 and "3 training and 1 validation images" in out
    skipped = json.loads((tmp_path / "r" / "config.json").read_text())["skipped"]
    assert len(skipped) == 5 and all(any(message in entry for entry in skipped) for message in messages)
    # Without the flag, the data is rejected again, whatever the cache contains.
    assert "5 files can't be used" in cli("train", *flags[:2], "--run", tmp_path / "other", *flags[4:])[2]


def test_skip_bad_fails_if_no_sample_is_left(plain_dataset: Path, tmp_path: Path, cli: Cli) -> None:
    for path in (plain_dataset / "images" / "val").iterdir():
        path.write_bytes(b"")
    code, _, err = cli("train", "--data", plain_dataset, "--run", tmp_path / "r", "--skip-bad", *TINY)
    assert code == 2 and "no sample of val can be used" in err


def test_unwritable_cache_suggests_flags(scenes: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "file").touch()
    code, _, err = cli("train", "--data", scenes, "--run", tmp_path / "r", "--cache", tmp_path / "file" / "x", *TINY)
    assert code == 1 and "--cache DIR" in err and "--cache none" in err


def test_all_bad_files_are_listed_in_file(
    plain_dataset: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for number in range(150):
        (plain_dataset / "images" / "train" / f"x{number}.jpg").touch()
    code, _, err = cli("train", "--data", plain_dataset, "--run", tmp_path / "r", *TINY)
    assert code == 2 and "150 like" in err
    listed = (tmp_path / err.split()[-1]).read_text()
    assert all(f"x{number}.jpg has no label" in listed for number in range(150))
