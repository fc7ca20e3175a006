"""The joint expert against plain loops, and the same in every backend and in a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libraries import NUMPY, library
from numpy.typing import NDArray

from dms_spec.artifact import Artifact, save_artifact
from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.table import Table
from dms_spec.engine.probabilities import OVERFLOW
from dms_spec.equations.joint import joint_logits, with_joint
from dms_spec.errors import ArtifactError
from dms_spec.plugins import get_backend
from dms_spec.spec import SchedulerSpec

Run = Callable[..., Any]
Arrays = dict[str, NDArray[Any]]

NAMES = ("image", "text", "audio", "touch", "depth")
FILLERS = [0.0, 1e30, np.nan, np.inf, -np.inf]


class Rows:
    """Some rows as heads and fusion leave them: what is absent is not sound, and holds a filler.

    The first class of the probabilities may be impossible, and a row without anything active has
    the prior, which is what the joint expert gets to see of such a row.
    """

    def __init__(
        self,
        seed: int,
        *,
        widths: tuple[int, ...] = (4, 7, 2),
        batch: int = 6,
        classes: int = 3,
        density: float = 0.7,
        share: float = 0.6,
        filler: float = 0.0,
        unseen: bool = False,
        dtype: str = "float64",
    ) -> None:
        random = np.random.Generator(np.random.Philox(seed))
        self.names = NAMES[: len(widths)]
        self.present = random.random((batch, len(widths))) < density
        # Present and not active: what is not finite, or was trusted less than a float can say.
        active = self.present & (random.random(self.present.shape) < 0.9)
        soundness = random.choice([1.0, 0.5, random.random()], size=self.present.shape)
        weights = random.random((batch, classes)) + 0.01
        weights[:, 0] *= not unseen or classes == 1
        prior = np.arange(1.0, classes + 1)
        weights = np.where(active.any(axis=1, keepdims=True), weights, prior)
        self.embeddings: Arrays = {}
        self.parameters: Arrays = {"joint.bias": random.normal(size=classes).astype(dtype)}
        for m, (name, width) in enumerate(zip(self.names, widths, strict=True)):
            x = random.normal(size=(batch, width)) * 2 + 1
            x[~self.present[:, m]] = filler
            self.embeddings[name] = x.astype(dtype)
            own = {
                f"heads.{name}.scale.zero": random.normal(size=width),
                f"heads.{name}.scale.unit": random.uniform(0.5, 3, size=width),
                f"joint.{name}.weight": random.normal(size=(width, classes)),
            }
            self.parameters |= {key: array.astype(dtype) for key, array in own.items()}
        self.soundness = np.where(active, soundness, 0.0).astype(dtype)
        self.probabilities = (weights / weights.sum(axis=1, keepdims=True)).astype(dtype)
        self.share = np.asarray(share, dtype=dtype)

    def run(self, name: str = "numpy", rows: slice = slice(None)) -> tuple[Any, Any]:
        """The logits and what they are mixed to, in a library."""
        ns, into, back = library(name)
        logits = joint_logits(
            ns,
            {key: into(x[rows]) for key, x in self.embeddings.items()},
            into(self.present[rows]),
            {key: into(array) for key, array in self.parameters.items()},
            modalities=self.names,
        )
        mixed = with_joint(
            ns,
            into(self.probabilities[rows]),
            into(self.soundness[rows]),
            logits,
            into(self.share),
        )
        return back(logits), back(mixed)

    def loops(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Logits, the size of what each was summed from, and what they are mixed to.

        One number at a time, in float64; nothing absent is read.
        """
        own = {key: array.astype(np.float64) for key, array in self.parameters.items()}
        mixed = self.probabilities.astype(np.float64)
        batch, classes = mixed.shape
        logits, size = np.zeros((batch, classes)), np.zeros((batch, classes))
        for b in range(batch):
            for k in range(classes):
                terms = [own["joint.bias"][k]]
                size[b, k] = abs(terms[0])
                for m in self.present[b].nonzero()[0]:
                    name = self.names[m]
                    zero, unit = (own[f"heads.{name}.scale.{short}"] for short in ("zero", "unit"))
                    weight = own[f"joint.{name}.weight"][:, k]
                    for d, x in enumerate(self.embeddings[name][b].astype(np.float64)):
                        terms.append((x - zero[d]) / unit[d] * weight[d])
                        size[b, k] += (abs(x) + abs(zero[d])) / unit[d] * abs(weight[d])
                logits[b, k] = sum(terms)
            a = float(self.share)
            for m in range(len(self.names)):
                a *= float(self.soundness[b, m])
            raised = [exp(value - max(logits[b])) for value in logits[b]]
            for k in range(classes if a else 0):
                mixed[b, k] = (1 - a) * mixed[b, k] + a * raised[k] / sum(raised)
        return logits, size, mixed


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "seed": draw(st.integers(0, 2**32)),
        "widths": tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))),
        "batch": draw(st.integers(0, 4)),
        "classes": draw(st.integers(1, 5)),
        "density": draw(st.sampled_from([0.0, 0.5, 1.0])),
        "share": draw(st.sampled_from([0.0, 0.3, 1.0])),
        "filler": draw(st.sampled_from(FILLERS)),
        "unseen": draw(st.booleans()),
    }


@pytest.mark.clause("DMS-D-007")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["numpy", "strict", "torch"])
@given(sizes=rows())
@settings(deadline=None, max_examples=40)
def test_every_library_does_what_the_loops_do(name: str, dtype: str, sizes: dict[str, Any]) -> None:
    own = Rows(**sizes, dtype=dtype)
    logits, mixed = own.run(name)
    exact, size, wanted = own.loops()
    assert logits.dtype == mixed.dtype == dtype
    assert logits.shape == mixed.shape == wanted.shape
    eps = np.finfo(dtype).eps
    allowed = 2 * (sum(sizes["widths"]) + 4) * eps * size
    assert (np.abs(logits - exact) <= allowed).all()
    # A softmax is off by twice what its logits are, and by the rounding of its sums.
    slack = 2 * allowed.max(axis=1, keepdims=True) + 8 * (sizes["classes"] + 5) * eps
    assert (np.abs(mixed - wanted) <= slack).all()
    assert (mixed >= 0).all()
    assert (np.abs(mixed.sum(axis=1) - 1) <= 8 * (sizes["classes"] + 5) * eps).all()


@pytest.mark.clause("DMS-D-008")
@pytest.mark.parametrize("name", ["numpy", "strict", "torch"])
@given(sizes=rows())
@settings(deadline=None, max_examples=40)
def test_where_something_is_missing_it_is_silent(name: str, sizes: dict[str, Any]) -> None:
    """To the bit, a share of 0 included; nothing active is the prior, which came in."""
    own = Rows(**sizes)
    _, mixed = own.run(name)
    silent = (own.soundness == 0).any(axis=1) | (own.share == 0)
    np.testing.assert_array_equal(mixed[silent], own.probabilities[silent])


@pytest.mark.clause("DMS-D-008")
@given(sizes=rows(), bad=st.sampled_from([np.nan, np.inf]))
@settings(deadline=None, max_examples=20)
def test_logits_without_a_finite_maximum_say_nothing(sizes: dict[str, Any], bad: float) -> None:
    own = Rows(**sizes)
    logits, mixed = own.run()
    if not len(logits):
        return
    logits[0, -1] = bad
    got = with_joint(NUMPY, own.probabilities, own.soundness, logits, own.share)
    np.testing.assert_array_equal(got[0], own.probabilities[0])
    np.testing.assert_array_equal(got[1:], mixed[1:])


@pytest.mark.clause("DMS-D-008")
@pytest.mark.parametrize("name", ["numpy", "strict", "torch"])
def test_an_overflow_is_no_answer(name: str) -> None:
    """Large and finite, so that heads with smaller weights may well have an answer."""
    own = Rows(1, density=1.0, dtype="float32")
    own.soundness[:] = 1.0
    own.embeddings["text"][2, :2] = 3e38
    own.parameters["joint.text.weight"][:2] = 9.0
    with np.errstate(over="ignore", invalid="ignore"):
        logits, mixed = own.run(name)
    assert not np.isfinite(logits[2]).any()
    np.testing.assert_array_equal(mixed[2], own.probabilities[2])
    assert (mixed[[0, 1, 3]] != own.probabilities[[0, 1, 3]]).any(axis=1).all()


@given(sizes=rows())
@settings(deadline=None, max_examples=40)
def test_no_row_sees_another(sizes: dict[str, Any]) -> None:
    own = Rows(**sizes)
    _, mixed = own.run()
    for b in range(len(mixed)):
        np.testing.assert_allclose(own.run(rows=slice(b, b + 1))[1][0], mixed[b], atol=1e-13)


def test_with_all_sound_and_the_whole_share_it_alone_speaks() -> None:
    own = Rows(2, density=1.0, share=1.0)
    own.soundness[:] = 1.0
    logits, mixed = own.run()
    np.testing.assert_array_equal(mixed, NUMPY.softmax(logits))


# --- gradients -----------------------------------------------------------------------------------


def tensors(own: Rows) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    arrays = own.embeddings | own.parameters | {
        "probabilities": own.probabilities, "soundness": own.soundness, "share": own.share,
    }  # fmt: skip
    return {key: torch.from_numpy(array.copy()).requires_grad_() for key, array in arrays.items()}


def mixed_of(own: Rows, given: dict[str, Any]) -> Any:
    ns, into, _ = library("torch")
    logits = joint_logits(ns, given, into(own.present), given, modalities=own.names)
    return with_joint(ns, given["probabilities"], given["soundness"], logits, given["share"])


def test_gradients_are_those_of_finite_differences() -> None:
    torch = pytest.importorskip("torch")
    own = Rows(3)
    assert 0 < (own.soundness > 0).all(axis=1).sum() < len(own.present)
    given = tensors(own)

    def run(*changed: Any) -> Any:
        return mixed_of(own, dict(zip(given, changed, strict=True)))

    assert torch.autograd.gradcheck(run, tuple(given.values()))


@pytest.mark.clause("DMS-D-009")
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_nothing_absent_reaches_a_gradient(share: float) -> None:
    torch = pytest.importorskip("torch")
    seen: list[dict[str, Any]] = []
    for filler in FILLERS:
        own = Rows(3, filler=filler, share=share)
        given = tensors(own)
        mixed_of(own, given).pow(2).sum().backward()
        seen.append({key: tensor.grad for key, tensor in given.items()})
        for key, gradient in seen[-1].items():
            assert torch.isfinite(gradient).all(), key
            assert torch.equal(gradient, seen[0][key]), key
        for m, name in enumerate(own.names):
            assert (seen[-1][name][~own.present[:, m]] == 0).all()
    silent = (own.soundness == 0).any(axis=1)
    assert silent.any() and not silent.all()
    for name, b in product(own.names, silent.nonzero()[0]):
        assert (seen[-1][name][b] == 0).all()


# --- in an artifact ------------------------------------------------------------------------------


def artifact_of(own: Rows) -> Artifact:
    """Heads at random, with the joint expert of some rows, as ``dms fit`` would leave them."""
    random, classes = np.random.Generator(np.random.Philox(4)), own.probabilities.shape[1]
    parameters = own.parameters | {"joint.share": own.share}
    for name in own.names:
        width = len(parameters[f"heads.{name}.scale.zero"])
        parameters |= {
            f"heads.{name}.classifier.weight": random.normal(size=(width, classes)),
            f"heads.{name}.classifier.bias": random.normal(size=classes),
            f"heads.{name}.temperature": np.asarray(1.5),
        }
    prior = np.arange(1.0, classes + 1) / sum(range(1, classes + 1))
    priors = np.tile(prior, (len(own.names), 1))
    # The first modality has never seen the first class, if there is another.
    priors[0, 0] *= classes == 1
    parameters |= {
        "fusion.prior": prior,
        "fusion.priors": priors / priors.sum(axis=1, keepdims=True),
        "fusion.redundancy": np.asarray(-1.0),
    }
    return Artifact(
        spec=SchedulerSpec.preset("robust", own.names),
        parameters={key: array.astype(own.share.dtype) for key, array in parameters.items()},
        model={
            "classes": list(range(classes)),
            "prior": prior.tolist(),
            "dropout": 0.0,
            "passes": 0,
        },
    )


def table_of(own: Rows, rows: slice = slice(None)) -> Table:
    embeddings = {name: x[rows] for name, x in own.embeddings.items()}
    return Table(embeddings=embeddings, present=own.present[rows])


def with_parameters(artifact: Artifact, **changes: Any) -> Artifact:
    """The artifact with other parameters; those that are None left out."""
    changed = {**artifact.parameters, **changes}
    return replace(artifact, parameters={k: v for k, v in changed.items() if v is not None})


@pytest.mark.clause("DMS-D-007")
@given(sizes=rows())
@settings(deadline=None, max_examples=30)
def test_a_predictor_mixes_it_with_the_evidence(sizes: dict[str, Any]) -> None:
    own = Rows(**sizes)
    artifact, backend = artifact_of(own), get_backend("numpy")
    silent = dict.fromkeys(key for key in artifact.parameters if key.startswith("joint."))
    plain = Predictor(with_parameters(artifact, **silent), backend).predict(table_of(own))
    predictor = Predictor(artifact, backend)
    got = predictor.predict(table_of(own))
    assert got.keys() == plain.keys()
    for key in got.keys() - {"probabilities", "predicted"}:
        np.testing.assert_array_equal(got[key], plain[key])
    own.probabilities, own.soundness = plain["probabilities"], plain["soundness"]
    np.testing.assert_allclose(got["probabilities"], own.loops()[2], rtol=0, atol=1e-12)
    nothing = ~got["active"].any(axis=1)
    assert (got["probabilities"][nothing] == artifact.model["prior"]).all()
    for b in range(len(own.present)):
        alone = predictor.predict(table_of(own, slice(b, b + 1)))["probabilities"][0]
        np.testing.assert_allclose(alone, got["probabilities"][b], rtol=0, atol=1e-13)


@pytest.mark.clause("DMS-D-008")
@pytest.mark.parametrize("name", ["numpy", "torch", "onnxruntime"])
def test_an_overflow_is_noted(name: str) -> None:
    if name != "numpy":
        pytest.importorskip(name)
    own = Rows(1, density=1.0, dtype="float32")
    own.parameters["heads.text.scale.zero"][:2] = 0
    own.parameters["heads.text.scale.unit"][:2] = 1
    own.parameters["joint.text.weight"][:2] = 9.0
    artifact = artifact_of(own)
    artifact.parameters["heads.text.classifier.weight"][:2] = 0
    predictor = Predictor(artifact, get_backend(name))
    assert OVERFLOW not in predictor.predict(table_of(own)).notes
    own.embeddings["text"][2, :2] = 3e38
    found = predictor.predict(table_of(own))
    assert found["active"].all()
    assert found.notes.count(OVERFLOW) == 1
    own.present[2, 0] = False  # it has nothing to say then, overflow or not
    assert OVERFLOW not in predictor.predict(table_of(own)).notes


@pytest.mark.clause("DMS-D-007", "DMS-X-007", "DMS-X-008")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_export_says_what_every_backend_says(dms: Run, tmp_path: Path, dtype: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("ndonnx")
    from dms_onnxruntime import Session

    own = Rows(5, batch=40, filler=np.nan, dtype="float32")
    own.embeddings["text"][3], own.present[3] = np.inf, True
    own.embeddings = {name: x.astype(dtype) for name, x in own.embeddings.items()}
    artifact, table = artifact_of(own), table_of(own)
    save_artifact(tmp_path / "fitted", artifact)
    args = (tmp_path / "fitted", "-o", tmp_path / "out", "--dtype", dtype)
    dms("export", "onnx", *args).succeeded()
    model = tmp_path / "out" / "onnx" / "model.onnx"
    dms("verify", model).succeeded()
    found = Session(model.read_bytes()).run({**table.embeddings, "present": table.present})
    wanted = Predictor(artifact, get_backend("numpy")).predict(table)
    unit = 64 * np.finfo(np.float32).eps
    np.testing.assert_allclose(found["probabilities"], wanted["probabilities"], rtol=0, atol=unit)
    assert found["predicted"].tolist() == wanted["predicted"].tolist()
    for name in ("torch", "onnxruntime"):
        got = Predictor(artifact, get_backend(name)).predict(table)["probabilities"]
        np.testing.assert_allclose(got, wanted["probabilities"], rtol=0, atol=unit)


@pytest.mark.clause("DMS-D-010")
@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("joint.bias", np.zeros(2), "joint.bias does not fit: expected (3,), got (2,)"),
        ("joint.bias", None, "joint.bias does not fit: expected (3,), got none"),
        ("joint.text.weight", np.zeros((7, 4)), "joint.text.weight does not fit: expected (7, 3)"),
        ("joint.text.weight", np.zeros((4, 3)), "expected (7, 3), got (4, 3)"),
        ("joint.audio.weight", None, "joint.audio.weight does not fit"),
        ("joint.share", None, "joint.share does not fit: expected (), got none"),
        ("joint.share", np.zeros(1), "joint.share does not fit: expected (), got (1,)"),
        ("joint.share", np.asarray(1.5), "joint.share is not a share: expected a number in [0, 1]"),
        ("joint.share", np.asarray(-0.1), "got -0.1"),
    ],
)
def test_a_damaged_one_is_refused(key: str, value: Any, words: str) -> None:
    damaged = with_parameters(artifact_of(Rows(6)), **{key: value})
    with pytest.raises(ArtifactError) as caught:
        Predictor(damaged, get_backend("numpy"))
    assert words in str(caught.value)
