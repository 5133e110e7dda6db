"""The words of a comparison's page: what its tables and figures show, and how far the verdicts reach."""

from __future__ import annotations

from core.evaluation.bootstrap import MANY
from core.evaluation.report import EARLIER
from training.comparison.contestants import SEEDS
from training.comparison.document import Comparison

FEW_PAIRS = 3

ABOUT_SCORES = (
    "In percent, with 95 % intervals; a dash where the pictures don't tell. Under argmax each of the five micro scores follows"
    " from the pixel accuracy and the number of classes alone, so they tell no more than it does; the macro ones are means over"
    " classes. The micro IoU is not what the field calls mIoU: that is the macro IoU."
)
ABOUT_CHECKPOINTS = (
    f"Sentences about single models are about these checkpoints. They say nothing about architectures unless each has {SEEDS}"
    " seeds or more (train --seed 1, --seed 2, ...): two trainings that differ by their seed alone differ, too."
)
ABOUT_COSTS = (
    "Measured on this machine. A GFLOP is 1e9 operations, a multiplication and an addition being two, for one picture as it"
    " enters the network. Training is a step of 8 images at the size that the model was trained at: forward, backward, update."
    " Inference is from a photograph in memory to its label map, one at a time, the models in turn. Memory is the peak of a"
    " process that does nothing else, libraries included."
)
ABOUT_EXAMPLES = (
    "Chosen by rule: the pictures whose IoU (mean of the models) is highest, lowest and nearest the median; below, those on"
    " which the models differ on the largest share of the pixels. Void is black in the label; the models say something there,"
    " and it counts nowhere."
)
ABOUT_EARLIER = (
    "Earlier tables of this family of projects give a pixel a class where its softmax is over 0.5, not by argmax, and count at"
    " the network's size instead of the label's. Under a threshold the micro scores do tell models apart. Both definitions"
    " stand below, so that such tables can be set beside them.",
    "One thing is not repeated: they count void as road. A pixel that nobody labelled is not road; counting it as road rewards"
    " a model for whatever it says there, and counts the bonnet of the filming car. Here void counts nowhere, as the data sets"
    " define it, in both rows. So the published figures are comparable with the earlier definition only roughly, and only where"
    " it is Cityscapes val that was scored, at 256x256. Their IoU is a micro one, not what the field calls mIoU.",
)


def about_definition(c: Comparison) -> tuple[str, tuple[str, ...]]:
    """Title and text of the part that shows the other definition of the scores."""
    definition = c.models[0].otherwise.definition
    if definition == EARLIER:
        return "The earlier definition of the scores", ABOUT_EARLIER
    return f"Scores by another definition: {definition.words() or 'exact'}", ()


def streets(c: Comparison) -> str:
    """How many drives or cities there are, as far as the folders tell."""
    return f"{c.drives} drives or cities" if c.drives != 1 else "one drive, city or folder"


def speaks_of_checkpoints_alone(c: Comparison) -> bool:
    """Whether a pair of checkpoints is told apart that is in no pair of architectures."""
    grouped = {name for members in c.architectures.values() for name in members}
    return bool(c.pairs) and (not c.architecture_pairs or any(model.name not in grouped for model in c.models))


def notes(c: Comparison) -> list[str]:
    """How far the verdicts reach."""
    found = [f"The intervals come from the counts of each picture, resampled in {_drawn(c.block_lengths)}."]
    if c.drives < MANY:
        found.append(f"The pictures are of {streets(c)}: the intervals tell how the scores would change with more pictures of"
                     " the same kind, not on other streets.")  # fmt: skip
    if c.split == "val":
        found.append("A training's best epoch is chosen on its val split, so on those pictures it scores a little better than"
                     " on others.")  # fmt: skip
    kinds = {model.report.checkpoint.backend for model in c.models}
    if len(kinds) > 1:
        found.append(f"The models ran by different back ends ({', '.join(sorted(kinds))}), each as it would be served; with"
                     " --backend torch all run alike.")  # fmt: skip
    for name, members in c.architectures.items():
        found.append(f"{name}, one recipe, {len(members)} seeds: {', '.join(members)}.")
    if speaks_of_checkpoints_alone(c):
        found.append(ABOUT_CHECKPOINTS)
    if len(c.pairs) > FEW_PAIRS:
        found.append("Each interval holds for its own pair; among many, about one in twenty misses the true difference.")
    return found


def _drawn(lengths: tuple[int, int] | None) -> str:
    alike = "frames of a film are alike, and count for less than as many independent ones"
    if lengths is None:
        return f"whole drives or cities: {alike}"
    if lengths == (1, 1):
        return "single pictures: neighbours are no more alike than others in what is scored"
    return f"blocks of consecutive pictures, {lengths[0]} to {lengths[1]} for the scores, by how alike neighbours are: {alike}"
