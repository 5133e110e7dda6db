"""A training job: validate the input, launch one process per GPU, and train on each rank."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from core.data.datasets import format_problems
from core.errors import InputError
from core.models import model_class
from core.runtime.cpu import NUM_CPUS
from core.runtime.malloc import tune_malloc
from training.config import TrainConfig, load_config, resolve_config
from training.data.augment import make_preprocess
from training.data.loader import DistributedBatchSampler
from training.data.training_data import DataScan, make_data
from training.distributed.context import DistributedContext, init_distributed, is_multi_node, node_name, restart_count
from training.distributed.launcher import job_id, launch, processes_to_launch, read_payload
from training.distributed.signals import graceful_stop
from training.engine.network import build_network
from training.engine.trainer import Trainer, is_own_job, lock_run
from training.output_paths import check_output_dir
from training.tracking.run_dir import RunDir


class LaunchPayload(BaseModel):
    """What the parent of several processes has resolved and validated for them."""

    config: TrainConfig
    scan: DataScan


def run_job(flags: dict[str, Any], config_file: Path | None, arguments: list[str]) -> int:
    """Train in this process, or in one process per GPU; return the exit code.

    Args:
        flags: Settings that were specified as flags.
        config_file: JSON file with more settings.
        arguments: The command line, repeated for each process that is launched.

    Raises:
        InputError: The settings or the data can't be used.
    """
    is_restart = restart_count() > 0  # A launcher repeats the same command, without --resume.
    payload = read_payload()
    if payload is not None:  # A launched process: its parent has validated everything.
        launched = LaunchPayload.model_validate_json(payload)
        resume = launched.config.resume or is_restart
        return train(launched.config.model_copy(update={"resume": resume}), launched.scan)
    config = load_config(flags, config_file)
    is_main = os.environ.get("RANK", "0") == "0"
    own_job = is_own_job(RunDir(config.run_dir))
    if own_job and is_main and not (is_restart or config.resume):
        # A node joined or left, or the job was started again: on purpose, or an old id was used for another run.
        print(
            f"{config.run_dir}: the last start was of this job ({job_id()}), so its run is resumed without --resume; if this"
            " is another run, choose another --run or, for torchrun, another --rdzv-id",
            flush=True,
        )
    if own_job or (is_restart and not is_main):  # On other ranks of a restart rank 0 decides.
        config, flags = config.model_copy(update={"resume": True}), {**flags, "resume": True}
    config = resolve_config(config, set(flags))
    processes = processes_to_launch(config.gpus)
    if processes == 1:
        return train(config)
    launched = LaunchPayload(config=config, scan=validate_inputs(config, processes))
    return launch(processes, arguments, launched.model_dump_json(), config.max_restarts)


def train(config: TrainConfig, scan: DataScan | None = None) -> int:
    """Train as the only process, or as one of the ranks that a launcher started. Without `scan` the input is validated."""
    local_scan: DataScan | None = None

    def scan_if_node_leader() -> None:
        nonlocal local_scan
        rank = os.environ.get("RANK", "0")
        if scan is None and "0" in (rank, os.environ.get("LOCAL_RANK", "0")):
            local_scan = validate_inputs(config, int(os.environ.get("WORLD_SIZE", "1")), is_main=rank == "0")

    with init_distributed(config.gpus != 0, config.timeout, scan_if_node_leader) as context:
        if context.device.type == "cpu":
            tune_malloc()
            # Set once before the first step: validation sets it too, and MKL's results depend on the number of threads.
            torch.set_num_threads(min(torch.get_num_threads(), NUM_CPUS))
        scan = scan or sync_scan(context, local_scan)
        with graceful_stop(context.is_main and read_payload() is None) as stop_request:
            Trainer(config, scan, context, stop_request).train()
    return 0


def sync_scan(context: DistributedContext, scan: DataScan | None) -> DataScan:
    """Return the scan of this node's leader, whose cache the ranks of the node share.

    Raises InputError if the nodes have different data.
    """
    scans = context.all_gather_object((node_name(), scan))
    node_scan = scan or next((other for name, other in scans if other and name == node_name()), None)
    if not node_scan:
        raise InputError(f"LOCAL_RANK: no process on {node_name()} has 0; that process would have scanned the node's data")
    context.require_same(node_scan.content_ids, "--data: other images, or other unreadable images,")
    return node_scan


def validate_inputs(config: TrainConfig, world_size: int, is_main: bool = True) -> DataScan:
    """Report everything that is wrong with the user's input before the first epoch; return the scan of the data.

    Every node validates its input; on the one with `is_main` the run directory is locked meanwhile. Raises InputError.
    """
    check_output_dir(config.run_dir, "--run")
    data = make_data(config, make_preprocess(config, model_class(str(config.model)).stride))
    network = build_network(config, data.train.labels)
    height, width = (-(-side // network.stride) for side in config.crop or config.size)  # of the deepest level
    rank_batch = config.batch_size // world_size
    if rank_batch and rank_batch < config.accumulate:
        raise InputError(
            f"--accumulate: {config.accumulate} parts, but each process has {rank_batch} samples per step;"
            f" use {rank_batch} or less"
        )
    if height * width * (rank_batch // config.accumulate) == 1:
        raise InputError(
            f"--size: {config.size[0]} {config.size[1]} and one sample per process leave one value per channel for batch norm"
            f" at the deepest level; use a --batch-size of at least {2 * world_size}, or a larger --size"
        )
    if not data.pairing_errors:  # Fail before the scan, which takes minutes; after it the number of samples is final.
        DistributedBatchSampler(len(data.train), config.batch_size, config.seed, 0, world_size)
    with lock_run(config) if is_main and config.run_dir.is_dir() else nullcontext():
        scan = data.scan(config.skip_bad, config.timeout, not is_multi_node())
    DistributedBatchSampler(
        len(data.train) - sum(len(index.bad) for index in scan.train), config.batch_size, config.seed, 0, world_size
    )
    for warning in scan.warnings:
        print(f"warning: {data.train.name}: {warning}", file=sys.stderr, flush=True)
    if scan.skipped:
        print(format_problems(f"--skip-bad: training without {len(scan.skipped)} files", scan.skipped), flush=True)
    return scan
