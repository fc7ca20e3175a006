"""Eight threads share one object of each kind: each gets its own numbers, and its own notes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from dms_spec.artifact import Artifact
from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.table import Table
from dms_spec.errors import DMSWarning
from dms_spec.plugins import get_backend
from dms_spec.spec import SchedulerSpec
from dms_spec.types import ModalityBatch

NAMES = ("a", "b", "c")
THREADS, TIMES = 8, 12
SPEC = SchedulerSpec(
    modalities=NAMES,
    signals={"confidence": {}, "alignment": {}},
    coefficients={"confidence": 1.0, "alignment": 1.0},
)
BACKENDS = ("numpy", "torch", "onnxruntime")


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def together(work: Callable[[int], Any]) -> list[list[Any]]:
    """What each thread gets, which all begin at once and ask again and again."""
    start = Barrier(THREADS)

    def many(k: int) -> list[Any]:
        start.wait()
        return [work(k) for _ in range(TIMES)]

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(many, range(THREADS)))


def batch(k: int) -> dict[str, np.ndarray]:
    """The batch of one thread, unlike the others in its size, its values and what is present."""
    random = np.random.default_rng(k)
    present = random.random((k + 3, 3)) < 0.7
    present[:k] = False
    return {
        "features": random.normal(size=(k + 3, 3, 4)).astype(np.float32),
        "logits": random.normal(size=(k + 3, 3, 5)).astype(np.float32),
        "present": present,
    }


def assert_own(found: list[list[Any]], alone: Callable[[int], Any]) -> None:
    for k, answers in enumerate(found):
        wanted = alone(k)
        for answer in answers:
            assert answer.keys() == wanted.keys()
            for name, array in wanted.items():
                np.testing.assert_array_equal(answer[name], array, err_msg=f"{k} {name}")


def fitted() -> Artifact:
    """Heads at random, without dropout; the spec's policy and signals have parameters to lack."""
    random = np.random.default_rng(0)
    parameters: dict[str, np.ndarray] = {}
    for name in NAMES:
        parameters |= {
            f"heads.{name}.scale.zero": np.zeros(4, np.float32),
            f"heads.{name}.scale.unit": np.ones(4, np.float32),
            f"heads.{name}.classifier.weight": random.normal(size=(4, 5)).astype(np.float32),
            f"heads.{name}.classifier.bias": np.zeros(5, np.float32),
            f"heads.{name}.temperature": np.array(1.0, np.float32),
        }
    spec = SPEC.replace(
        signals={"confidence": {}, "typicality": {}},
        coefficients={"confidence": 1.0, "typicality": 1.0},
        fusion="probability",
    )
    model = {"classes": list("vwxyz"), "prior": [0.2] * 5, "dropout": 0.0, "passes": 0}
    return Artifact(spec=spec, parameters=parameters, model=model)


@pytest.mark.parametrize("name", BACKENDS)
def test_one_predictor(name: str) -> None:
    pytest.importorskip(name)
    predictor = Predictor(fitted(), get_backend(name))

    def predict(k: int) -> Any:
        rows = batch(k)
        own = {m: rows["features"][:, i] for i, m in enumerate(NAMES)}
        return predictor.predict(Table(embeddings=own, present=rows["present"]))

    found = together(predict)  # with the first call, so that graphs are traced there
    assert_own(found, predict)
    for k, answers in enumerate(found):
        nothing = (~batch(k)["present"].any(axis=1)).sum()
        for answer in answers:
            said = [note.split()[0] for note in answer.notes if "nothing active" in note]
            assert said == [str(nothing)] * int(nothing > 0)


@pytest.mark.filterwarnings("error")
def test_predictors_that_are_made_at_once_leave_no_filter_behind() -> None:
    artifact, backend = fitted(), get_backend("numpy")
    before = list(warnings.filters)
    together(lambda k: Predictor(artifact, backend))
    assert list(warnings.filters) == before
    with pytest.warns(DMSWarning, match="typicality"):
        backend.scheduler(artifact.spec)


@pytest.mark.parametrize("name", BACKENDS)
def test_one_scheduler(name: str) -> None:
    pytest.importorskip(name)
    backend = get_backend(name)
    scheduler = backend.scheduler(SPEC)

    def schedule(k: int) -> Any:
        moved = {n: backend.from_numpy(array, "cpu") for n, array in batch(k).items()}
        return scheduler(ModalityBatch(**moved)).converted(backend.to_numpy).arrays()

    assert_own(together(schedule), schedule)


def test_one_session(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from dms_onnxruntime import Session
    from dms_spec.plugins import get_exporter

    session = Session.load(get_exporter("onnx").export(Artifact(spec=SPEC), tmp_path))
    assert_own(together(lambda k: session.run(batch(k))), lambda k: session.run(batch(k)))


def test_one_fusion_without_gradients() -> None:
    torch = pytest.importorskip("torch")
    from dms_torch import Fusion

    fusion = Fusion(SPEC.replace(policy="monotone"))

    def fuse(k: int) -> Any:
        moved = {name: torch.from_numpy(array) for name, array in batch(k).items()}
        by_name = {n: dict(zip(NAMES, moved[n].unbind(1), strict=True)) for n in moved}
        with torch.no_grad():
            output = fusion(**by_name)
        assert not output.fused.requires_grad
        return {name: output[name].numpy() for name in ("fused", "weights", "scores", "active")}

    assert_own(together(fuse), fuse)
