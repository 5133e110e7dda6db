"""OpenVINO exports of a checkpoint: its network converted to fp32 or quantized to int8, and scored beside the checkpoint.

Post-training quantization uses NNCF: activation ranges from calibration images, and a bias correction layer by layer. If it
costs more than MAX_MIOU_DROP, the layers that cost most stay in fp32.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import openvino
import torch

from core.backends.base import OPENVINO, TORCH, network_inputs
from core.backends.openvino import OpenVinoBackend
from core.checkpoints.checkpoint import Checkpoint, headline_scores
from core.checkpoints.exported import BIN_FILE, XML_FILE, ExportManifest, Precision, export_dir, write_exported_model
from core.data.datasets import Dataset, describe_dataset
from core.errors import TrainingError
from core.evaluation import metrics
from core.inference.segmenter import Segmenter
from training.export.network import NetworkWithoutPadding
from training.tracking.progress_bar import progress_bar

if TYPE_CHECKING:
    import nncf

MAX_MIOU_DROP = 0.005  # of the mIoU of the labeled classes, 0..1
CALIBRATION_IMAGES = 200


@dataclass(frozen=True)
class ExportScores:
    """Scores of an exported model and of its checkpoint on the same images, 0..1."""

    scores: metrics.Scores
    checkpoint_scores: metrics.Scores
    pixel_agreement: float  # fraction of the pixels to which both assign the same class
    scored_on: str

    @property
    def miou_drop(self) -> float:
        """The mIoU of the labeled classes that the export loses."""
        return (self.checkpoint_scores.miou_present or 0) - (self.scores.miou_present or 0)

    def describe(self) -> str:
        """Format the scores for a message."""
        before, after = (100 * (s.miou_present or 0) for s in (self.checkpoint_scores, self.scores))
        return f"mIoU {before:.2f} -> {after:.2f}, pixel agreement {100 * self.pixel_agreement:.2f} %"


def export_fp32(checkpoint: Checkpoint, dataset: Dataset | None) -> tuple[Path, str, ExportScores | None]:
    """Write the exported model NAME.fp32 beside a checkpoint; return its directory, its digest and its scores on `dataset`."""
    model = convert(checkpoint)
    scores = measure(checkpoint, model, "fp32", dataset) if dataset is not None else None
    directory, digest = write_model(checkpoint, "fp32", model, scores)
    return directory, digest, scores


def export_int8(checkpoint: Checkpoint, calibration_set: Dataset, dataset: Dataset) -> tuple[Path, str, ExportScores]:
    """Quantize a checkpoint's network and write NAME.int8 beside it; return its directory, its digest and its scores.

    If the mIoU on `dataset` drops by more than MAX_MIOU_DROP, the layers that cost most are kept in fp32.

    Raises:
        TrainingError: The mIoU still drops by more; nothing is written.
    """
    # NNCF imports torch's compiler for extensions, which warns about a computer with CUDA's compiler and without a GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    import nncf  # takes two seconds

    model = convert(checkpoint)
    count = min(CALIBRATION_IMAGES, len(calibration_set))
    indices = np.linspace(0, len(calibration_set) - 1, count).round().astype(int).tolist()
    preprocess = checkpoint.metadata.preprocess

    def network_input(index: int) -> npt.NDArray[np.float32]:
        return next(network_inputs(preprocess.resize(calibration_set[index][0])[None], preprocess))

    inputs = nncf.Dataset(indices, network_input)
    quantized = quantize(model, inputs, count)
    scores = measure(checkpoint, quantized, "int8", dataset)
    if scores.miou_drop > MAX_MIOU_DROP:
        print(f"int8: {scores.describe()}: the drop is too large; searching for the layers to keep in fp32", flush=True)
        quantized = nncf.quantize_with_accuracy_control(
            model,
            inputs,
            nncf.Dataset(range(len(dataset))),
            validation_fn=_validation_function(checkpoint, dataset),
            max_drop=MAX_MIOU_DROP,
            drop_type=nncf.DropType.ABSOLUTE,
            subset_size=count,
            fast_bias_correction=False,
        )
        scores = measure(checkpoint, quantized, "int8", dataset)
    if scores.miou_drop > MAX_MIOU_DROP:
        raise TrainingError(
            f"int8 is not written: on {scores.scored_on}, {scores.describe()}; the mIoU may drop by {100 * MAX_MIOU_DROP:g}"
            " points at most: calibrate on data like the training data (--data), or export fp32 (--fp32)"
        )
    calibration = f"{calibration_set.name} {calibration_set.split}, {count} of {len(calibration_set)} images"
    directory, digest = write_model(checkpoint, "int8", quantized, scores, calibration)
    return directory, digest, scores


def quantize(model: openvino.Model, inputs: nncf.Dataset, count: int) -> openvino.Model:
    """Return the model in int8, with activation ranges measured on `count` inputs (1, 3, H, W)."""
    import nncf

    # Not nncf.set_log_level, which also sets the level of handlers that others attached to this logger.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    # The slow bias correction, which follows the error from layer to layer, loses a tenth of what the fast one loses.
    return nncf.quantize(model, inputs, subset_size=count, fast_bias_correction=False)


def convert(checkpoint: Checkpoint) -> openvino.Model:
    """Convert a checkpoint's network: input (1, 3, H, W) float32, H and W multiples of the stride, to logits."""
    side = 4 * checkpoint.metadata.preprocess.stride
    with warnings.catch_warnings():  # The tracer that OpenVINO selects is deprecated.
        warnings.simplefilter("ignore")
        return openvino.convert_model(
            NetworkWithoutPadding(checkpoint), example_input=torch.zeros(1, 3, side, side), input=[(1, 3, -1, -1)]
        )


def measure(checkpoint: Checkpoint, model: openvino.Model, precision: Precision, dataset: Dataset) -> ExportScores:
    """Score a converted model and its checkpoint on the same images."""
    num_classes = len(dataset.labels)
    segmenters = (make_segmenter(model.clone(), checkpoint, precision), Segmenter(checkpoint, "cpu", TORCH))
    confusion = np.zeros((2, num_classes, num_classes + 1), np.int64)
    equal = pixels = 0
    for index in progress_bar("scoring", True, range(len(dataset)), unit="image"):
        rgb, labels = dataset[index]
        predicted = [segmenter.predict_batch([rgb], [(labels.shape[0], labels.shape[1])])[0] for segmenter in segmenters]
        confusion += [metrics.confusion_matrix(labels, label_map, num_classes) for label_map in predicted]
        equal, pixels = equal + int((predicted[0] == predicted[1]).sum()), pixels + labels.size
    return ExportScores(metrics.scores(confusion[0]), metrics.scores(confusion[1]), equal / pixels, describe_dataset(dataset))


def make_segmenter(model: openvino.Model | openvino.CompiledModel, checkpoint: Checkpoint, precision: Precision) -> Segmenter:
    """Return a segmenter that runs a model in memory."""
    backend = OpenVinoBackend(model, checkpoint.metadata.preprocess, OPENVINO + precision)
    return Segmenter.from_backend(backend, checkpoint.metadata.labels)


def _validation_function(
    checkpoint: Checkpoint, dataset: Dataset
) -> Callable[[openvino.CompiledModel, Iterable[int]], tuple[float, None]]:
    """Return the function by which NNCF obtains the mIoU of a compiled model on some images."""

    def score(compiled: openvino.CompiledModel, indices: Iterable[int]) -> tuple[float, None]:
        segmenter, num_classes = make_segmenter(compiled, checkpoint, "int8"), len(dataset.labels)
        confusion = np.zeros((num_classes, num_classes + 1), np.int64)
        for rgb, labels in map(dataset.__getitem__, indices):
            (predicted,) = segmenter.predict_batch([rgb], [(labels.shape[0], labels.shape[1])])
            confusion += metrics.confusion_matrix(labels, predicted, num_classes)
        return float(metrics.scores(confusion).miou_present or 0), None

    return score


def write_model(
    checkpoint: Checkpoint,
    precision: Precision,
    model: openvino.Model,
    scores: ExportScores | None,
    calibration: str | None = None,
) -> tuple[Path, str]:
    """Write an exported model beside its checkpoint; return its directory and its digest."""
    measured: dict[str, Any] = {}
    if scores is not None:
        measured = {
            "scores": headline_scores(scores.scores),
            "checkpoint_scores": headline_scores(scores.checkpoint_scores),
            "pixel_agreement": scores.pixel_agreement,
            "scored_on": scores.scored_on,
        }
    packages = ("openvino", "nncf", "torch") if precision == "int8" else ("openvino", "torch")
    manifest = ExportManifest(
        precision=precision,
        checkpoint_digest=checkpoint.digest,
        files={},  # filled in by write_exported_model
        calibration=calibration,
        fp32_layers=_fp32_layers(model) if precision == "int8" else (),
        package_versions={package: version(package) for package in packages},
        **measured,
    )
    directory = export_dir(checkpoint.path, precision)
    return directory, write_exported_model(directory, manifest, _serialize(model))


def _fp32_layers(model: openvino.Model) -> tuple[str, ...]:
    """Return the names of the convolutions whose weights are not int8."""
    convolutions = [n for n in model.get_ordered_ops() if n.get_type_name() in ("Convolution", "ConvolutionBackpropData")]
    unquantized = [n for n in convolutions if n.input_value(1).get_node().get_type_name() == "Constant"]
    return tuple(node.get_friendly_name() for node in unquantized)


def _serialize(model: openvino.Model) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, XML_FILE)
        openvino.save_model(model, path, compress_to_fp16=False)
        return {name: path.with_name(name).read_bytes() for name in (XML_FILE, BIN_FILE)}
