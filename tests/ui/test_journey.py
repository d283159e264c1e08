"""The whole journey in a real browser, with the embedded model: from four pictures to a file that others load."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from studio.store import Run
from tests.ui.journey_steps import PICTURES, Visitor, held, until

if TYPE_CHECKING:
    from tests.ui.conftest import Server

pytestmark = pytest.mark.enable_socket


def test_from_four_pictures_to_a_file_that_others_load(server: Server, page: Any, tmp_path: Path) -> None:
    visitor, run = Visitor(page, server.address), server.runs / "journey"
    train(visitor)
    watch(visitor, run)
    evaluate(visitor)
    sample(visitor)  # meanwhile
    file = export(visitor, tmp_path)
    assert changes_a_stock_pipeline(file)
    report(visitor, run)
    assert not visitor.faults


def train(visitor: Visitor) -> None:
    """Four pictures, the form, Start."""
    visitor.open("train")
    visitor.page.locator("#train-upload input[type=file]").set_input_files(PICTURES)
    visitor.says("#train-verdict", "4 pictures used")
    assert visitor.page.locator("#train-pictures img").count() == len(PICTURES)
    visitor.settings(run="journey", steps=40, previews__every=10, previews__steps=2)
    for words in ("--run journey", "--steps 40", "--preview-every 10", "--previews.steps 2"):
        visitor.says("#train-command", words)
    visitor.at("#train-start").click()
    visitor.at("#tab-watch").wait_for()  # Start leads there


def watch(visitor: Visitor, run: Path) -> None:
    """The curve moves, a reload finds the run at work, Stop keeps it, Resume ends it."""
    with held(run, 2):
        visitor.state("running", "training")
        before = until(visitor.points, "the curve begins")
    with held(run, 12):
        until(lambda: visitor.points() > before, "the curve moves")
        until(lambda: visitor.previews() == 2, "a preview stands beside the base model's")
        visitor.page.reload()
        visitor.state("running", "of 40")
        until(lambda: visitor.points() > before, "the reloaded page has the curve")
        visitor.at("#watch-stop").click()
        visitor.state("stopping")
    visitor.state("stopped")
    assert 12 <= Run(run).done_steps() < 40
    visitor.at("#watch-resume:not([disabled])").click()
    visitor.state("done", "40 of 40")
    until(lambda: visitor.points() == 40, "the curve has every step once")


def sample(visitor: Visitor) -> None:
    """A grid of two seeds by two strengths."""
    visitor.open("sample")
    visitor.says("#sample-sources", "journey")
    visitor.fill("#sample-prompt", "a photo of sks fox")
    visitor.fill("#sample-steps", 2)
    visitor.page.locator("#sample-grid > button").click()
    for axis, name, values in (("x", "seed", "1, 2"), ("y", "strength", "0, 1")):
        visitor.pick(f"#sample-{axis}", name)
        visitor.fill(f"#sample-{axis}-values", values)
    visitor.at("#sample-draw").click()
    until(lambda: visitor.page.locator("#sample-pictures img").count() >= 5, "four pictures and their sheet are there")


def evaluate(visitor: Visitor) -> None:
    """Asks for scores."""
    visitor.open("compare")
    visitor.pick("#compare-runs", "journey")
    visitor.says("#compare-previews", "journey")
    visitor.at("#compare-evaluate").click()
    visitor.says("#compare-said", "evaluation of journey")


def report(visitor: Visitor, run: Path) -> None:
    """Scores with their intervals, and the report inside the page."""
    until((run / "report.html").is_file, "the evaluation is done")
    visitor.open("compare")  # the run is chosen still
    assert "journey" in visitor.says("#compare-scores", " to ")
    visitor.at("#compare-report iframe").wait_for()


def export(visitor: Visitor, folder: Path) -> Path:
    """The adapter out of the zip of the Library."""
    visitor.open("library")
    visitor.page.locator("#library-runs img").first.click()
    visitor.at("#library-export").click()
    with visitor.page.expect_download() as download:
        visitor.at("#library-zip").click()
    with zipfile.ZipFile(download.value.path()) as packed:
        return Path(packed.extract("journey/adapter.safetensors", folder))


def changes_a_stock_pipeline(file: Path) -> bool:
    """Whether diffusers alone loads the file, and draws another picture with it than without."""
    import torch
    from diffusers import StableDiffusionPipeline

    from studio.pipelines.assets import assets_folder

    pipe = StableDiffusionPipeline.from_pretrained(assets_folder() / "base", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)

    def draw() -> Any:
        options = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "np"}
        return pipe("a photo of sks fox", **options).images[0]

    before = draw()
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    return bool(np.abs(draw() - before).max() > 1 / 255)
