"""Five people with five habits: each gets a fitted, explained and exported model in ten lines.

A fit gives the same bits for what its fingerprint covers. So tables that are equal are learned from
once. It covers all that a fit reads, so a person who learned from another table would be found.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("datasets")
pytest.importorskip("pandas")
pytest.importorskip("sklearn")
pytest.importorskip("torch")
pytest.importorskip("tqdm")

import datasets

from dms_onnx.session import Session
from dms_spec import FusionClassifier, SchedulerSpec
from dms_spec.cli import main
from dms_spec.embeddings.settings import FitSettings
from dms_spec.embeddings.table import Table, read_table
from dms_spec.files import read_arrays
from dms_torch.fit import training

HABITS = Path(__file__).resolve().parents[1] / "examples" / "habits"
#: By person, the folder with the export.
EXPORTS = {
    "command_line.sh": "model",
    "hugging_face.py": "from-datasets",
    "pandas_frame.py": "from-pandas",
    "pytorch.py": "from-pytorch",
    "scikit_learn.py": "from-scikit-learn",
}
LINES = 10


class Fits(dict[str, Any]):
    """What was learned so far, by the fingerprint of what it was learned from."""

    def __init__(self) -> None:
        super().__init__()
        self._fit = training.fit
        self.of: dict[str, str] = {}

    def __call__(self, table: Table, spec: Any, settings: Any, **options: Any) -> Any:
        key = training._fingerprint(table, spec, settings, "cpu")
        self.of[self.person] = key
        if key not in self:
            self[key] = self._fit(table, spec, settings, **options)
        return self[key]

    person = ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's table, as two files."""
    folder = tmp_path_factory.mktemp("habits")
    for name in ("train.npz", "train.parquet"):
        assert main(["demo", "--table", str(folder / name)]) == 0
    return folder


@pytest.fixture(scope="module")
def fits(folder: Path) -> Iterator[Fits]:
    with pytest.MonkeyPatch.context() as patch:
        found = Fits()
        patch.setattr(training, "fit", found)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        datasets.disable_progress_bars()
        yield found


def printed(path: Path, fits: Fits) -> str:
    """Runs one person's lines; returns what they printed."""
    fits.person = path.name
    code = path.read_text(encoding="utf-8")
    out = io.StringIO()
    with redirect_stdout(out):
        if path.suffix == ".py":
            exec(compile(code, path.name, "exec"), {"__name__": "__main__"})
        else:
            for line in code.splitlines():
                assert main(line.split()[1:]) == 0, line
    return out.getvalue()


@pytest.mark.parametrize("name", EXPORTS)
def test_ten_lines_are_enough(name: str, folder: Path, fits: Fits) -> None:
    """Fitted, explained, and a verified file that answers as the fitted model does."""
    lines = [line for line in (HABITS / name).read_text("utf-8").splitlines() if line.strip()]
    assert len(lines) <= LINES
    with chdir(folder):
        text = printed(HABITS / name, fits)
    assert re.search(r"^pixels .*\n(.*\n)*- gradients: trust", text, re.MULTILINE), text

    table = read_table(folder / "train.npz")
    spec = SchedulerSpec.preset("robust", table.modalities)
    if name != "scikit_learn.py":  # who left writers out
        assert fits.of[name] == training._fingerprint(table, spec, FitSettings(), "cpu")
    fitted = FusionClassifier.from_artifact(fits[fits.of[name]].artifact)
    own = fitted.predict(read_arrays(folder / "train.npz"))
    if name == "command_line.sh":
        predicted = read_arrays(folder / "predictions.npz")["predicted"]
        np.testing.assert_array_equal(predicted, own)
    assert table.labels is not None
    assert (own == table.labels)[table.test].mean() > 0.85
    session = Session.load(folder / EXPORTS[name] / "onnx" / "model.onnx")
    full = {view: np.nan_to_num(array) for view, array in table.embeddings.items()}
    found = session.run(full | {"present": table.present})
    np.testing.assert_array_equal(fitted.classes_[found["probabilities"].argmax(axis=1)], own)
