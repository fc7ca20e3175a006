"""The paper's experiments in miniature: the scenes, what reaches the model, and the tables."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("sacrebleu")

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "mllm"


@pytest.fixture(scope="module")
def mini() -> Iterator[Any]:
    """The modules of the study, which are scripts beside each other and no package."""
    names = ("scenes", "models", "schedulers", "measures", "trial", "tables", "page", "study")
    sys.path.insert(0, str(FOLDER))
    try:
        yield SimpleNamespace(**{name: __import__(name) for name in names})
    finally:
        sys.path.remove(str(FOLDER))
        for path in FOLDER.glob("*.py"):
            sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("seed", [0, 4])
def test_a_scan_is_in_one_part_and_scenes_are_of_their_part(mini: Any, seed: int) -> None:
    parts = {name: set(mini.scenes.scans_of(name, seed).tolist()) for name in mini.scenes.SHARES}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 1797
    for name, scans in parts.items():
        for draw in (0, 3):
            scenes = mini.scenes.make_scenes(name, 200, seed, draw)
            assert set(scenes.scans.ravel().tolist()) <= scans


def test_a_scene_shows_and_tells_its_digits(mini: Any) -> None:
    scenes = mini.scenes.make_scenes("train", 400, 0)
    words = np.array(mini.scenes.WORDS)
    for image, caption, framed, digits in zip(
        scenes.images, scenes.captions, scenes.framed, scenes.digits, strict=True
    ):
        assert [w for w in caption.split() if w in words] == [*words[digits], words[framed]]
        lit = [(image[y, x]) for y in (0, 10) for x in (0, 10)]
        assert digits[int(np.argmax(lit))] == framed and sorted(lit) == [0, 0, 0, 16]
    right = [words[d] in q.split() for q, d in zip(scenes.questions, scenes.framed, strict=True)]
    assert 0.85 < np.mean(right) < 0.97


def test_a_condition_changes_what_it_names_and_says_so(mini: Any) -> None:
    scenes = mini.scenes.make_scenes("validation", 60, 0)
    for name in mini.scenes.CONDITIONS:
        one, again = (mini.scenes.under(scenes, name, 0) for _ in range(2))
        assert np.array_equal(one.images, again.images) and np.array_equal(one.notes, again.notes)
        image = (one.images != scenes.images).any(axis=(1, 2))
        text = (one.questions != scenes.questions) | (one.notes != scenes.notes)
        which = mini.scenes.CORRUPTED.get(name, ("", 0, ""))[2]
        assert image.mean() > 0.9 if which == "image" else not image.any()
        assert text.mean() > 0.9 if which == "text" else not text.any()
        assert (one.good == (np.array(mini.scenes.MODALITIES) != which) & one.present).all()
    assert not mini.scenes.under(scenes, mini.scenes.TOLD, 0).present[:, 0].any()


@pytest.mark.parametrize("backbone", ["llava", "blip2"])
def test_what_the_oracle_hides_cannot_be_seen(mini: Any, backbone: str) -> None:
    from dms_torch.adapters import attach

    torch.manual_seed(0)
    model = mini.models.BACKBONES[backbone]().eval()
    scenes = mini.scenes.under(mini.scenes.make_scenes("validation", 8, 0), "blur", 0)
    given = mini.models.prompts(scenes, scenes.questions)
    other = given | {"pixel_values": -given["pixel_values"]}
    good = torch.from_numpy(scenes.good)
    with torch.no_grad(), attach(model, mini.schedulers.Chosen()) as dms:
        seen = [mini.models.run(model, inputs)[0][:, -1] for inputs in (given, other)]
        mini.schedulers.tell(model, good)
        hidden = [mini.models.run(model, inputs)[0][:, -1] for inputs in (given, other)]
        assert dms.last is not None and torch.equal(dms.last.weights, good.float())
    assert not torch.equal(*seen)
    assert torch.equal(*hidden)


@pytest.fixture(scope="module")
def results(mini: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps of the backbone that answers questions alone, with two seeds."""
    few = {"see": 2, "learn": 2, "tune": 1, "heads": 2, "gate": 1, "test": 24, "clean": 160}
    done = []
    with pytest.warns():
        for seed in range(2):
            done.append(("blip2", seed, *mini.trial.run_trial("blip2", seed, plan(mini, few))))
    folder = tmp_path_factory.mktemp("mini")
    mini.study.record(folder, done)
    about = mini.study.environment(done, 1.0, "test")
    about["seeds"] = {"blip2": [0, 1]}
    (folder / "environment.json").write_text(json.dumps(about))
    return folder


def plan(mini: Any, few: dict[str, int], share: float = 1.0) -> Any:
    return mini.trial.Plan(**few, share=share, part="validation")


def test_the_tables_are_drawn_from_the_raw_results(mini: Any, results: Path) -> None:
    numbers = mini.tables.Numbers(results)
    with (results / "mini.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for method in mini.tables.METHODS:
        for condition in mini.scenes.CONDITIONS:
            key = {"method": method, "condition": condition, "metric": "VQA"}
            own = [float(r["value"]) for r in rows if r.items() >= key.items()]
            assert len(own) == 2
            assert numbers.value("blip2", method, condition, "VQA").mean == np.mean(own)
    mini.page.write_page(results)
    before = (results / "README.md").read_text()
    for row in rows:
        if (row["method"], row["condition"]) == ("robust", "blur"):
            row["value"] = "77.7"
    with (results / "mini.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    mini.page.write_page(results)
    assert "77.7 ± 0.0" not in before and "77.7 ± 0.0" in (results / "README.md").read_text()


def test_alignment_of_two_modalities_changes_nothing(mini: Any, results: Path) -> None:
    numbers = mini.tables.Numbers(results)
    for condition in ("clean", "blur", "masked words"):
        whole, less = (
            numbers.each("blip2", method, condition, "VQA")
            for method in ("dms", "dms, no alignment")
        )
        assert whole == less and len(whole) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_short_run_of_all_tasks(mini: Any) -> None:
    few = {"see": 100, "learn": 200, "tune": 20, "heads": 20, "gate": 5, "test": 100, "clean": 400}
    rows, _ = mini.trial.run_trial("llava", 0, plan(mini, few, share=0.25))
    found = {row[:3]: row[3] for row in rows}
    assert {key[0] for key in found} >= set(mini.tables.METHODS)
    for method in mini.tables.METHODS:
        for condition in mini.scenes.CONDITIONS:
            assert all((method, condition, task) in found for task in mini.tables.TASKS)
    assert found["static", "clean", "VQA"] > 60
    assert found["oracle", "blur", "VQA"] == found["oracle", "occlusion", "VQA"]
