"""Schemas of query parameters and JSON responses."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, Field, model_validator

from core.checkpoints.checkpoint import CheckpointMetadata, TrainingStage
from core.images.resize import Preprocess
from core.inference.options import InferenceOptions
from service.evaluation.store import Job
from service.inference.pipeline import OutputFormat, OutputOptions, OverlayFormat
from service.inference.registry import LoadedModel, ModelEntry

MODEL_DESCRIPTION = "name of a model, as in GET /models; by default, the default model"
ModelName = Annotated[str | None, Query(description=MODEL_DESCRIPTION)]


class SegmentParameters(BaseModel):
    """Query parameters of `/segment`; unknown ones are refused, because a mistyped one would be ignored silently."""

    model: str | None = Field(None, description=MODEL_DESCRIPTION)
    output: OutputFormat = Field(
        "mask",
        description="mask: indexed PNG; labels: grayscale PNG; overlay: image blended with colors; confidence: grayscale PNG of"
        " the probability of each pixel's class, 255 is 1; json: run lengths",
    )
    format: OverlayFormat = Field("jpeg", description="format of an overlay")
    opacity: float = Field(0.5, ge=0, le=1, description="opacity of the colors of an overlay")
    legend: bool = Field(False, description="add the colors and names of the classes that occur below an overlay")
    resolution: Literal["network", "native"] = Field(
        "network", description="native: at the image's own scale, with a sliding window"
    )
    flip: bool = Field(False, description="horizontal-flip TTA: average with the flipped image, in twice the time")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in values:
            if name not in cls.model_fields:
                (nearest,) = difflib.get_close_matches(name, cls.model_fields, 1, cutoff=0)
                known = ", ".join(cls.model_fields)
                raise ValueError(f"unknown parameter; did you mean {nearest}? The known parameters are {known}")
        return values

    @property
    def options(self) -> OutputOptions:
        """The same parameters, without the model, as the pipeline expects them."""
        inference = InferenceOptions(tiled=self.resolution == "native", hflip_tta=self.flip)
        return OutputOptions(self.output, self.format, self.opacity, self.legend, inference)


class Status(BaseModel):
    """The state of the process."""

    status: Literal["alive", "ready"]


class ClassInfo(BaseModel):
    """A class of a model, and its RGB color."""

    name: str
    color: tuple[int, int, int]


class LabelSpaceInfo(BaseModel):
    """The classes of a model, in the order of the label values."""

    name: str
    classes: list[ClassInfo]


class ModelInfo(BaseModel):
    """A model: metadata of its checkpoint, whether it is loaded, and the error if it can't be used."""

    name: str
    architecture: str | None
    width: int | None
    labels: LabelSpaceInfo | None
    preprocess: Preprocess | None
    data: str | None
    epoch: int | None
    scores: dict[str, float | None] | None
    scored_on: str | None
    stages: list[TrainingStage] | None
    license: str | None
    limitations: str | None
    checkpoint: str | None = Field(description="digest of the checkpoint")
    digest: str | None = Field(description="digest of the served weights: the checkpoint or an exported model beside it")
    backend: str | None
    loaded: bool
    devices: list[str] | None
    error: str | None

    @classmethod
    def create(cls, entry: ModelEntry, loaded: LoadedModel | None) -> ModelInfo:
        """Describe a model of the registry, which is loaded if `loaded` is not None."""
        metadata = entry.metadata
        return cls(
            name=entry.name,
            architecture=metadata and metadata.architecture.name,
            width=metadata and metadata.architecture.width,
            labels=metadata and _describe_labels(metadata),
            preprocess=metadata and metadata.preprocess,
            data=metadata and metadata.data,
            epoch=metadata and metadata.epoch,
            scores=metadata and metadata.scores,
            scored_on=metadata and metadata.scored_on,
            stages=metadata and list(metadata.stages),
            license=metadata and metadata.license,
            limitations=metadata and metadata.limitations,
            checkpoint=entry.checkpoint or None,
            digest=entry.digest or None,
            backend=entry.backend or None,
            loaded=loaded is not None,
            devices=loaded and [segmenter.backend.device for segmenter in loaded.segmenters],
            error=entry.error,
        )


class ModelList(BaseModel):
    """All models, and the name of the default one."""

    default: str
    models: list[ModelInfo]


class DatasetInfo(BaseModel):
    """The splits of the service's dataset."""

    splits: list[str]


class EvaluationList(BaseModel):
    """All evaluations without their reports, newest first."""

    evaluations: list[Job]


def _describe_labels(metadata: CheckpointMetadata) -> LabelSpaceInfo:
    labels = metadata.labels
    classes = [ClassInfo(name=name, color=color) for name, color in zip(labels.names, labels.colors, strict=True)]
    return LabelSpaceInfo(name=labels.name, classes=classes)
