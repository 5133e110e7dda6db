"""One training run: what it is made of, and its epochs from the first, or from where it stopped, to the last."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Adam

from core import metrics
from core.backends.torch_ import TorchBackend, load_state, to_tensors
from core.checkpoint import Architecture, Card, find_checkpoint, read_checkpoint, summary
from core.datasets import Dataset
from core.errors import InputError
from core.models import Network, build_model
from core.segmenter import Segmenter
from core.transforms import Preprocess
from training import state
from training.augment import RECIPES
from training.board import Board, picture_strip
from training.config import TrainConfig
from training.curves import draw_curves
from training.data import open_training_data
from training.distributed import World
from training.loading import AugmentedDataset, EpochBatches, make_loader
from training.loop import Epoch, Validation, learning_rates, score_columns, train_epoch, validate, wrap
from training.run_folder import Row, RunFolder

SLOW_WIDTH = 32  # above it a step takes seconds on a CPU


def new_network(config: TrainConfig, dataset: Dataset) -> Network:
    """The network with fresh weights from the seed, or with those of --init. Raises InputError."""
    torch.manual_seed(config.seed)
    network = build_model(str(config.model), len(dataset.labels), config.width)
    if config.init and not (config.resume and RunFolder(config.run_folder).can_resume):
        name, path = find_checkpoint(config.init)
        source = read_checkpoint(path, name)
        if source.card.architecture != Architecture(name=str(config.model), width=config.width):
            theirs = source.card.architecture
            raise InputError(f"--init: {path} is a {theirs.name} of width {theirs.width}, not a {config.model} of width"
                             f" {config.width}; train with --model {theirs.name} --width {theirs.width}")  # fmt: skip
        load_state(network, source, new_head=source.card.labels.names != dataset.labels.names)
    return network


class Run:
    """Everything that a run needs, on this rank; every rank trains and counts, the main one writes."""

    def __init__(self, config: TrainConfig, world: World) -> None:
        self.config, self.world = config, world
        self.train_set, self.val_set = open_training_data(str(config.data))
        network = new_network(config, self.train_set)
        recipe = RECIPES[config.augment]
        self.preprocess = Preprocess(mode=recipe.mode, size=config.size, stride=network.stride)
        self.batches = EpochBatches(len(self.train_set), config.batch_size, config.seed, world.rank, world.ranks)
        samples = AugmentedDataset(self.train_set, recipe(self.preprocess, config.scale), self.preprocess, config.seed)
        self.loader = make_loader(samples, self.batches, config.worker_count)
        self.network = place(network, world)
        self.optimizer = Adam(self.network.parameters(), lr=config.learning_rate, fused=True)
        # validation runs what the service runs, on the network in memory
        self.segmenter = Segmenter(TorchBackend(self.network, world.device), self.preprocess, self.train_set.labels)
        self.folder = RunFolder(config.run_folder)
        self.best = float("-inf")

    def train(self) -> None:
        """Train to the last epoch: steps, an evaluation and a checkpoint for each."""
        first = self.start()
        wrapped = wrap(self.network, self.world)
        board = Board(self.folder.tensorboard, first) if self.world.main else None
        classes, epochs = len(self.train_set.labels), self.config.epochs
        for epoch in range(first, epochs + 1):
            self.batches.epoch = epoch
            title = f"epoch {epoch}/{epochs}"
            rates = learning_rates(self.config.schedule, self.config.learning_rate, epoch, epochs, len(self.batches))
            trained = train_epoch(
                wrapped, self.optimizer, self.loader, rates, classes, self.config.batch_size, self.world, title
            )
            self.world.share_buffers(self.network)
            self.network.eval()
            validated = validate(self.segmenter, self.val_set, self.config.batch_size, self.world)
            if board:
                self.record(epoch, trained, validated, board)
            self.world.barrier()
        if self.world.main and first > epochs:
            print(f"{self.folder.path}: has its {epochs} epochs already; a larger --epochs goes on", flush=True)
        if board:
            board.close()
            print(f"done: {self.folder.checkpoints / 'best.safetensors'}", flush=True)

    def start(self) -> int:
        """The first epoch to run: 1, or the one after those that a resume file holds. Raises RunError."""
        epoch = 0
        kept = self.folder.load_resume(warn=self.world.main) if self.config.resume else None
        if kept:
            epoch, self.best = state.unpack(*kept, self.network, self.optimizer)
        if self.world.main:
            if self.config.resume:
                told = f"going on after epoch {epoch}" if kept else "nothing was written yet; starting from the beginning"
                print(f"{self.folder.path}: {told}", flush=True)
            self.folder.create(self.config)
            self.folder.cut_history(epoch)
            self.announce()
        self.world.barrier()
        return epoch + 1

    def record(self, epoch: int, trained: Epoch, validated: Validation, board: Board) -> None:
        """Write everything that an epoch leaves: checkpoint, history row, resume file, curves, TensorBoard."""
        labels, config = self.train_set.labels, self.config
        scores = metrics.scores(validated.tally.confusion, labels)
        card = Card(
            architecture=Architecture(name=str(config.model), width=config.width),
            labels=labels,
            preprocess=self.preprocess,
            data=self.train_set.name,
            epoch=epoch,
            scores=summary(scores),
        )
        # of the classes that occur: one stray pixel of an absent class should not choose the checkpoint
        score = scores.macro_iou_labelled or 0.0
        better, self.best = score > self.best, max(score, self.best)
        self.folder.save_epoch(epoch, card, to_tensors(self.network), better, config.keep)
        row: Row = {
            "epoch": epoch,
            "train_loss": trained.loss,
            "val_loss": validated.loss,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_s": trained.images_per_s,
            "seconds": trained.seconds,
            **score_columns(scores, "val_"),
            **score_columns(metrics.scores(trained.confusion, labels), "train_running_"),
        }
        self.folder.append_history(row)
        self.folder.save_resume(epoch, 0, *state.pack(self.network, self.optimizer, epoch, self.best))
        title = f"{self.folder.path.name}: {config.model}, width {config.width}"
        draw_curves(self.folder.read_history(), title, self.folder.path / "curves.png")
        board.write(row, picture_strip(self.segmenter, self.val_set))
        print(
            f"epoch {epoch}/{config.epochs}  loss {trained.loss:.4f}  val loss {validated.loss:.4f}"
            f"  macro IoU {scores.macro_iou or 0:.3f}  {trained.images_per_s:.1f} images/s" + "  best so far" * better,
            flush=True,
        )

    def announce(self) -> None:
        """Tell what is about to happen."""
        config, world = self.config, self.world
        weights = sum(p.numel() for p in self.network.parameters())
        gpu = world.device.type == "cuda"
        devices = f"{world.ranks} x {torch.cuda.get_device_name()}" if gpu else f"the CPU, {world.ranks} process(es)"
        print(f"{config.model}, width {config.width}: {weights:,} parameters, on {devices}")
        if not gpu and config.width > SLOW_WIDTH:
            print(f"a CPU takes long for width {config.width}: --width 16 has a sixteenth of the arithmetic")
        counts = f"{len(self.train_set)} training and {len(self.val_set)} validation images"
        print(f"data: {self.train_set.name}, {counts}, {len(self.train_set.labels)} classes")
        if self.batches.dropped:
            print(f"each epoch drops its last {self.batches.dropped} samples: less than a batch of {config.batch_size}")
        if world.ranks > 1 and not gpu:
            print("batch norm: each process normalises its own share (torch has no SyncBatchNorm on a CPU)")
        print(f"run folder: {config.run_folder}  (tensorboard --logdir {config.run_folder.parent})", flush=True)


def place(network: Network, world: World) -> nn.Module:
    """The network on its device; batch norm is taken over all ranks where torch can (on GPUs)."""
    bare: nn.Module = network
    if world.ranks > 1 and world.device.type == "cuda":
        bare = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return bare.to(device=world.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
