"""The examples of several modalities, run on inputs that the tests make."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_sounds_clips_and_words_in_one_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recordings of chirps, one direction and pitch for each digit, as integers of two lengths."""
    random = np.random.default_rng(0)
    labels = np.arange(360) % 10
    time = np.arange(4000) / 8000
    pitch = 300 * 1.25 ** labels[:, None] * random.normal(1, 0.02, (360, 1))
    waves = 3000 * np.sin(2 * np.pi * pitch * time) + random.normal(0, 200, (360, 4000))
    lengths = random.choice([3000, 4000], 360)
    waves[np.arange(4000) >= lengths[:, None]] = 0
    path = tmp_path / "waves.npz"
    np.savez(path, waves=waves.astype(np.int16), lengths=lengths, labels=labels)
    script = EXAMPLES / "audio_video.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--waves", str(path), "--epochs", "10"])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if " audio " in line}
    equal, learned, oracle = (float(x) for x in rows["audio"][:3])
    assert oracle > learned - 0.1 and learned > equal + 0.3
    weight = rows["audio"].index("audio") + 1
    assert float(rows["audio"][weight]) < 0.2 < float(rows["nothing"][weight])
    assert all(len(line) <= 80 for line in printed.splitlines() if not line.startswith("note"))


def test_the_figure_shows_an_image_losing_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, path = EXAMPLES / "trust_figure.py", tmp_path / "trust.png"
    monkeypatch.setattr(sys, "argv", [str(script), "-o", str(path)])
    runpy.run_path(str(script), run_name="__main__")
    curves = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" none 0.00")]
    assert len(curves) == 2
    for line in curves:
        weights = [float(word) for word in line.split(":")[-1].split()[-11::2]]
        assert weights[0] > 0.48 and weights[-2] < 0.2
        assert weights == sorted(weights, reverse=True)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
