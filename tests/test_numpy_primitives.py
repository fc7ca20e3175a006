"""What NumPy computes faster is what the plain primitives compute, at few classes and at many."""

from __future__ import annotations

from functools import partial
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import pytest

from dms_numpy import primitives as faster
from dms_spec import ModalityBatch, SchedulerSpec, get_backend
from dms_spec.equations import primitives as plain
from dms_spec.equations.namespace import Namespace
from dms_spec.errors import DTypeError, ShapeError

PLAIN = Namespace.of(xp, np.ndarray)


def logits(classes: int) -> np.ndarray[Any, Any]:
    """Some are ruled out, and of one row all."""
    random = np.random.default_rng(classes)
    found = 10 * random.standard_normal((7, 2, classes))
    found[random.random(found.shape) < 0.1] = -np.inf
    found[0, 0] = -np.inf
    return found


@pytest.mark.parametrize("classes", [1, 2, 32, 33, 200])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "usable"])
@np.errstate(invalid="ignore", divide="ignore")
def test_a_reduction_over_classes(name: str, classes: int) -> None:
    given = logits(classes)
    if name == "usable":
        passes = np.stack([given, given[::-1]])
        found, wanted = (
            f(features=given[:, :, :1], logits=given, mc_logits=passes)
            for f in (faster.usable, partial(plain.usable, xp))
        )
        assert np.array_equal(found, wanted)
        return
    for axis in (-1, 1):
        found, wanted = getattr(faster, name)(given, axis), getattr(plain, name)(xp, given, axis)
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)  # a log near 0


def test_weights_of_what_is_active() -> None:
    random = np.random.default_rng(0)
    scores, active = 50 * random.standard_normal((50, 3)), random.random((50, 3)) < 0.5
    scores[~active] = np.nan
    found = faster.masked_softmax(scores, active)
    np.testing.assert_allclose(found, plain.masked_softmax(xp, scores, active), rtol=1e-12)
    assert (found[~active] == 0).all()


@np.errstate(invalid="ignore")
def test_sums_of_exponentials_of_all_pairs() -> None:
    values = np.array([-np.inf, -1e4, -1.0, 0.0, 1e-300, 3.0, 800.0, np.inf, np.nan])
    found = faster.logaddexp(values[:, None], values)
    np.testing.assert_allclose(found, np.logaddexp(values[:, None], values), rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("diagonal", [False, True])
def test_distances_of_any_magnitude(dtype: str, diagonal: bool) -> None:
    """Rows whose squares leave the range, beside others; the first one is a prototype."""
    random = np.random.default_rng(0)
    whitening = np.linalg.qr(random.standard_normal((2, 6, 6)))[0]
    own = {
        "center": random.standard_normal((2, 6)),
        "whitening": np.ones((2, 6)) if diagonal else whitening[..., :4],
        "deviations": np.ones((2, 6 if diagonal else 4)),
        "prototypes": random.standard_normal((2, 3, 6 if diagonal else 4)),
        "outside": np.full(2, 0.0 if diagonal else 2.0),
    }
    own = {name: array.astype(dtype) for name, array in own.items()}
    scale = 10.0 ** random.choice([-30, -5, 0, 5, 15, 30], (40, 1, 1))
    x = (scale * random.standard_normal((40, 2, 6))).astype(dtype)
    x[0] = own["center"]
    found, wanted = faster.log_distance(PLAIN, x, own), plain.log_distance(PLAIN, x, own)
    assert found.dtype == x.dtype
    np.testing.assert_allclose(found, wanted, rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-5)


def test_a_scheduler_looks_again_when_its_batches_change() -> None:
    schedule = get_backend("numpy").scheduler(SchedulerSpec.preset("static", ("a", "b")))
    good = np.ones((4, 2, 3))
    schedule(ModalityBatch(features=good))
    with pytest.raises(DTypeError):
        schedule(ModalityBatch(features=good.astype(int)))
    with pytest.raises(ShapeError):
        schedule(ModalityBatch(features=np.ones((4, 3, 3))))
    schedule(ModalityBatch(features=good))
