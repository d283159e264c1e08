"""A base model's licence is what its card states, and a card that states none costs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.pipelines import licence


def card(folder: Path, text: str | bytes) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


def test_the_card_of_a_folder_and_of_a_file_in_it(tmp_path: Path) -> None:
    other = "license: other\nlicense_name: house-rules\nlicense_link: LICENSE.md\ntags: [a, b]\n"
    model = card(tmp_path / "model", f"---\n{other}---\n# A model\n")
    wanted = {"license": "other", "license_name": "house-rules", "license_link": "LICENSE.md"}
    assert licence.stated(model) == wanted
    (tmp_path / "model" / "x.safetensors").write_bytes(b"")
    assert licence.stated(f"{model}/x.safetensors") == wanted
    assert licence.words(wanted) == "house-rules (LICENSE.md)"
    assert licence.words({}) == ""


def test_the_embedded_model_states_its_own() -> None:
    assert licence.words(licence.stated("embedded")) == "apache-2.0"


@pytest.mark.parametrize(
    "text",
    [
        "# no head\n",
        "---\ntags: [a]\n---\n",
        "---\nlicense: [\n---\n",
        "---\n- mit\n---\n",
        b"\xff\xfe",
        "x" * 2**21,
    ],
    ids=["no head", "no licence", "broken", "a list", "no text", "too long"],
)
def test_a_card_that_states_none(text: str | bytes, tmp_path: Path) -> None:
    assert licence.stated(card(tmp_path / "model", text)) == {}


@pytest.mark.parametrize("model", ["toy", "nobody/nothing", "a b", "\0", "x" * 5000, "a/b/c"])
def test_a_model_that_is_not_here(model: str) -> None:
    assert licence.stated(model) == {}


def test_a_strangers_words_stay_one_short_line(tmp_path: Path) -> None:
    model = card(tmp_path / "model", '---\nlicense: ["mit", "a\\nb\\u0007' + "c" * 999 + '"]\n---\n')
    found = licence.stated(model)["license"]
    assert found.startswith("mit, a bc")
    assert found.isprintable()
    assert len(found) == licence.LONGEST
