"""Evaluations of several data sets and batch sizes shared by all ranks; rank 0 saves the counts. Run by test_distributed."""

import os
import sys

import numpy as np

from core.data.datasets import open_dataset
from core.inference.segmenter import Segmenter
from training.distributed.context import join
from training.engine.validation import count_share


def main(path: str, checkpoint: str, *folders: str) -> None:
    segmenter = Segmenter(checkpoint, "cpu")
    with join(use_gpu=False) as world:
        counts = {}
        for folder in folders:
            dataset = open_dataset(folder, "val")
            for batch in (1, 8):
                tally = count_share(segmenter.many, dataset, batch, world)
                world.add_tally(tally)
                counts[f"{len(dataset)} {batch}"] = tally.confusion
                counts[f"{len(dataset)} {batch} each"] = tally.per_image
        if world.main:
            np.savez(path, **counts)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # as the command does: gloo's threads now and then abort a process that is being taken down
