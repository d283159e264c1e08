"""evaluation.json says everything an evaluation found, also what is no number, and can be read back."""

from __future__ import annotations

import json
import math
from pathlib import Path

from studio.evaluation.records import Evaluation, Score, Source
from studio.pipelines.protocols import About

NAN = math.nan
SET = About("leak", "dino@main", "224 px", "leak: share", "lower", needs=("references",))
BOUND = About("vendi", "", "", "vendi", per="prompt", bounds=(1.0, math.inf))
SHARE = About("copies", "", "", "copies", "lower", bounds=(0.0, 1.0))


def test_what_is_no_number_comes_back_as_no_number(tmp_path: Path):
    scores = [
        Score(SET, "mine", "class", NAN, NAN, NAN, 0, (0, 1), (NAN, NAN)),
        Score(BOUND, "mine", "", 1.5, NAN, NAN, 2, (0, 1), (1.5, 1.5), 1.25, 0.25, NAN, NAN),
        Score(SHARE, "mine", "", 0.5, 0.25, 0.75, 2, (0, 1), (1.0, NAN), 0.25, NAN, NAN, NAN),
        Score(SHARE, "base", "", 0.25, 0.0, 0.5, 2),
    ]
    found = Evaluation([Source("base", "toy"), Source("mine", "toy", "a.safetensors")], scores=scores)
    file = tmp_path / "evaluation.json"
    file.write_text(found.to_json())
    json.loads(file.read_text(), parse_constant=lambda word: 1 / 0)  # nothing that is no JSON
    read = Evaluation.read(file)
    assert repr(read) == repr(found)
    assert read.to_json() == found.to_json()
    for score in read.scores:
        assert not math.isfinite(score.low) or score.low <= score.value


def test_a_file_from_before_bounds_is_read(tmp_path: Path):
    found = Evaluation(scores=[Score(SHARE, "mine", "", 0.5, 0.4, 0.6, 2)])
    said = json.loads(found.to_json())
    del said["scores"][0]["about"]["bounds"]
    (tmp_path / "old.json").write_text(json.dumps(said))
    assert Evaluation.read(tmp_path / "old.json").scores[0].about.bounds is None
