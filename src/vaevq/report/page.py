"""The report of a run: one HTML file that needs no other, made of the files in the run folder alone."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from vaevq.files import write_text
from vaevq.report import sections
from vaevq.report.codebook_section import codebook
from vaevq.report.diagnostics import diagnostics
from vaevq.report.markup import escape
from vaevq.report.picture_sections import extremes, pictures
from vaevq.report.run_folder import RunFolder

_SECTIONS = (
    ("pictures", "Pictures", pictures),
    ("extremes", "Worst and best", extremes),
    ("codebook", "Codebook", codebook),
    ("curves", "Curves", sections.curves),
    ("why", "Why: latents, codebook and gradients", diagnostics),
    ("figures", "Figures", sections.figures),
    ("comparison", "Comparison", sections.comparison),
    ("data", "Data", sections.data),
    ("configuration", "Configuration", sections.configuration),
    ("reproduce", "How to reproduce", sections.reproduce),
    ("next", "What to do next", sections.next_steps),
)


def write_report(run_dir: Path) -> Path:
    """Writes run_dir/report.html; of a run that is not finished, with what there is.

    Raises:
        UserError: `run_dir` is no run folder, a file in it is damaged, or the report cannot be written.
    """
    run = RunFolder.read(run_dir)
    bodies = [(anchor, heading, section(run)) for anchor, heading, section in _SECTIONS]
    path = run_dir / "report.html"
    write_text(path, whole_page(sections.title(run), sections.head(run), bodies))
    return path


def whole_page(title: str, head: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """A page that needs no other file, with links to its sections; an empty one is left out.

    Args:
        title: plain text.
        head: HTML above the links.
        sections: the anchor, the heading and the HTML of each.
    """
    shown = [section for section in sections if section[2]]
    links = "\n".join(f'<a href="#{anchor}">{heading}</a>' for anchor, heading, _ in shown)
    parts = [head, f'<nav aria-label="Sections">\n{links}\n</nav>', "<main>"]
    parts += [f'<section id="{anchor}">\n<h2>{heading}</h2>\n{body}\n</section>' for anchor, heading, body in shown]
    template = Template(files("vaevq.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(title), body="\n".join([*parts, "</main>"]))
