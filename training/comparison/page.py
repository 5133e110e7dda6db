"""Write the comparison: a page that opens without a server, the same in Markdown, figures as PNG and SVG, numbers as JSON."""

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

from core.runtime.atomic import write_atomically
from training.comparison import text
from training.comparison.figures import CAPTIONS
from training.comparison.schema import Comparison

FIGURES_DIR, SUFFIXES = "figures", ("png", "svg")


@dataclass(frozen=True)
class EmbeddedFigure:
    """A figure as the page embeds it."""

    name: str
    caption: str
    data_url: str  # so that the page needs no other file


def write_report(comparison: Comparison, figures: Iterable[tuple[str, str, Figure]], out_dir: Path) -> None:
    """Write all files of the comparison into a directory, each file atomically, the page last.

    Args:
        figures: Name, caption and figure.
    """
    (out_dir / FIGURES_DIR).mkdir(parents=True, exist_ok=True)
    embedded = {name: _save_figure(name, caption, figure, out_dir) for name, caption, figure in figures}
    for name in CAPTIONS.keys() - embedded.keys():
        for suffix in SUFFIXES:  # left by an earlier comparison in the same directory
            (out_dir / FIGURES_DIR / f"{name}.{suffix}").unlink(missing_ok=True)
    write_atomically(out_dir / "report.json", [comparison.model_dump_json(indent=2).encode() + b"\n"])
    environment = Environment(
        loader=PackageLoader("training.comparison", "."), autoescape=select_autoescape(), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["cell"] = lambda value: value.replace("|", "\\|").replace("<", "&lt;")  # in a Markdown table
    title, paragraphs = text.alternative_section(comparison)
    variables = {
        "c": comparison,
        "figures": embedded,
        "figures_dir": FIGURES_DIR,
        "tables": text.tables(comparison),
        "notes": text.notes(comparison),
        "text": text,
        "alternative": {"title": title, "paragraphs": paragraphs},
    }
    for template, name in (("page.md", "report.md"), ("page.html", "index.html")):
        write_atomically(out_dir / name, [environment.get_template(template).render(variables).encode()])


def _save_figure(name: str, caption: str, figure: Figure, out_dir: Path) -> EmbeddedFigure:
    """Write a figure as PNG and SVG, and embed the SVG unless the PNG is much smaller."""
    png, svg = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_figure(png, format="png", dpi=110)
    figure.set_layout_engine("none")  # keeps the layout, which takes a third of the time
    with matplotlib.rc_context({"svg.hashsalt": name}):  # makes the ids in the file reproducible
        FigureCanvasSVG(figure).print_figure(svg, format="svg", metadata={"Date": None})
    for suffix, file in zip(SUFFIXES, (png, svg), strict=True):
        write_atomically(out_dir / FIGURES_DIR / f"{name}.{suffix}", [file.getvalue()])
    media_type, smaller = ("png", png) if len(png.getvalue()) < len(svg.getvalue()) / 2 else ("svg+xml", svg)
    data = base64.b64encode(smaller.getvalue()).decode()
    return EmbeddedFigure(name, caption, f"data:image/{media_type};base64,{data}")
