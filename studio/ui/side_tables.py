"""Comparisons as HTML: scores, pictures, strength by checkpoint, the report in a frame."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from markupsafe import Markup, escape

from studio.evaluation.meanings import meaning
from studio.evaluation.plots import tag
from studio.store import Run
from studio.ui import side_by_side
from studio.ui.blind_pairs import BASE, calls, previews, spoken
from studio.ui.library_thumbs import inline
from studio.ui.side_by_side import Row
from studio.ui.side_choice import POINTS, Candidate, Choice

LARGEST = 6 * 2**20  # bytes of a report that is shown inside the page
WEAR = """const wear = () => {  // the page's light or dark, which a frame of nobody's origin does not inherit
  const dark = document.body.classList.contains('dark'), look = dark ? 'dark' : 'light';
  for (const frame of element.querySelectorAll('iframe')) {
    frame.report ??= frame.srcdoc;
    if (frame.look === look) continue;
    frame.look = look;
    frame.srcdoc = frame.report.replaceAll('(prefers-color-scheme: dark)', dark ? 'all' : 'not all')
      .replaceAll(/((?:color-scheme: |name="color-scheme" content="))light dark/g, `$1${look}`);
  }
};
new MutationObserver(wear).observe(element, {childList: true, subtree: true});
new MutationObserver(wear).observe(document.body, {attributes: true, attributeFilter: ['class']});
wear();"""
CSS = """
.sheet { overflow-x: auto; contain: inline-size; }
.sheet table { border-collapse: collapse; font-variant-numeric: tabular-nums; border: 0; margin: 0; }
.sheet tr { border: 0; }
.sheet caption { text-align: left; padding: 0 .6rem .4rem; font-size: .875rem; color: var(--body-text-color-subdued); }
.sheet th, .sheet td { border: 0; padding: .35rem .6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--border-color-primary); min-width: 7.5rem; }
.sheet tbody th { max-width: 15rem; } .sheet th small { font-weight: 400; line-height: 1.35; }
.note { font-size: .875rem; color: var(--body-text-color-subdued); max-width: 46rem; margin: .4rem 0; }
.sheet th { font-weight: 600; } .sheet small { color: var(--body-text-color-subdued); display: block; }
.sheet .best { font-weight: 700; } .sheet .picked { outline: 3px solid var(--color-accent); outline-offset: -3px; }
.sheet img { display: block; width: 8rem; max-width: 40vw; height: auto; image-rendering: auto; border-radius: 4px; }
.plot { display: block; width: 100%; max-width: 44rem; height: auto; } .plot path { fill: none; }
.plot text { fill: var(--body-text-color-subdued); font-size: 12px; } .plot .label { fill: var(--body-text-color); }
.plot .grid { stroke: var(--border-color-primary); } .plot .axis { stroke: var(--body-text-color-subdued); }
.plot .front { stroke: var(--body-text-color-subdued); stroke-dasharray: 5 4; }
.plot .bar { stroke: var(--color-accent); stroke-width: 1.3; opacity: .55; } .plot .dot { fill: var(--color-accent); }
.plot .dot.base { fill: var(--body-text-color-subdued); }
"""


def rows_of(cells: Iterable[Iterable[Markup]]) -> Markup:
    """Table rows."""
    return Markup("").join(tag("tr", Markup("").join(row)) for row in cells)


def sheet(head: Sequence[str], body: Iterable[Iterable[Markup]], about: str) -> str:
    """A table that scrolls sideways on a phone. about: what it is, for those who hear it."""
    first = tag("tr", Markup("").join(tag("th", name, scope="col") for name in head))
    inner = tag("caption", about) + tag("thead", first) + tag("tbody", rows_of(body))
    return str(tag("div", tag("table", inner), class_="sheet", tabindex="0", role="region", aria_label=about))


def scores(names: Sequence[str], rows: Sequence[Row]) -> str:
    """The runs' scores, a column per run."""

    def cells(row: Row) -> Iterable[Markup]:
        said = Markup("").join(tag("small", text) for text in (meaning(row.name), row.warning) if text)
        yield tag("th", escape(row.name) + said, scope="row")
        for value, change, best in row.cells:
            beside = tag("small", f"{change} to base") if change else Markup("")
            yield tag("td", escape(value) + beside, class_="best" if best else "")

    head = ["score", *names]
    bold = "; the best of each row is bold" if any(best for row in rows for _, _, best in row.cells) else ""
    return sheet(head, map(cells, rows), f"Scores with 95 % intervals{bold}")


def strip(folders: Sequence[Path], runs: Path, most: int = 8) -> str:
    """The last previews of runs beside each other, a row per prompt and seed; before them the base model's
    of the first run that has it.
    """
    made = [Run(folder) for folder in folders]
    columns, called = [dict(previews(run, base=False)) for run in made], [calls(run) for run in made]
    before = {key: shown for run in reversed(made) for key, shown in previews(run, base=True)}
    keys = list(dict.fromkeys(key for column in columns for key in column))[:most]

    def cells(key: tuple[str, str, str]) -> Iterable[Markup]:
        words = spoken(key[1], [column[key].words for column in columns if key in column], called)
        yield tag("th", escape(words) + tag("small", f"seed {key[2]}"), scope="row")
        for name, column in zip([BASE, *(f.name for f in folders)], [before, *columns], strict=True):
            shown = column.get(key)
            yield tag("td", image(shown.path, runs, f"{name}: {words}") if shown else "-")

    return sheet(["prompt", BASE, *(f.name for f in folders)], map(cells, keys), "Last previews") if keys else ""


def image(path: Path, runs: Path, words: str) -> Markup:
    """A small picture; its words for those who do not see it."""
    source = inline(path, runs)
    return Markup('<img src="{}" alt="{}">').format(source, words) if source else Markup("-")


def grid(choice: Choice, runs: Path, prompt: int = 0, seed: str = "") -> str:
    """Strength by checkpoint: a picture of one prompt and seed in each cell, the recommended one framed."""
    seed = seed or next(iter(choice.seeds()), "")

    def cell(one: Candidate | None) -> Markup:
        if one is None:
            return tag("td", "-")
        path = choice.picture(one, prompt, seed)
        words = f"step {one.step}, strength {one.strength:g}"
        picture = image(path, runs, words) if path else Markup("")
        kind = "picked" if one.picked else ""
        mark = tag("strong", "recommended") if one.picked else Markup("")
        return tag("td", picture + mark + tag("small", one.line()), class_=kind)

    def cells(strength: float) -> Iterable[Markup]:
        yield tag("th", f"strength {strength:g}", scope="row")
        yield from (cell(choice.at(step, strength)) for step in choice.steps)

    if not choice.candidates:
        return ""
    head = ["", *(f"step {step}" for step in choice.steps)]
    asked = choice.asked(prompt)
    return sheet(head, map(cells, choice.strengths), f"{asked}, seed {seed}") + note(POINTS)


def plane(folders: Sequence[Path], across: str | None, upwards: str | None) -> str:
    """The plot of two scores with what it says in words; "" where they are not both there."""
    drawn = side_by_side.pareto(folders, across, upwards) if across and upwards else ""
    return f"{drawn}{note(side_by_side.best(folders, across or '', upwards or ''))}" if drawn else ""


def unscored(folders: Sequence[Path]) -> str:
    """What to do about runs without scores."""
    return note("None of these runs has scores yet: press Evaluate.") if folders else ""


def note(words: str) -> str:
    """A sentence."""
    return str(tag("p", words, class_="note")) if words else ""


def frame(report: Path) -> str:
    """A report inside the page, where it can run nothing and reach nothing; a sentence for one that is too large."""
    try:
        size = report.stat().st_size
        if size > LARGEST:
            return str(tag("p", f"The report has {size / 2**20:.0f} MiB: download it to read it."))
        inner = report.read_text("utf-8")
    except (OSError, ValueError):
        return ""
    style = "width: 100%; height: 70vh; border: 1px solid var(--border-color-primary); border-radius: 6px;"
    return str(tag("iframe", "", srcdoc=inner, sandbox="", title=f"report of {report.parent.name}", style=style))
