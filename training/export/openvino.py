"""Artefacts for OpenVINO: a checkpoint's network converted to fp32 or quantised to int8, measured beside its source.

Post-training quantisation is NNCF's: ranges from calibration photographs, the bias corrected layer by layer, and where
that costs more than LOSS_AT_MOST, the layers that cost most stay in fp32.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
import torch
from torch import nn

from core.backends import OPENVINO, TORCH
from core.backends.openvino import OpenVinoBackend
from core.backends.torch_cpu import load_state
from core.checkpoints.checkpoint import Checkpoint, summary
from core.checkpoints.exported import NETWORK, WEIGHTS, ArtefactCard, Precision, beside, write_artefact
from core.data.datasets import Dataset, described
from core.errors import RunError
from core.evaluation import metrics
from core.inference.segmenter import Segmenter
from core.models import build_model
from training.tracking.progress_bar import bar

if TYPE_CHECKING:
    import nncf

LOSS_AT_MOST = 0.005  # of macro IoU of the labelled classes, 0..1
CALIBRATION = 200  # photographs


@dataclass(frozen=True)
class Measured:
    """How an artefact and its source do on the same photographs, 0..1."""

    scores: metrics.Scores
    source_scores: metrics.Scores
    same_pixels: float  # the share of them to which both give the same class
    scored_on: str

    @property
    def loss(self) -> float:
        """What the artefact loses of macro IoU."""
        return (self.source_scores.macro_iou_labelled or 0) - (self.scores.macro_iou_labelled or 0)

    def words(self) -> str:
        """For a terminal."""
        before, after = (100 * (s.macro_iou_labelled or 0) for s in (self.source_scores, self.scores))
        return f"macro IoU {before:.2f} -> {after:.2f}, the same class in {100 * self.same_pixels:.2f} % of the pixels"


def export_fp32(checkpoint: Checkpoint, scored_on: Dataset | None) -> tuple[Path, str, Measured | None]:
    """Write NAME.fp32 beside a checkpoint: its folder, its digest, and how it does on the data where there is some."""
    network = convert(checkpoint)
    measured = measure(checkpoint, network, "fp32", scored_on) if scored_on is not None else None
    return *write_network(checkpoint, "fp32", network, measured), measured


def export_int8(checkpoint: Checkpoint, calibrate_on: Dataset, scored_on: Dataset) -> tuple[Path, str, Measured]:
    """Quantise, and write NAME.int8 beside a checkpoint. Raises RunError where it loses too much to be written."""
    import nncf  # takes two seconds

    network = convert(checkpoint)
    count = min(CALIBRATION, len(calibrate_on))
    places = np.linspace(0, len(calibrate_on) - 1, count).round().astype(int).tolist()
    inputs = nncf.Dataset(places, lambda place: checkpoint.card.preprocess(calibrate_on[place][0])[None])
    quantised = quantise(network, inputs, count)
    measured = measure(checkpoint, quantised, "int8", scored_on)
    if measured.loss > LOSS_AT_MOST:
        print(f"int8: {measured.words()}: too much; looking for the layers that cost it", flush=True)
        quantised = nncf.quantize_with_accuracy_control(
            network,
            inputs,
            nncf.Dataset(range(len(scored_on))),
            validation_fn=_scorer(checkpoint, scored_on),
            max_drop=LOSS_AT_MOST,
            drop_type=nncf.DropType.ABSOLUTE,
            subset_size=count,
            fast_bias_correction=False,
        )
        measured = measure(checkpoint, quantised, "int8", scored_on)
    if measured.loss > LOSS_AT_MOST:
        raise RunError(
            f"int8 is not written: on {measured.scored_on}, {measured.words()}; at most {100 * LOSS_AT_MOST:g} points may be"
            " lost: calibrate on data like that which it was trained on (--data), or serve fp32 (--fp32)"
        )
    calibration = f"{calibrate_on.name} {calibrate_on.split}, {count} of {len(calibrate_on)} images"
    return *write_network(checkpoint, "int8", quantised, measured, calibration), measured


def quantise(network: openvino.Model, inputs: nncf.Dataset, count: int) -> openvino.Model:
    """The network in int8, with ranges measured on `count` of the inputs (1, 3, H, W)."""
    import nncf

    nncf.set_log_level("ERROR")
    # the slow bias correction, which follows the error from layer to layer, loses a tenth of what the fast one does
    return nncf.quantize(network, inputs, subset_size=count, fast_bias_correction=False)


class _Trunk(nn.Module):
    """A network without its padding, which depends on the size that it is traced with: the back end pads."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W), H and W multiples of the stride, to logits (1, K, H, W)."""
        logits: torch.Tensor = self.network.segment(x)  # type: ignore[operator]
        return logits


def convert(checkpoint: Checkpoint) -> openvino.Model:
    """The checkpoint's network for OpenVINO: (1, 3, H, W) float32, any multiples of the stride, to logits."""
    card = checkpoint.card
    network = build_model(card.architecture.name, len(card.labels), card.architecture.width)
    load_state(network, checkpoint)
    side = 4 * network.stride
    with warnings.catch_warnings():  # of the tracer, which the library chooses
        warnings.simplefilter("ignore")
        return openvino.convert_model(
            _Trunk(network.eval()), example_input=torch.zeros(1, 3, side, side), input=[(1, 3, -1, -1)]
        )


def measure(checkpoint: Checkpoint, network: openvino.Model, precision: Precision, dataset: Dataset) -> Measured:
    """Score a converted network and its source on the same photographs."""
    classes = len(dataset.labels)
    both = (around(network.clone(), checkpoint, precision), Segmenter(checkpoint, "cpu", TORCH))
    counts = np.zeros((2, classes, classes + 1), np.int64)
    same = pixels = 0
    for place in bar("scoring", True, range(len(dataset)), unit="image"):
        rgb, labels = dataset[place]
        found = [segmenter.many([rgb], [(labels.shape[0], labels.shape[1])])[0] for segmenter in both]
        counts += [metrics.confusion(labels, predicted, classes) for predicted in found]
        same, pixels = same + int((found[0] == found[1]).sum()), pixels + labels.size
    return Measured(metrics.scores(counts[0]), metrics.scores(counts[1]), same / pixels, described(dataset))


def around(network: openvino.Model | openvino.CompiledModel, checkpoint: Checkpoint, precision: Precision) -> Segmenter:
    """A segmenter of a network that lies nowhere yet."""
    backend = OpenVinoBackend(network, checkpoint.card.preprocess, OPENVINO + precision)
    return Segmenter.around(backend, checkpoint.card.labels)


def _scorer(checkpoint: Checkpoint, dataset: Dataset) -> Callable[[openvino.CompiledModel, Iterable[int]], tuple[float, None]]:
    """Macro IoU of a compiled network on some of the photographs, as NNCF asks for it."""

    def score(compiled: openvino.CompiledModel, places: Iterable[int]) -> tuple[float, None]:
        segmenter, classes = around(compiled, checkpoint, "int8"), len(dataset.labels)
        counts = np.zeros((classes, classes + 1), np.int64)
        for rgb, labels in map(dataset.__getitem__, places):
            (predicted,) = segmenter.many([rgb], [(labels.shape[0], labels.shape[1])])
            counts += metrics.confusion(labels, predicted, classes)
        return float(metrics.scores(counts).macro_iou_labelled or 0), None

    return score


def write_network(
    checkpoint: Checkpoint,
    precision: Precision,
    network: openvino.Model,
    measured: Measured | None,
    calibration: str | None = None,
) -> tuple[Path, str]:
    """Write an artefact beside a checkpoint: its folder and its digest."""
    told: dict[str, Any] = {}
    if measured is not None:
        told = {
            "scores": summary(measured.scores),
            "source_scores": summary(measured.source_scores),
            "same_pixels": measured.same_pixels,
            "scored_on": measured.scored_on,
        }
    packages = ("openvino", "nncf", "torch") if precision == "int8" else ("openvino", "torch")
    made_with = {package: version(package) for package in packages}
    card = ArtefactCard(
        precision=precision,
        source=checkpoint.digest,
        files={},  # told as they are written
        calibration=calibration,
        kept=_kept(network) if precision == "int8" else (),
        made_with=made_with,
        **told,
    )
    folder = beside(checkpoint.path, precision)
    return folder, write_artefact(folder, card, _serialised(network))


def _kept(network: openvino.Model) -> tuple[str, ...]:
    """The convolutions whose weights are not int8."""
    convolutions = [n for n in network.get_ordered_ops() if n.get_type_name() in ("Convolution", "ConvolutionBackpropData")]
    plain = [n for n in convolutions if n.input_value(1).get_node().get_type_name() == "Constant"]
    return tuple(node.get_friendly_name() for node in plain)


def _serialised(network: openvino.Model) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, NETWORK)
        openvino.save_model(network, path, compress_to_fp16=False)
        return {name: path.with_name(name).read_bytes() for name in (NETWORK, WEIGHTS)}
