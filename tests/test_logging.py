"""The examples of the guide on logs: TensorBoard reads a fit, and Lightning trains a scheduler."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "training"


def scalars(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Reads a file of events: records of a length, its checksum, the event and its checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found: dict[str, list[tuple[int, float]]] = {}
    content = path.read_bytes()
    while content:
        size = int.from_bytes(content[:8], "little")
        event = event_pb2.Event.FromString(content[12 : 12 + size])
        content = content[16 + size :]
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_gets_every_line_of_the_log(
    dms: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboardX")
    pytest.importorskip("torch")
    random, labels = np.random.default_rng(0), np.arange(60) % 2
    a, b = (random.normal(size=(60, 3)) + labels[:, None] for _ in "ab")
    np.savez(tmp_path / "train.npz", a=a, b=b, labels=labels)
    options = ("--spec", "paper", "--epochs", 3, "--passes", 0, "--log", "fit.jsonl")
    with chdir(tmp_path):
        monkeypatch.setattr(sys, "argv", ["to_tensorboard.py", "fit.jsonl", "runs"])
        dms("fit", "train.npz", "-o", "model", *options)
        runpy.run_path(str(EXAMPLES / "to_tensorboard.py"))
    (events,) = (tmp_path / "runs").rglob("events.*")
    found = scalars(events)
    steps = [step for step, _ in found["heads/validation_loss"]]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) == 3
    lowest = np.minimum.accumulate([value for _, value in found["heads/validation_loss"]])
    best = [value for _, value in found["heads/best_validation_loss"]]
    assert best[-1] <= lowest[-1] + 1e-6


@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_lightning_trains_a_model_with_a_scheduler_inside(tmp_path: Path) -> None:
    """It learns, its checkpoint holds the scheduler, and what is missing weighs nothing."""
    lightning = pytest.importorskip("lightning", reason="make test-lightning installs it")
    import torch
    from torch.utils.data import DataLoader

    names = runpy.run_path(str(EXAMPLES / "lightning_loop.py"))
    torch.manual_seed(0)
    scans = names["scans"]()
    train, test = torch.utils.data.random_split(scans, (0.8, 0.2))
    module = names["TwoViews"]()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_epochs=8,
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        **quiet,
    )
    trainer.fit(module, DataLoader(train, 64, shuffle=True), DataLoader(test, 64))
    logged = trainer.callback_metrics
    assert logged["accuracy"] > 0.7
    assert float(logged["weight of left"] + logged["weight of right"]) == pytest.approx(1, abs=1e-5)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again = names["TwoViews"].load_from_checkpoint(tmp_path / "one.ckpt").eval()
    left, right, _, _ = (torch.stack(part) for part in zip(*list(test)[:4], strict=True))
    there = torch.tensor([[True, False]]).expand(4, 2)
    with torch.no_grad():
        one, two = (
            model(left, right * value, there) for model, value in ((module.eval(), 1), (again, 9))
        )
    assert torch.equal(one.weights, there.float())
    assert torch.equal(one.predictions, two.predictions)
