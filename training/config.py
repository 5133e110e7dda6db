"""The configuration of a training run: one typed model, filled from flags, environment, a file and defaults."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from core.errors import InputError, did_you_mean, first_fault
from core.models import MODELS
from core.runtime.cpu import CORES

PREFIX = "TRAIN_"
# what a resumed run may change: how long it goes on (a cosine then ends there) and what it runs on
FREE_AT_RESUME = {"epochs", "patience", "gpus", "workers", "cache", "skip_bad", "keep", "checkpoint_every", "resume", "run"}
MOVABLE = {"data"}  # what a flag may change, and the environment not: the pictures may lie elsewhere now
FREE_AT_RESUME |= {"checkpoint_activations", "max_restarts", "timeout", "export"}


def _known_model(name: str) -> str:
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    return name


def _two_numbers(value: Any) -> Any:
    """`256 256`, `256x256` or `[256, 256]` from the environment."""
    return value.replace("x", " ").replace(",", " ").strip("[]() ").split() if isinstance(value, str) else value


Side = Annotated[int, Field(ge=8, le=4096)]
Factor = Annotated[float, Field(ge=0.1, le=10, allow_inf_nan=False)]


class TrainConfig(BaseSettings):
    """What `train` is told; `config.json` of a run holds the same. The description of a field is its flag's help."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", env_ignore_empty=True)

    model: Annotated[str, AfterValidator(_known_model)] | None = Field(None, description=f"architecture: {', '.join(MODELS)}")
    data: str | None = Field(None, description="data folder (Cityscapes or plain layout), or `synthetic`")
    epochs: int = Field(200, ge=1, le=100_000, description="passes over the training split")
    batch_size: int = Field(8, ge=1, le=65_536, description="samples a step, over all GPUs together")
    size: Annotated[tuple[Side, Side], NoDecode, BeforeValidator(_two_numbers)] = Field(
        (256, 256), description="height and width of the network's input, in pixels"
    )
    width: int = Field(64, ge=1, le=1024, description="channels of the first level; 16 is the size for a CPU")
    augment: Literal["street", "classic"] = Field(
        "street", description="street: scale, crop, flip, colours; classic: stretch, flip, quarter turns"
    )
    scale: Annotated[tuple[Factor, Factor], NoDecode, BeforeValidator(_two_numbers)] = Field(
        (0.5, 2.0), description="range of street's random scale, relative to the picture fitted to --size"
    )
    aspect: Annotated[tuple[Factor, Factor], NoDecode, BeforeValidator(_two_numbers)] = Field(
        (1.0, 1.0), description="range of street's random change of aspect ratio, a factor on width / height"
    )
    resize: Literal["fit", "stretch"] | None = Field(
        None,
        description="how an image becomes the network's input: fit keeps its aspect ratio, stretch resizes it to --size"
        " (default: fit for street, stretch for classic)",
    )
    jitter: float = Field(
        0.3, ge=0, lt=1, allow_inf_nan=False,
        description="of street: brightness, contrast and saturation are each changed by up to this share",
    )  # fmt: skip
    loss: Literal["ce", "dice", "ce+dice"] = Field("ce", description="cross-entropy, soft Dice, or their sum")
    class_weights: Literal["none", "data"] = Field(
        "none", description="of cross-entropy; data: 1 / ln(1.02 + the class's share of the training pixels)"
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, allow_inf_nan=False, description="of Adam")
    weight_decay: float = Field(
        0, ge=0, allow_inf_nan=False, description="share by which weights shrink in a step, times the learning rate (AdamW)"
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine: the learning rate falls to zero over the run, which short runs gain from"
    )
    warmup: float = Field(0, ge=0, allow_inf_nan=False, description="epochs in which the learning rate rises from zero")
    clip: float | None = Field(None, gt=0, allow_inf_nan=False, description="longest gradient (2-norm); not cut where not told")
    accumulate: int = Field(1, ge=1, le=4096, description="parts in which a batch goes through, for less memory")
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of a moving average of the weights, which is then what is evaluated and served"
    )
    patience: int | None = Field(None, ge=1, description="stop after so many epochs without a better score")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="bf16: mixed precision; auto takes it where the GPU or CPU has units for it (and is slower without)"
    )
    compile: bool = Field(False, description="torch.compile the network, for GPUs")
    checkpoint_activations: bool = Field(
        False, description="compute r2unet's recurrent blocks again in the backward pass: half the memory"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of weights, order and augmentation")
    init: str | None = Field(None, description="checkpoint to start from; its head is replaced where classes differ")
    run: str | None = Field(None, description="run folder, runs/MODEL where not told")
    resume: bool = Field(False, description="go on with the run in the run folder")
    keep: int | None = Field(
        None, ge=1, description="keep the checkpoints of the newest KEEP epochs (and the best); all where not told"
    )
    export: Literal["none", "fp32"] = Field(
        "none", description="fp32: beside each best checkpoint its network for OpenVINO, which a service without torch serves"
    )
    checkpoint_every: int | None = Field(None, ge=1, description="steps after which to save inside an epoch too")
    gpus: int | None = Field(None, ge=0, description="GPUs to use, all visible ones where not told; 0: the CPU")
    workers: int | None = Field(None, ge=0, le=256, description="threads that read and augment, for each GPU")
    cache: str | None = Field(
        None, description="folder for the decoded pictures, .cache beside the run folder where not told; none: read the files"
    )
    skip_bad: bool = Field(False, description="train without the files that can't be used")
    max_restarts: int = Field(3, ge=0, description="restarts from the newest checkpoint when a process of several GPUs dies")
    timeout: float = Field(1800, gt=0, le=86_400, description="seconds after which a process that hangs is an error")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment; `load_config` puts the file's values below both."""
        return init_settings, env_settings

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
            raise ValueError("--checkpoint-activations: torch can't compile it; leave out that or --compile")
        if self.resize == "fit" and self.augment == "classic":
            raise ValueError("--resize fit: classic augmentation resizes every image to --size; choose --augment street")
        if self.loss == "dice" and self.class_weights != "none":
            raise ValueError("--class-weights: Dice has none; leave it out, or say --loss ce+dice")
        return self

    @property
    def command(self) -> str:
        """The command line that trains the same, but for the folders: nothing of it names this machine."""
        words = ["python", "-m", "training", "train"]
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value == field.get_default() or name in FREE_AT_RESUME - {"epochs", "patience", "skip_bad"}:
                continue
            words.append(f"--{name.replace('_', '-')}")
            if name == "data" and value != "synthetic":
                value = Path(value).resolve().name
            elif name == "init" and Path(value).exists():  # a run's folder, or the file in it, with the folder's own
                parts = Path(value).resolve().parts
                value = "/".join(parts[-4:] if parts[-2] == "checkpoints" else parts[-2:])
            words += [] if value is True else map(str, value if isinstance(value, tuple) else (value,))
        return shlex.join(words)

    @property
    def run_folder(self) -> Path:
        """Where the run lives."""
        return Path(self.run or f"runs/{self.model}")

    @property
    def cache_folder(self) -> Path | None:
        """Where decoded pictures are kept; None where the files are read every time."""
        if self.cache == "none":
            return None
        return Path(self.cache) if self.cache else self.run_folder.parent / ".cache"

    @property
    def worker_count(self) -> int:
        """Loader threads for each rank."""
        return min(4, CORES) if self.workers is None else self.workers


def load_config(flags: dict[str, Any], file: Path | None = None) -> TrainConfig:
    """Build the configuration; precedence is flag, environment, file, default.

    Raises InputError of one line that names the flag, the environment variable or the file's key.
    """
    from_file = _read_file(file) if file else {}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name.removeprefix(PREFIX).lower() not in TrainConfig.model_fields:
            close = did_you_mean(name, [PREFIX + key.upper() for key in TrainConfig.model_fields])
            print(f"warning: {name}: no setting of that name{close}", file=sys.stderr)
    in_environment = {key for key in TrainConfig.model_fields if os.environ.get(PREFIX + key.upper())}
    try:
        return TrainConfig(**{**{k: v for k, v in from_file.items() if k not in in_environment}, **flags})
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # of several settings together: the message names them
            raise InputError(first_fault(error)) from None
        key = str(first["loc"][0])
        if key in flags:
            where = "--" + key.replace("_", "-")
        elif key in in_environment:
            where = PREFIX + key.upper()
        else:
            where = f"{file}: {key}"
        given = "" if first["type"] in ("missing", "extra_forbidden", "value_error") else f" (got {first['input']!r})"
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{where}: {message}{given}") from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except OSError as error:
        raise InputError(f"--config: {path}: can't be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"--config: {path}: expected a JSON object of settings ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f'--config: {path}: expected a JSON object of settings, such as {{"epochs": 50}}')
    settings = {key.replace("-", "_"): value for key, value in values.items()}  # as the flags are spelt, or the variables
    for key in settings.keys() - TrainConfig.model_fields.keys():
        close = did_you_mean(key.replace("_", "-"), [name.replace("_", "-") for name in TrainConfig.model_fields])
        raise InputError(f"{path}: {key}: no setting of that name{close}")
    return settings


def settle(config: TrainConfig, flags: set[str]) -> TrainConfig:
    """The configuration that the run goes by: where a run is resumed, its own `config.json` rules.

    Only `flags` can contradict it; what the environment or a file says for every run does not.

    Raises InputError: nothing told what to train, a folder that holds a run, a setting that a resumed run can't change.
    """
    if config.model is None and (config.run is None or not config.resume):
        raise InputError(f"--model: missing; known: {', '.join(MODELS)}")
    saved_file = config.run_folder / "config.json"
    begun = holds_run(config.run_folder)
    if config.resume and saved_file.exists():
        return _merge(config, flags, TrainConfig.model_construct(**_plain(saved_file)), begun)
    if begun and config.resume:
        raise InputError(f"{saved_file}: missing, and the folder holds a run; bring it back, or choose another --run")
    require_new(config.run_folder)
    if config.model is None:
        raise InputError(f"--run: no run in {config.run_folder}; to begin one say --model ({', '.join(MODELS)}) and --data")
    if config.data is None:
        raise InputError("--data: missing; a Cityscapes folder, a folder with classes.json, or `synthetic`")
    return config


def holds_run(folder: Path) -> bool:
    """Whether something was saved in a run folder."""
    return any(folder.glob("*/*.safetensors"))


def require_new(folder: Path) -> None:
    """Raise InputError where a folder holds a run."""
    if holds_run(folder):
        raise InputError(f"{folder}: holds a run; go on with --resume, or choose another folder with --run")


def _plain(saved_file: Path) -> dict[str, Any]:
    try:
        saved = json.loads(saved_file.read_text(encoding="utf-8"))["config"]
        # what an older program did not save has its default, not what the environment says today
        values = TrainConfig.model_validate({**{n: f.get_default() for n, f in TrainConfig.model_fields.items()}, **saved})
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = first_fault(error) if isinstance(error, ValidationError) else str(error)
        raise InputError(f"{saved_file}: can't be read as a run's configuration ({reason})") from None
    return values.model_dump()


def _merge(config: TrainConfig, flags: set[str], saved: TrainConfig, begun: bool) -> TrainConfig:
    if not begun:  # no epoch was finished: nothing that a flag could contradict
        return _updated(saved, config, flags)
    for key in sorted(flags - FREE_AT_RESUME - MOVABLE):
        if getattr(config, key) != getattr(saved, key):
            raise InputError(
                f"--{key.replace('_', '-')}: the run in {config.run_folder} has {getattr(saved, key)!r}, not"
                f" {getattr(config, key)!r}; leave it out, or start another run with --run"
            )
    for key in sorted(config.model_fields_set - flags - FREE_AT_RESUME):
        ours, theirs = getattr(saved, key), getattr(config, key)
        if ours != theirs:
            print(f"warning: {key.replace('_', '-')}: the run has {ours!r} and keeps it; the environment or --config says"
                  f" {theirs!r}", file=sys.stderr)  # fmt: skip
    return _updated(saved, config, config.model_fields_set & FREE_AT_RESUME | flags & MOVABLE)


def _updated(saved: TrainConfig, config: TrainConfig, keys: set[str]) -> TrainConfig:
    """The saved configuration with some settings of the new one, in the folder where it was found: it may have moved."""
    values = {**saved.model_dump(), **{key: getattr(config, key) for key in keys}, "run": str(config.run_folder)}
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(first_fault(error)) from None
