"""The configuration of a training run: one typed model, filled from flags, environment, a file and defaults."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_serializer, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from core.checkpoints.legacy import upgrade_run_config
from core.errors import InputError, did_you_mean, first_validation_error
from core.images.limits import MAX_PIXELS
from core.models import MODELS
from core.runtime.cpu import NUM_CPUS
from core.runtime.environment import is_set_by_kubernetes

PREFIX = "TRAIN_"
RUN_SCHEMA = 2  # of a run directory's `config.json`
# Settings that a resumed run may change: its length (a cosine schedule then ends there) and what it runs on.
RESUME_MUTABLE = {
    *("epochs", "patience", "gpus", "workers", "cache", "skip_bad", "max_pixels", "keep", "checkpoint_every", "resume", "run"),
    *("checkpoint_activations", "max_restarts", "timeout", "export", "resume_schedule"),
}
SAVED_DEFAULTS = {"jpeg": "full"}  # what earlier versions did that did not save the setting
RESUME_MUTABLE_BY_FLAG = {"data"}  # Only by a flag, not by the environment: the images may have been moved.


def _known_model(name: str) -> str:
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    return name


def _two_numbers(value: Any) -> Any:
    """Split `256 256`, `256x256` or `[256, 256]`, as an environment variable specifies a pair."""
    return value.replace("x", " ").replace(",", " ").strip("[]() ").split() if isinstance(value, str) else value


def _one_or_several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Side = Annotated[int, Field(ge=8, le=4096)]
Factor = Annotated[float, Field(ge=0.1, le=10, allow_inf_nan=False)]


class TrainConfig(BaseSettings):
    """Settings of the `train` command, also saved in a run's `config.json`. A field's description is its flag's help."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", env_ignore_empty=True)

    model: Annotated[str, AfterValidator(_known_model)] | None = Field(None, description=f"architecture: {', '.join(MODELS)}")
    data: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_one_or_several)] | None = Field(
        None,
        min_length=1,
        description="data directories (Cityscapes or plain layout; the first one determines the classes), or `synthetic`",
    )
    extra_classes: Literal["error", "void"] = Field(
        "error",
        description="what to do with classes of further data directories that the first one lacks; void: ignore their pixels",
    )
    train_split: str = Field("train", description="split to train on")
    val_split: str | None = Field(None, description="split to evaluate on (default: val, valid or validation)")
    val_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="fraction of the training split to evaluate on instead of training on it, for data without a validation"
        " split; whole directories of images if there are several",
    )
    label_ids: Literal["auto", "train"] = Field(
        "auto", description="values of the label files; auto: by file name and classes.json; train: train ids 0, 1, ..."
    )
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="maximum number of pixels of an image; larger ones are unusable")
    epochs: int = Field(200, ge=1, le=100_000, description="number of passes over the training split")
    batch_size: int = Field(8, ge=1, le=65_536, description="samples per step, summed over all GPUs")
    size: Annotated[tuple[Side, Side], NoDecode, BeforeValidator(_two_numbers)] = Field(
        (256, 256), description="height and width of the network's input in pixels"
    )
    crop: Annotated[tuple[Side, Side], NoDecode, BeforeValidator(_two_numbers)] | None = Field(
        None, description="height and width of the training crops of street augmentation in pixels (default: --size)"
    )
    width: int = Field(64, ge=1, le=1024, description="channels of the first level; 16 suits a CPU")
    augment: Literal["street", "classic"] = Field(
        "street", description="augmentation; street: scale, crop, flip, color jitter; classic: stretch, flip, quarter turns"
    )
    scale: Annotated[tuple[Factor, Factor], NoDecode, BeforeValidator(_two_numbers)] = Field(
        (0.5, 2.0), description="range of the random scale of street augmentation, relative to the image resized to --size"
    )
    aspect: Annotated[tuple[Factor, Factor], NoDecode, BeforeValidator(_two_numbers)] = Field(
        (1.0, 1.0), description="range of the random aspect ratio change of street augmentation, a factor on width / height"
    )
    resize: Literal["fit", "stretch"] | None = Field(
        None,
        description="resizing of an image to the network's input: fit keeps the aspect ratio, stretch does not"
        " (default: fit for street, stretch for classic)",
    )
    jpeg: Literal["reduced", "full"] = Field(
        "reduced",
        description="decoding of JPEGs in validation and by the checkpoint's users; reduced: at 1/2, 1/4 or 1/8 of the size if"
        " that is not below the network's input size, which is faster",
    )
    jitter: float = Field(
        0.3,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="maximum relative change of brightness, contrast and saturation by street augmentation",
    )
    loss: Literal["ce", "dice", "ce+dice"] = Field("ce", description="cross-entropy, soft Dice, or their sum")
    class_weights: Literal["none", "sqrt", "data"] = Field(
        "none",
        description="class weights of the cross-entropy; data: 1 / ln(1.02 + fraction of the training pixels); sqrt: the square"
        " root of that",
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, allow_inf_nan=False, description="Adam learning rate")
    weight_decay: float = Field(
        0, ge=0, allow_inf_nan=False, description="decoupled weight decay (AdamW), not applied to biases and batch norm"
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="learning-rate schedule; cosine falls to zero over the run, an advantage in short runs"
    )
    warmup: float = Field(0, ge=0, allow_inf_nan=False, description="epochs of linear learning-rate warmup from zero")
    resume_schedule: Literal["continue", "restart"] = Field(
        "continue",
        description="learning rate of a resumed run with more --epochs; continue: one cosine over all epochs; restart: a new"
        " warmup and cosine over the added ones",
    )
    clip: float | None = Field(None, gt=0, allow_inf_nan=False, description="maximum gradient norm (default: no clipping)")
    accumulate: int = Field(1, ge=1, le=4096, description="gradient accumulation: parts of a batch, to reduce memory")
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of the exponential moving average of the weights that is evaluated and saved (default: no average)",
    )
    patience: int | None = Field(
        None, ge=1, description="epochs without a better score before early stopping (default: no early stopping)"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="compute precision; bf16: mixed precision; auto: bf16 on devices with bf16 units, else fp32"
    )
    compile: bool = Field(False, description="torch.compile the network, for GPUs")
    checkpoint_activations: bool = Field(
        False, description="recompute r2unet's recurrent blocks in the backward pass: half the memory"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="random seed of initialization, shuffling and augmentation")
    init: str | None = Field(
        None, description="checkpoint of the initial weights; if the classes differ, the head is reinitialized"
    )
    run: str | None = Field(None, description="run directory (default: runs/MODEL)")
    resume: bool = Field(False, description="resume the run in the run directory")
    keep: int | None = Field(None, ge=1, description="number of newest epochs whose checkpoints are kept (default: all)")
    export: Literal["none", "fp32"] = Field(
        "none", description="fp32: export each best checkpoint to OpenVINO, for a service without torch"
    )
    checkpoint_every: int | None = Field(
        None, ge=1, description="steps between saves within an epoch (default: save after each epoch)"
    )
    gpus: int | None = Field(None, ge=0, description="number of GPUs; 0: the CPU (default: all visible GPUs)")
    workers: int | None = Field(None, ge=0, le=256, description="loader threads per GPU (default: number of CPUs, at most 4)")
    cache: str | None = Field(
        None,
        description="directory for decoded images; none: no cache, read the files in each epoch"
        " (default: .cache beside the run directory)",
    )
    skip_bad: bool = Field(False, description="skip files that can't be used")
    max_restarts: int = Field(3, ge=0, description="maximum restarts from the newest checkpoint after a GPU process dies")
    timeout: float = Field(1800, gt=0, le=86_400, description="seconds before a process that hangs is an error")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Give flags precedence over the environment; `load_config` adds the file's values with the lowest precedence."""
        return init_settings, env_settings

    @field_serializer("data", when_used="json")
    def _single_as_string(self, data: tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        """Serialize a single directory as a string, as all versions of `config.json` have it."""
        return data[0] if data and len(data) == 1 else data

    @field_validator("scale", "aspect")
    @classmethod
    def _rising(cls, factors: tuple[float, float]) -> tuple[float, float]:
        if factors[0] > factors[1]:
            raise ValueError("the first factor must not be larger than the second")
        return factors

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"--accumulate: {self.accumulate} parts of a batch of {self.batch_size}; choose a divisor")
        if self.checkpoint_activations and self.model not in (None, "r2unet"):
            raise ValueError(f"--checkpoint-activations: {self.model} has no recurrent steps; it is for r2unet")
        if self.checkpoint_activations and self.compile:
            raise ValueError("--checkpoint-activations: torch can't compile recomputed blocks; remove it or --compile")
        if self.crop and self.augment == "classic":
            raise ValueError("--crop: classic augmentation does not crop; omit it, or choose --augment street")
        if self.resize == "fit" and self.augment == "classic":
            raise ValueError("--resize fit: classic augmentation resizes every image to --size; choose --augment street")
        if self.val_fraction and self.val_split:
            raise ValueError("--val-fraction: holds out a part of the training split, so it can't be combined with --val-split")
        if self.loss == "dice" and self.class_weights != "none":
            raise ValueError("--class-weights: the Dice loss has none; remove it, or use --loss ce+dice")
        return self

    @property
    def command(self) -> str:
        """The command line that repeats this training; directories are shortened, so that it does not identify the host."""
        from core.checkpoints.checkpoint import bundled_checkpoints  # imports numpy, which `--help` does not need

        arguments = ["python", "-m", "training", "train"]
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value == field.get_default() or name in RESUME_MUTABLE - {"epochs", "patience", "skip_bad"}:
                continue
            arguments.append(f"--{name.replace('_', '-')}")
            if name == "data":
                value = tuple(source if source == "synthetic" else Path(source).resolve().name for source in value)
            elif name == "init" and (Path(value).exists() or value not in bundled_checkpoints()):
                # A run directory, or a file in it, which may be gone when the run is resumed.
                parts = Path(value).resolve().parts
                value = "/".join(parts[-4:] if parts[-2] == "checkpoints" else parts[-2:])
            arguments += [] if value is True else map(str, value if isinstance(value, tuple) else (value,))
        return shlex.join(arguments)

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return Path(self.run or f"runs/{self.model}")

    @property
    def cache_dir(self) -> Path | None:
        """The directory of decoded images; None if the files are read in each epoch."""
        if self.cache == "none":
            return None
        return Path(self.cache) if self.cache else self.run_dir.parent / ".cache"

    @property
    def worker_count(self) -> int:
        """The number of loader threads per rank."""
        return min(4, NUM_CPUS) if self.workers is None else self.workers


def load_config(flags: dict[str, Any], file: Path | None = None) -> TrainConfig:
    """Build the configuration; precedence is flag, environment, file, default.

    Raises InputError with one line that names the flag, the environment variable or the file's key.
    """
    from_file = _read_file(file) if file else {}
    for name, value in sorted(os.environ.items()):
        is_known = name.removeprefix(PREFIX).lower() in TrainConfig.model_fields
        if name.startswith(PREFIX) and not is_known and not is_set_by_kubernetes(name, value):
            close = did_you_mean(name, [PREFIX + key.upper() for key in TrainConfig.model_fields])
            raise InputError(f"{name}: unknown setting{close}; correct or unset the environment variable")
    in_environment = {key for key in TrainConfig.model_fields if os.environ.get(PREFIX + key.upper())}
    settings = {key: value for key, value in from_file.items() if key not in in_environment}
    if "data" in in_environment:  # Several directories are separated as in PATH.
        settings["data"] = [path for path in os.environ[PREFIX + "DATA"].split(os.pathsep) if path]
    try:
        return TrainConfig(**{**settings, **flags})
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # An error in the combination of several settings; the message names them.
            raise InputError(first_validation_error(error)) from None
        key = str(first["loc"][0])
        if key in flags:
            source = "--" + key.replace("_", "-")
        elif key in in_environment:
            source = PREFIX + key.upper()
        else:
            source = f"{file}: {key}"
        given = "" if first["type"] in ("missing", "extra_forbidden", "value_error") else f" (got {first['input']!r})"
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{source}: {message}{given}") from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))  # Some editors write a byte order mark.
    except OSError as error:
        raise InputError(f"--config: {path}: can't be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"--config: {path}: expected a JSON object of settings ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f'--config: {path}: expected a JSON object of settings, such as {{"epochs": 50}}')
    settings = {key.replace("-", "_"): value for key, value in values.items()}  # Keys may be spelled like the flags.
    for key in settings.keys() - TrainConfig.model_fields.keys():
        close = did_you_mean(key.replace("_", "-"), [name.replace("_", "-") for name in TrainConfig.model_fields])
        raise InputError(f"{path}: {key}: unknown setting{close}")
    return settings


def resolve_config(config: TrainConfig, flags: set[str]) -> TrainConfig:
    """Return the configuration of the run; for a resumed run, that of its own `config.json`, updated.

    A setting of `flags` that contradicts a resumed run is an error. A setting of the environment or of a file, which may
    apply to all runs, only prints a warning.

    Raises InputError: no model or data specified, a directory that contains a run, a setting that a resumed run can't change.
    """
    if config.model is None and (config.run is None or not config.resume):
        raise InputError(f"--model: missing; known: {', '.join(MODELS)}")
    saved_file = config.run_dir / "config.json"
    has_checkpoint = holds_run(config.run_dir)
    if config.resume and saved_file.exists():
        return _merge(config, flags, TrainConfig.model_construct(**_read_saved_config(saved_file)), has_checkpoint)
    if has_checkpoint and config.resume:
        raise InputError(f"{saved_file}: missing from a run directory; restore it, or choose another directory with --run")
    require_new(config.run_dir)
    if config.model is None:
        raise InputError(f"--run: no run in {config.run_dir}; to start one, specify --model ({', '.join(MODELS)}) and --data")
    if config.data is None:
        raise InputError("--data: missing; expected a Cityscapes directory, a directory with classes.json, or `synthetic`")
    return config


def holds_run(directory: Path) -> bool:
    """Return whether a run directory contains a checkpoint or a resume file."""
    return any(directory.glob("*/*.safetensors"))


def require_new(directory: Path) -> None:
    """Raise InputError if a directory already contains a run."""
    if holds_run(directory):
        raise InputError(f"{directory}: already contains a run; add --resume, or choose another directory with --run")


def read_run_config(run_dir: Path) -> dict[str, Any]:
    """Return a run directory's `config.json`, version 1 upgraded; empty if there is no such file. Raises InputError."""
    path = run_dir / "config.json"
    try:
        return upgrade_run_config(dict(json.loads(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from None
    except (ValueError, TypeError):
        raise InputError(f"{path}: not the configuration of a run; choose another directory with --run") from None


def _read_saved_config(saved_file: Path) -> dict[str, Any]:
    try:
        saved = read_run_config(saved_file.parent)["config"]
        # A setting that an older version did not save gets its default, not today's environment variable.
        defaults = {name: field.get_default() for name, field in TrainConfig.model_fields.items()} | SAVED_DEFAULTS
        values = TrainConfig.model_validate({**defaults, **saved})
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        reason = first_validation_error(error) if isinstance(error, ValidationError) else str(error)
        raise InputError(f"{saved_file}: can't be read as a run's configuration ({reason})") from None
    return values.model_dump()


def _merge(config: TrainConfig, flags: set[str], saved: TrainConfig, has_checkpoint: bool) -> TrainConfig:
    if not has_checkpoint:  # Nothing was trained yet that a flag could contradict.
        return _updated(saved, config, flags)
    for key in sorted(flags - RESUME_MUTABLE - RESUME_MUTABLE_BY_FLAG):
        if getattr(config, key) != getattr(saved, key):
            raise InputError(
                f"--{key.replace('_', '-')}: the run in {config.run_dir} has {getattr(saved, key)!r}, not"
                f" {getattr(config, key)!r}; remove the flag, or start another run with --run"
            )
    saved_values, values = saved.model_dump(mode="json"), config.model_dump(mode="json")
    for key in sorted(config.model_fields_set - flags - RESUME_MUTABLE):
        saved_value, value = saved_values[key], values[key]
        if saved_value != value:
            print(
                f"warning: {key.replace('_', '-')}: the run keeps {saved_value!r}; {value!r} of the environment or --config"
                " is ignored",
                file=sys.stderr,
            )
    return _updated(saved, config, config.model_fields_set & RESUME_MUTABLE | flags & RESUME_MUTABLE_BY_FLAG)


def _updated(saved: TrainConfig, config: TrainConfig, keys: set[str]) -> TrainConfig:
    """Return the saved configuration with some settings of the new one and the run directory's current path."""
    values = {**saved.model_dump(), **{key: getattr(config, key) for key in keys}, "run": str(config.run_dir)}
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(first_validation_error(error)) from None
