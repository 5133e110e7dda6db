"""The comparison as files: a page that opens from disk, the same in Markdown, figures as PNG and SVG, numbers as JSON."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from core.runtime.files import write_atomically
from training.comparison import figures as plots
from training.comparison import grids, words
from training.comparison.document import Comparison
from training.comparison.tables import tables

FIGURES, SUFFIXES = "figures", ("png", "svg")


@dataclass(frozen=True)
class Picture:
    """A figure on disk, and how the page shows it."""

    name: str
    caption: str
    source: str  # of the image: a data URL, so that the page needs no other file


def write(comparison: Comparison, figures: Iterable[tuple[str, str, Figure]], out: Path) -> None:
    """Write everything into a folder, each file atomically, the page last."""
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    pictures = [_save(name, caption, figure, out) for name, caption, figure in figures]
    for name in (plots.CAPTIONS | grids.CAPTIONS).keys() - {picture.name for picture in pictures}:
        for suffix in SUFFIXES:  # of an earlier comparison in the same folder
            (out / FIGURES / f"{name}.{suffix}").unlink(missing_ok=True)
    write_atomically(out / "report.json", [comparison.model_dump_json(indent=2).encode() + b"\n"])
    environment = Environment(
        loader=PackageLoader("training.comparison", "."), autoescape=select_autoescape(), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["cell"] = lambda text: text.replace("|", "\\|").replace("<", "&lt;")  # in a Markdown table
    title, about = words.about_definition(comparison)
    facts = {
        "c": comparison,
        "pictures": {picture.name: picture for picture in pictures},
        "tables": tables(comparison),
        "notes": words.notes(comparison),
        "words": words,
        "definition": {"title": title, "about": about},
        "figures": FIGURES,
    }
    for template, name in (("page.md", "report.md"), ("page.html", "index.html")):
        write_atomically(out / name, [environment.get_template(template).render(facts).encode()])


def _save(name: str, caption: str, figure: Figure, out: Path) -> Picture:
    png, svg = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_figure(png, format="png", dpi=110)
    with matplotlib.rc_context({"svg.hashsalt": name}):  # the same names inside at every run
        FigureCanvasSVG(figure).print_figure(svg, format="svg", metadata={"Date": None})
    for suffix, data in zip(SUFFIXES, (png, svg), strict=True):
        write_atomically(out / FIGURES / f"{name}.{suffix}", [data.getvalue()])
    kind, shown = ("png", png) if len(png.getvalue()) < len(svg.getvalue()) / 2 else ("svg+xml", svg)
    return Picture(name, caption, f"data:image/{kind};base64,{base64.b64encode(shown.getvalue()).decode()}")
