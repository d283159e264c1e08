"""The page's pictures: every prompt with its seeds beside the base model, checkpoints by strength, nearest pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from os.path import normpath
from pathlib import Path

from studio.evaluation.page_kinds import by_kind, kind, twins
from studio.evaluation.page_pictures import Album, count
from studio.evaluation.page_private import clean, last, said
from studio.evaluation.page_roles import Cast, headline, varied
from studio.evaluation.page_shots import Gallery, Grid, Prompt, Set, Shot, Twins
from studio.evaluation.page_words import number, places
from studio.evaluation.records import Evaluation, Made, Pair, Source

PAIRS, GRIDS, HERO = 12, 3, 4  # at most: nearest pairs, prompts of the strength x checkpoint grid, pictures on top


@dataclass
class Maker:
    """Builds the gallery. numbered: whether the tables name these pictures; marks: each one's main scores."""

    evaluation: Evaluation
    cast: Cast
    folder: Path
    album: Album
    numbered: bool = True
    marks: dict[int, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("identity", "prompt"):
            for source in [*([self.cast.base] if self.cast.base else []), *self.cast.others]:
                score = headline(self.evaluation, key, source.label)
                if score is not None and score.about.per == "picture":
                    for index, value in zip(score.pictures, score.values, strict=False):
                        text = f"{clean(score.about.name)} {number(value, places(score))}"
                        self.marks.setdefault(index, []).append(text)

    def shot(self, index: int) -> Shot:
        """A made picture."""
        made = self.evaluation.pictures[index]
        missing = self.evaluation.settings.get("missing", {})
        words = missing.get(made.file, ()) if isinstance(missing, Mapping) else ()
        return Shot(
            self.album[self.place(made)],
            f"{clean(made.source)}: {said(made.prompt)}, seed {made.seed}",
            clean(made.source),
            f"No\N{NO-BREAK SPACE}{index + 1}" if self.numbered else "",
            tuple(self.marks.get(index, [])),
            tuple(said(str(word)) for word in words),
        )

    def place(self, made: Made) -> Path:
        """Where its file is; a path that leads out of the folder is no file of ours."""
        path = self.folder / made.file
        return path if path.resolve().is_relative_to(self.folder.resolve()) else self.folder / "outside"

    def found(self, name: str, *beside: str) -> Path:
        """Where a picture of the data set is, by the name the data set has for it; beside: sister folders to try."""
        folders = [value for key, value in self.evaluation.config.items() if key.endswith("data.folder") and value]
        homes = [Path(str(folder)).expanduser().absolute() for folder in folders]
        around = [*(home.parent / other for home in homes for other in beside), *homes, self.folder]
        there = [path for home in around if (path := Path(normpath(home / name))).is_relative_to(home)]
        there += [home for home in homes if home.name == name]
        return next((path for path in there if path.is_file()), self.folder / "gone" / name)

    def heroes(self) -> list[tuple[str, list[tuple[Path, str]]]]:
        """(name, files with their words): references, and what base model and adapter made of the first prompts."""
        rows = [("What it should look like", [(self.found(name, "reference"), f"reference {last(name)}")
                                              for name in self.evaluation.references[:HERO]])]  # fmt: skip
        for source in [*([self.cast.base] if self.cast.base else []), *([self.cast.main] if self.cast.main else [])]:
            firsts: dict[str, tuple[Path, str]] = {}
            for made in self.evaluation.pictures:
                if made.source == source.label and made.set != "class":
                    words = f"{clean(made.source)}: {said(made.prompt)}, seed {made.seed}"
                    firsts.setdefault(made.template, (self.place(made), words))
            rows.append((clean(source.label), list(firsts.values())[:HERO]))
        return rows

    def nearest(self) -> list[Pair]:
        """The pairs of the sources that are shown, the most similar first."""
        names = {source.label for source in self.cast.shown}
        mine = [p for p in self.evaluation.pairs if self.evaluation.pictures[p.picture].source in names]
        known = [pair for pair in mine if not math.isnan(pair.similarity)]
        return sorted(known, key=lambda pair: (-pair.similarity, pair.picture))

    def by_seed(self) -> dict[str, dict[str, dict[int, dict[str, int]]]]:
        """Numbers of pictures by set, template, seed and source, of what is shown in the sets' grids."""
        names = [source.label for source in self.sources()]
        found: dict[str, dict[str, dict[int, dict[str, int]]]] = {}
        for index, made in enumerate(self.evaluation.pictures):
            if made.source in names:
                row = found.setdefault(made.set, {}).setdefault(made.template, {}).setdefault(made.seed, {})
                row[made.source] = index
        return found

    def sources(self) -> list[Source]:
        """Those with a place in the sets' grids."""
        return [*([self.cast.base] if self.cast.base else []), *self.cast.shown]

    def tries(self) -> list[tuple[str, str, int]]:
        """(set, template, seed) of the strength x checkpoint grids: prompts that call the subject, of all sets."""
        if not varied(self.cast.others):
            return []
        by_set = {name: templates for name, templates in self.by_seed().items() if name != "class"}
        firsts = [[(name, template, min(seeds)) for template, seeds in rows.items()] for name, rows in by_set.items()]
        return [row for rank in zip_longest(*firsts) for row in rank if row is not None][:GRIDS]

    def wanted(self) -> Iterator[Path]:
        """Files by importance: top of the page, pairs, then each prompt's first seed, its second, ..."""
        pictures = self.evaluation.pictures
        yield from (file for _, row in self.heroes() for file, _ in row)
        for pair in self.nearest()[:PAIRS]:
            yield from (self.place(pictures[pair.picture]), self.found(pair.training))
        prompts = [seeds for templates in self.by_seed().values() for seeds in templates.values()]
        for rank in zip_longest(*(list(seeds.values()) for seeds in prompts)):
            yield from (self.place(pictures[index]) for row in rank if row for index in row.values())

    def set(self, name: str, templates: Mapping[str, Mapping[int, Mapping[str, int]]]) -> Set:
        """One set."""
        order = [source.label for source in self.sources()]
        prompts, used = [], []
        for seeds in templates.values():
            rows = [(seed, [row[label] for label in order if label in row]) for seed, row in sorted(seeds.items())]
            used += [index for _, row in rows for index in row]
            seen = [(seed, row) for seed, row in rows if any(self.album[self.place(self.made(i))] for i in row)]
            firsts = [self.made(index) for index in rows[0][1]]
            asked = [said(made.prompt) for made in firsts]
            base = asked[0] if self.cast.base and firsts[0].source == self.cast.base.label else ""
            shots = [(seed, [self.shot(index) for index in row]) for seed, row in seen]
            prompts.append(Prompt(asked[-1], base if base != asked[-1] else "", shots))
        size = f"{len(prompts)} prompt{'s' * (len(prompts) != 1)}, {count(len(used))}"
        missing = self.album.missing(self.place(self.made(index)) for index in used)
        return Set(clean(name), size, prompts, missing, *self.numbers(name, sorted(used)))

    def made(self, index: int) -> Made:
        """A picture's record."""
        return self.evaluation.pictures[index]

    def numbers(self, name: str, used: list[int]) -> tuple[list[str], list[list[str]]]:
        """Every picture's own value of every score that has one: names of columns, and a row per picture."""
        same = twins(self.evaluation.scores)
        own = (s for s in self.evaluation.scores if s.about.per == "picture" and s.set in (name, ""))
        groups = by_kind(score for score in own if kind(score) not in same)
        columns: dict[tuple[str, str], dict[int, str]] = {}
        for key, scores in groups.items():
            values = (pair for score in scores for pair in zip(score.pictures, score.values, strict=False))
            digits = places(*scores)
            columns[key] = {index: number(value, digits) for index, value in values}
        kept = {key: column for key, column in columns.items() if any(index in column for index in used)}
        rows = [
            [str(i + 1), clean(self.made(i).source), str(self.made(i).seed), *(c.get(i, "") for c in kept.values())]
            for i in used
        ]
        return [clean(key[0]) for key in kept], rows

    def grid(self, name: str, template: str, seed: int) -> Grid:
        """One prompt by checkpoint and strength."""
        at = {
            made.source: index
            for index, made in enumerate(self.evaluation.pictures)
            if (made.set, made.template, made.seed) == (name, template, seed)
        }
        others, base = self.cast.others, self.cast.base
        steps = sorted({source.step for source in others}, key=lambda step: (not step, step))
        strengths = sorted({source.strength for source in others}, reverse=True)
        cells = {(source.strength, source.step): source for source in others if source.label in at}
        rows: list[tuple[str, list[Shot | None]]] = []
        for strength in strengths:
            found = [cells.get((strength, step)) for step in steps]
            shots = [self.cell(at[source.label], source) if source else None for source in found]
            rows.append((f"strength {strength:g}", shots))
        heads = [f"step {step}" if step else "finished" for step in steps]
        if base is not None and base.label in at:
            heads.insert(0, "base model")
            for down, (_, row) in enumerate(rows):
                row.insert(0, None if down else self.cell(at[base.label], base))
        words = next(said(self.made(at[source.label]).prompt) for source in others if source.label in at)
        return Grid(words, seed, heads, rows)

    def cell(self, index: int, source: Source) -> Shot:
        """A picture of a grid: row and column say whose it is."""
        picked = self.cast.choice is not None and self.cast.choice.source is source
        return replace(self.shot(index), who="recommended" if picked else "", picked=picked)

    def twins(self, pair: Pair) -> Twins:
        """One pair."""
        name = last(pair.training).removeprefix("\N{HORIZONTAL ELLIPSIS}/")
        training = Shot(self.album[self.found(pair.training)], f"training picture {name}", "training", name)
        return Twins(self.shot(pair.picture), training, f"{pair.similarity:.3f}")


def grids(evaluation: Evaluation, cast: Cast, folder: Path, album: Album, numbered: bool) -> list[Grid]:
    """The strength x checkpoint grids; none with fewer than two candidates. They take about a quarter of the album."""
    maker = Maker(evaluation, cast, folder, album, numbered)
    tries = maker.tries()
    wanted = [maker.place(made) for made in evaluation.pictures if (made.set, made.template, made.seed) in set(tries)]
    album.fill(wanted, share=0.25)
    found = [maker.grid(*row) for row in tries]
    return [grid for grid in found if any(cell and cell.picture for _, row in grid.rows for cell in row)]


def build(evaluation: Evaluation, cast: Cast, folder: Path, album: Album) -> Gallery:
    """The whole gallery; the album is filled."""
    maker = Maker(evaluation, cast, folder, album)
    album.fill(list(maker.wanted()))
    near = maker.nearest()
    gallery = Gallery(sets=[maker.set(name, templates) for name, templates in maker.by_seed().items()])
    gallery.hero = [
        (name, [Shot(album[file], words, "", "") for file, words in row if album[file]]) for name, row in maker.heroes()
    ]
    gallery.hero = [(name, row) for name, row in gallery.hero if row]
    gallery.pairs = [maker.twins(pair) for pair in near[:PAIRS]]
    if len(near) > PAIRS:
        gallery.pairs_missing = f"The {PAIRS} most similar of {len(near)} pairs."
    hidden = len(cast.others) - len(cast.shown)
    if hidden > 0:
        verb = "s are" if hidden != 1 else " is"
        gallery.unseen = f"{hidden} other source{verb} compared in the tables and not shown here."
    return gallery
