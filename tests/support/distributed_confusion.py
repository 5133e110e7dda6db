"""Evaluate data sets with several batch sizes on all ranks, and save the confusion matrices.

torchrun -m tests.support.distributed_confusion OUTPUT.npz CHECKPOINT DATASET...

For data sets of N images and batches of B, the arrays are named "N B" and "N B per image".
"""

from __future__ import annotations

import os
import sys

import numpy as np

from core.data.datasets import open_dataset
from core.inference.segmenter import Segmenter
from training.distributed.context import init_distributed
from training.engine.validation import evaluate_rank_shard


def main(output: str, checkpoint: str, *directories: str) -> None:
    segmenter = Segmenter(checkpoint, "cpu")
    with init_distributed(use_gpu=False) as context:
        arrays = {}
        for directory in directories:
            dataset = open_dataset(directory, "val")
            for batch_size in (1, 8):
                evaluator = evaluate_rank_shard(segmenter.predict_batch, dataset, batch_size, context)
                context.all_reduce_counts(evaluator)
                arrays[f"{len(dataset)} {batch_size}"] = evaluator.confusion
                arrays[f"{len(dataset)} {batch_size} per image"] = evaluator.per_image
        if context.is_main:
            np.savez(output, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # Gloo's threads can abort a process during a regular interpreter shutdown.
