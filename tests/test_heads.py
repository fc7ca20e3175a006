"""Heads against plain loops, and the sampling-free variance against every mask there is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import array_api_compat.numpy as numpy_xp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libraries import NUMPY, library
from numpy.typing import NDArray

from dms_spec.equations.heads import (
    HEAD_OUTPUTS,
    HEAD_PARAMETERS,
    apply_heads,
    draw_masks,
    dropout_variance,
)
from dms_spec.equations.namespace import Namespace
from dms_spec.errors import DMSError, MissingInput, ShapeError, SpecError, UnknownName

Arrays = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]

NAMES = ("image", "text", "audio")
FILLERS = [0.0, 1e30, np.nan, np.inf, -np.inf]


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def some_heads(
    seed: int,
    *,
    widths: tuple[int, ...] = (4, 7, 2),
    batch: int = 5,
    features: int = 3,
    classes: int = 4,
    passes: int = 6,
    dropout: float = 0.3,
    dtype: str = "float64",
) -> tuple[Arrays, Arrays]:
    """Embeddings and parameters as a fit would leave them."""
    random = rng(seed)
    embeddings: Arrays = {}
    parameters: Arrays = {}
    sizes = dict(zip(NAMES, widths, strict=False))
    masks = draw_masks(sizes, passes, dropout, seed)
    for name, width in sizes.items():
        embeddings[name] = random.normal(size=(batch, width)) * 2 + 1
        own: Arrays = {
            "scale.zero": random.normal(size=width),
            "scale.unit": random.uniform(0.5, 3, size=width),
            "projection.weight": random.normal(size=(width, features)),
            "projection.bias": random.normal(size=features),
            "classifier.weight": random.normal(size=(width, classes)),
            "classifier.bias": random.normal(size=classes),
            "dropout.masks": masks[name],
            "temperature": np.asarray(random.uniform(0.5, 2)),
        }
        assert set(own) == set(HEAD_PARAMETERS)
        parameters |= {f"heads.{name}.{short}": array for short, array in own.items()}
    return (
        {name: array.astype(dtype) for name, array in embeddings.items()},
        {name: array.astype(dtype) for name, array in parameters.items()},
    )


def softmax(row: Floats) -> Floats:
    e = np.exp(row - row.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]


def loops(
    embeddings: Arrays, present: NDArray[np.bool_], parameters: Arrays, dropout: float
) -> tuple[Arrays, Arrays]:
    """The outputs in float64, one number at a time, and the size of what each was summed from."""
    names = list(embeddings)
    features = parameters[f"heads.{names[0]}.projection.bias"].size
    classes = parameters[f"heads.{names[0]}.classifier.bias"].size
    passes, batch = len(parameters[f"heads.{names[0]}.dropout.masks"]), len(embeddings[names[0]])
    square = (batch, len(names))
    shapes = {
        "features": (*square, features),
        "logits": (*square, classes),
        "mc_logits": (passes, *square, classes),
        "variance": square,
    }
    out = {name: np.zeros(shape) for name, shape in shapes.items()}
    size = {name: np.zeros(shape) for name, shape in shapes.items()}
    for b, (m, name) in product(range(batch), enumerate(names)):
        if not present[b, m]:
            continue
        own = {
            short: np.asarray(parameters[f"heads.{name}.{short}"], dtype=np.float64)
            for short in HEAD_PARAMETERS
        }
        tau, keep = float(own["temperature"]), 1 - dropout
        width = embeddings[name].shape[1]
        s = [
            (float(embeddings[name][b, d]) - own["scale.zero"][d]) / own["scale.unit"][d]
            for d in range(width)
        ]
        for k in range(features):
            terms = [s[d] * own["projection.weight"][d, k] for d in range(width)]
            terms.append(own["projection.bias"][k])
            out["features"][b, m, k], size["features"][b, m, k] = sum(terms), sum(map(abs, terms))
        for k in range(classes):
            weight, bias = own["classifier.weight"][:, k], own["classifier.bias"][k]
            terms = [s[d] * weight[d] / tau for d in range(width)] + [bias / tau]
            out["logits"][b, m, k], size["logits"][b, m, k] = sum(terms), sum(map(abs, terms))
            for t in range(passes):
                terms = [
                    s[d] / keep * weight[d] / tau
                    for d in range(width)
                    if own["dropout.masks"][t, d]
                ]
                terms.append(bias / tau)
                out["mc_logits"][t, b, m, k] = sum(terms)
                size["mc_logits"][t, b, m, k] = sum(map(abs, terms))
        p, factor = softmax(out["logits"][b, m]), dropout / keep / tau**2
        for d in range(width):
            row = own["classifier.weight"][d]
            mean = sum(p[j] * row[j] for j in range(classes))
            for k in range(classes):
                out["variance"][b, m] += factor * (p[k] * s[d] * (row[k] - mean)) ** 2
                # Relative to the variance the probabilities are off by what the logits are.
                size["variance"][b, m] += (
                    factor
                    * (p[k] * s[d] * (abs(row[k]) + np.abs(row).max())) ** 2
                    * (1 + size["logits"][b, m].max())
                )
        out["variance"][b, m] = min(out["variance"][b, m], 1 - 1 / classes)
    return out, size


def assert_close(
    got: Mapping[str, Any], exact: Arrays, size: Arrays, dtype: str, terms: int
) -> None:
    """A sum of n terms is off by at most n eps of the sum of their sizes."""
    for name, array in got.items():
        assert array.dtype == dtype
        assert array.shape == exact[name].shape
        allowed = 2 * (terms + 4) * np.finfo(dtype).eps * size[name]
        assert (np.abs(array - exact[name]) <= allowed).all(), name


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "seed": draw(st.integers(0, 2**32)),
        "widths": tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))),
        "batch": draw(st.integers(0, 4)),
        "features": draw(st.integers(1, 4)),
        "classes": draw(st.integers(1, 5)),
        "passes": draw(st.integers(1, 4)),
        "dropout": draw(st.sampled_from([0.0, 0.1, 0.5, 0.9])),
    }


@pytest.mark.clause("DMS-D-001", "DMS-D-002", "DMS-D-004")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["numpy", "strict", "torch"])
@given(sizes=shapes(), density=st.sampled_from([0.0, 0.5, 1.0]), filler=st.sampled_from(FILLERS))
@settings(deadline=None, max_examples=40)
def test_every_library_does_what_the_loops_do(
    name: str, dtype: str, sizes: dict[str, Any], density: float, filler: float
) -> None:
    embeddings, parameters = some_heads(**sizes, dtype=dtype)
    present = rng(sizes["seed"]).random((sizes["batch"], len(embeddings))) < density
    exact, size = loops(embeddings, present, parameters, sizes["dropout"])
    for m, array in enumerate(embeddings.values()):
        array[~present[:, m]] = filler
    ns, into, back = library(name)
    got = apply_heads(
        ns,
        {k: into(v) for k, v in embeddings.items()},
        into(present),
        {k: into(v) for k, v in parameters.items()},
        modalities=tuple(embeddings),
        dropout=sizes["dropout"],
    )
    assert tuple(got) == HEAD_OUTPUTS
    result = {key: back(array) for key, array in got.items()}
    assert_close(result, exact, size, dtype, max(sizes["widths"]) + sizes["classes"])
    for array in result.values():
        absent = np.broadcast_to(~present if array.ndim == 2 else ~present[..., None], array.shape)
        assert (array[absent] == 0).all()


def test_without_a_mask_everything_is_present_and_parts_can_be_asked_for() -> None:
    embeddings, parameters = some_heads(1)
    run = partial(apply_heads, NUMPY, embeddings, modalities=NAMES, dropout=0.3)
    full = run(np.ones((5, 3), dtype=bool), parameters)
    for wanted in (("features",), ("logits",), ("mc_logits",), ("variance",), HEAD_OUTPUTS):
        part = run(None, parameters, outputs=wanted)
        assert tuple(part) == wanted
        for name in wanted:
            np.testing.assert_array_equal(part[name], full[name])
    bare = {k: v for k, v in parameters.items() if "masks" not in k and "projection" not in k}
    run(None, bare, outputs=("logits", "variance"))


def test_the_order_of_the_modalities_is_that_of_the_names() -> None:
    embeddings, parameters = some_heads(2)
    run = partial(apply_heads, NUMPY, embeddings, None, parameters, dropout=0.3)
    there, back = run(modalities=NAMES), run(modalities=NAMES[::-1])
    for name in HEAD_OUTPUTS:
        axis = 2 if name == "mc_logits" else 1
        np.testing.assert_array_equal(there[name], np.flip(back[name], axis))


def test_all_passes_are_one_product() -> None:
    """Counted: a loop over passes would be T products for each modality."""
    products = []

    def matmul(left: Any, right: Any) -> Any:
        products.append(left.shape)
        return np.matmul(left, right)

    counting = SimpleNamespace(**vars(numpy_xp))
    counting.matmul = matmul
    embeddings, parameters = some_heads(3, passes=50)
    apply_heads(
        Namespace.of(counting, np.ndarray),
        embeddings,
        None,
        parameters,
        modalities=NAMES,
        dropout=0.3,
        outputs=("mc_logits",),
    )
    assert products == [embeddings[name].shape for name in NAMES]


def test_dropping_nothing_changes_nothing() -> None:
    embeddings, parameters = some_heads(4, dropout=0.0)
    got = apply_heads(NUMPY, embeddings, None, parameters, modalities=NAMES, dropout=0.0)
    exact, size = loops(embeddings, np.ones((5, 3), dtype=bool), parameters, 0.0)
    np.testing.assert_array_equal(got["variance"], 0)
    for run in got["mc_logits"]:
        allowed = 20 * np.finfo(np.float64).eps * size["logits"]
        assert (np.abs(run - exact["logits"]) <= allowed).all()


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (("float16", "float16", "float16"), "float32"),
        (("float32", "float16", "float32"), "float32"),
        (("float32", "float64", "float16"), "float64"),
    ],
)
def test_half_is_computed_in_single_and_double_wins(dtypes: tuple[str, ...], expected: str) -> None:
    embeddings, parameters = some_heads(5)
    mixed = {k: v.astype(d) for (k, v), d in zip(embeddings.items(), dtypes, strict=True)}
    same = {k: v.astype(expected) for k, v in mixed.items()}
    for stored in ("float16", "float32", "float64"):
        kept = {k: v.astype(stored) for k, v in parameters.items()}
        run = partial(apply_heads, NUMPY, present=None, parameters=kept, dropout=0.3)
        got, wide = run(embeddings=mixed, modalities=NAMES), run(embeddings=same, modalities=NAMES)
        for name, array in got.items():
            assert array.dtype == expected
            np.testing.assert_array_equal(array, wide[name])


@pytest.mark.clause("DMS-D-004")
@pytest.mark.parametrize("name", ["numpy", "strict", "torch"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_present_and_not_finite_stays_so(name: str, bad: float) -> None:
    """Else the pipeline could not count it as absent; the other samples do not notice."""
    embeddings, parameters = some_heads(6)
    ns, into, back = library(name)

    def run() -> Arrays:
        with np.errstate(invalid="ignore"):
            got = apply_heads(
                ns,
                {k: into(v) for k, v in embeddings.items()},
                None,
                {k: into(v) for k, v in parameters.items()},
                modalities=NAMES,
                dropout=0.3,
            )
        return {key: back(array) for key, array in got.items()}

    clean = run()
    embeddings["text"][2, 4] = bad
    changed = run()
    hit = np.zeros((5, 3), dtype=bool)
    hit[2, 1] = True
    for key, array in changed.items():
        where = hit if array.ndim == 2 else np.broadcast_to(hit[..., None], array.shape)
        if key == "mc_logits":
            kept = parameters["heads.text.dropout.masks"][:, 4].astype(bool)
            where = where & kept[:, None, None, None]
            # Dropped: 0 * Inf and 0 * NaN are NaN.
            assert not np.isfinite(array[~kept][:, hit]).any()
            where = where | np.broadcast_to(hit[..., None], array.shape)
        assert not np.isfinite(array[where]).any(), key
        np.testing.assert_array_equal(array[~where], clean[key][~where])


def refused(kind: type[DMSError], *words: str, **changes: Any) -> None:
    embeddings, parameters = some_heads(7)
    given = {
        "embeddings": embeddings,
        "present": None,
        "parameters": parameters,
        "modalities": NAMES,
        "dropout": 0.3,
    }
    for name, change in changes.items():
        given[name] = change(given[name])
    with pytest.raises(kind) as caught:
        apply_heads(NUMPY, **given)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)


def test_what_does_not_fit_is_refused_by_name() -> None:
    def without(key: str) -> Any:
        return lambda arrays: {k: v for k, v in arrays.items() if k != key}

    def changed(key: str, array: Any) -> Any:
        return lambda arrays: arrays | {key: array}

    refused(MissingInput, "'text'", embeddings=without("text"))
    refused(SpecError, "heads.text.temperature", parameters=without("heads.text.temperature"))
    refused(ShapeError, "'text'", "B = 5", "[4, 7]", embeddings=changed("text", np.ones((4, 7))))
    refused(ShapeError, "'text'", "[5]", embeddings=changed("text", np.ones(5)))
    for short, shape, axis in (
        ("projection.weight", (6, 3), "D_m = 7"),
        ("projection.bias", (4,), "D = 3"),
        ("classifier.weight", (7, 5), "C = 4"),
        ("dropout.masks", (5, 7), "T = 6"),
        ("temperature", (1,), "[]"),
    ):
        key = f"heads.text.{short}"
        refused(ShapeError, key, axis, parameters=changed(key, np.ones(shape)))
    for rate in (-0.1, 1.0, float("nan")):
        refused(SpecError, "rate", dropout=lambda _, rate=rate: rate)
    embeddings, parameters = some_heads(7)
    with pytest.raises(UnknownName, match="logits"):
        apply_heads(
            NUMPY, embeddings, None, parameters, modalities=NAMES, dropout=0.3, outputs=("logit",)
        )


# --- gradients -----------------------------------------------------------------------------------


def torch_heads(filler: float, seed: int = 8) -> tuple[Any, dict[str, Any], Any, dict[str, Any]]:
    torch = pytest.importorskip("torch")
    embeddings, parameters = some_heads(seed)
    present = rng(seed).random((5, 3)) < 0.6
    present[0], present[1] = False, True
    for m, array in enumerate(embeddings.values()):
        array[~present[:, m]] = filler
    to = {k: torch.from_numpy(v).requires_grad_() for k, v in embeddings.items()}
    own = {k: torch.from_numpy(v) for k, v in parameters.items()}
    for key, tensor in own.items():
        tensor.requires_grad_("masks" not in key)
    return library("torch")[0], to, torch.from_numpy(present), own


@pytest.mark.parametrize("output", HEAD_OUTPUTS)
def test_gradients_are_those_of_finite_differences(output: str) -> None:
    torch = pytest.importorskip("torch")
    ns, embeddings, present, parameters = torch_heads(0.0)
    keys = [key for key, tensor in parameters.items() if tensor.requires_grad]

    def run(*tensors: Any) -> Any:
        changed = dict(zip([*NAMES, *keys], tensors, strict=True))
        got = apply_heads(
            ns,
            {name: changed.pop(name) for name in NAMES},
            present,
            parameters | changed,
            modalities=NAMES,
            dropout=0.3,
            outputs=(output,),
        )
        return got[output]

    tensors = [embeddings[name] for name in NAMES] + [parameters[key] for key in keys]
    assert torch.autograd.gradcheck(run, tensors)


@pytest.mark.clause("DMS-D-004")
def test_nothing_absent_reaches_a_gradient() -> None:
    torch = pytest.importorskip("torch")
    seen: list[dict[str, Any]] = []
    for filler in FILLERS:
        ns, embeddings, present, parameters = torch_heads(filler)
        got = apply_heads(ns, embeddings, present, parameters, modalities=NAMES, dropout=0.3)
        sum((array**2).sum() for array in got.values()).backward()
        for m, name in enumerate(NAMES):
            gradient = embeddings[name].grad
            assert torch.isfinite(gradient).all()
            assert (gradient[~present[:, m]] == 0).all()
            assert (gradient[present[:, m]] != 0).any()
        seen.append({k: v.grad for k, v in parameters.items() if v.requires_grad})
        assert all(torch.isfinite(gradient).all() for gradient in seen[-1].values())
        for key, gradient in seen[-1].items():
            assert torch.equal(gradient, seen[0][key]), key


def test_where_nothing_is_present_the_parameters_learn_nothing() -> None:
    ns, embeddings, present, parameters = torch_heads(float("nan"))
    got = apply_heads(ns, embeddings, present & False, parameters, modalities=NAMES, dropout=0.3)
    sum((array + 1).pow(2).sum() for array in got.values()).backward()
    for tensor in parameters.values():
        assert not tensor.requires_grad or (tensor.grad == 0).all()


@pytest.mark.parametrize("case", ["zero input", "one-hot", "huge input", "huge and level"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_variance_has_finite_gradients_at_the_edges(case: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    ns, into, _ = library("torch")
    random = rng(9)
    x, weight = random.normal(size=(3, 5)), random.normal(size=(5, 4))
    x *= {"zero input": 0.0, "one-hot": 1e3}.get(case, 1e30)
    if case == "huge and level":  # the classes do not differ, whatever comes in
        weight[:] = 1.0
    arrays = (x, weight, x @ weight)
    tensors = [into(array.astype(dtype)).requires_grad_() for array in arrays]
    value = dropout_variance(ns, tensors[0], tensors[1], tensors[2], 0.3, 1.0)
    assert torch.isfinite(value).all()
    assert ((value >= 0) & (value <= 0.75)).all()
    value.sum().backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in tensors)


def test_one_compiled_graph_serves_every_batch_and_mask() -> None:
    torch = pytest.importorskip("torch")
    ns, _, _, parameters = torch_heads(0.0)
    parameters = {k: v.detach() for k, v in parameters.items()}
    run = partial(apply_heads, ns, modalities=NAMES, dropout=0.3)
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch in (11, 5, 3):  # the first unlike M and D, which torch would take for B
            embeddings = {
                k: torch.from_numpy(v) for k, v in some_heads(batch, batch=batch)[0].items()
            }
            present = torch.from_numpy(rng(batch).random((batch, 3)) < 0.5)
            got = compiled(embeddings, present, parameters)
            for key, array in run(embeddings, present, parameters).items():
                torch.testing.assert_close(got[key], array, rtol=1e-12, atol=1e-12)


# --- the sampling-free variance ------------------------------------------------------------------


def every_mask(width: int, dropout: float) -> tuple[Floats, Floats]:
    """All 2^D masks, scaled as dropout scales, less 1; and how likely each is."""
    kept = np.array(list(product([0.0, 1.0], repeat=width)))
    likely = np.prod(np.where(kept > 0, 1 - dropout, dropout), axis=1)
    return kept / (1 - dropout) - 1, likely


@st.composite
def small_heads(draw: st.DrawFn) -> tuple[Floats, Floats, Floats, float, float]:
    """x [D], W [D, C], l [C], dropout, temperature, of a size that all masks can be tried."""
    random = rng(draw(st.integers(0, 2**32)))
    width, classes = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    dropout = draw(st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.8]))
    temperature = draw(st.sampled_from([0.5, 1.0, 3.0]))
    scale = draw(st.sampled_from([1e-3, 0.03, 0.3, 1.0, 5.0]))
    x, weight = random.normal(size=width), random.normal(size=(width, classes)) * scale
    bias = random.normal(size=classes) * draw(st.sampled_from([0.0, 1.0, 5.0]))
    return x, weight, (x @ weight + bias) / temperature, dropout, temperature


def estimate(x: Floats, weight: Floats, logits: Floats, dropout: float, tau: float) -> float:
    return float(dropout_variance(NUMPY, x[None], weight, logits[None], dropout, tau)[0])


@pytest.mark.clause("DMS-D-001")
@given(small_heads())
@settings(deadline=None, max_examples=200)
def test_the_variance_is_exact_to_first_order(
    head: tuple[Floats, Floats, Floats, float, float],
) -> None:
    """The covariance of the logits over every mask, through the Jacobian of the softmax."""
    x, weight, logits, dropout, tau = head
    noise, likely = every_mask(len(x), dropout)
    delta = (noise * x) @ weight / tau
    covariance = np.einsum("t,tj,tk->jk", likely, delta, delta)
    p = softmax(logits)
    jacobian = np.diag(p) - np.outer(p, p)
    exact = min(np.trace(jacobian @ covariance @ jacobian.T), 1 - 1 / len(p))
    # Both sides sum some D C^2 terms of this size, and there are 2^D masks.
    size = np.trace(np.diag(p**2) @ np.diag(np.diag(covariance))) + np.abs(covariance).max()
    assert abs(estimate(*head) - exact) <= 1e3 * np.finfo(float).eps * size


@given(small_heads())
@settings(deadline=None, max_examples=300)
def test_the_error_stays_within_its_bound(
    head: tuple[Floats, Floats, Floats, float, float],
) -> None:
    """|sd - estimated sd| <= sqrt(E range^4) / 4: proven, and here tried on every mask.

    The remainder of the softmax along delta is at most sup Var_p(delta) <= range^2 / 4, and
    standard deviations differ by no more than the root mean square of what separates them. At
    the small scales the bound is far below the value, so a wrong estimate cannot hide in it.
    """
    x, weight, logits, dropout, tau = head
    noise, likely = every_mask(len(x), dropout)
    delta = (noise * x) @ weight / tau
    p = softmax(logits + delta)
    mean = likely @ p
    true = float((likely @ (p - mean) ** 2).sum())
    bound = np.sqrt(likely @ np.ptp(delta, axis=1) ** 4) / 4
    # A root of what is off by eps^2 of the largest term is off by eps.
    assert abs(np.sqrt(true) - np.sqrt(estimate(*head))) <= bound + 1e-12


@pytest.mark.parametrize(
    ("scale", "dropout", "median", "ninth_decile"),
    [
        # Measured with 20 000 passes, twice that is allowed; scale is the logits' deviation.
        (0.5, 0.1, 0.02, 0.04),
        (0.5, 0.5, 0.03, 0.06),
        (1.0, 0.1, 0.04, 0.15),
        (1.0, 0.5, 0.30, 0.60),
        (2.0, 0.1, 0.30, 0.90),
    ],
)
def test_the_variance_beside_twenty_thousand_passes(
    scale: float, dropout: float, median: float, ninth_decile: float
) -> None:
    """First order: good to a few per cent while the logits are not far apart, and then less.

    The sampled variance itself is uncertain by about sqrt(2 / 20 000) = 1 %.
    """
    random, width, batch, classes = rng(10), 128, 48, 10
    x = random.normal(size=(batch, width)).astype(np.float32)
    weight = (random.normal(size=(width, classes)) * scale / np.sqrt(width)).astype(np.float32)
    ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
    parameters = {
        "scale.zero": zeros,
        "scale.unit": ones,
        "classifier.weight": weight,
        "classifier.bias": np.zeros(classes, np.float32),
        "dropout.masks": draw_masks({"one": width}, 20_000, dropout, 11)["one"],
        "temperature": np.ones((), np.float32),
    }
    got = apply_heads(
        NUMPY,
        {"one": x},
        None,
        {f"heads.one.{name}": array for name, array in parameters.items()},
        modalities=("one",),
        dropout=dropout,
        outputs=("mc_logits", "variance"),
    )
    sampled = softmax(got["mc_logits"][:, :, 0]).var(axis=0, dtype=np.float64).sum(axis=-1)
    error = np.abs(got["variance"][:, 0] / sampled - 1)
    assert np.median(error) <= median
    assert np.quantile(error, 0.9) <= ninth_decile


@pytest.mark.parametrize("classes", [2, 10, 300])
@pytest.mark.parametrize("scale", [0.3, 3.0, 6.0])
@pytest.mark.parametrize("common", [0.0, 3.0])
def test_round_off_stays_small_for_confident_rows(
    classes: int, scale: float, common: float
) -> None:
    """Where the squared-out form is wrong by orders of magnitude, and negative.

    In float32, relative to the value itself: p is off by eps (1 + |l|) and comes in squared.
    """
    random, width = rng(12), 256
    x = random.normal(size=(200, width)).astype(np.float32)
    weight = random.normal(size=(width, classes)) * scale + common * random.normal(size=(width, 1))
    weight = (weight / np.sqrt(width)).astype(np.float32)
    logits = x @ weight
    got = dropout_variance(NUMPY, x, weight, logits, 0.1, 1.0)
    assert got.dtype == np.float32
    p = softmax(logits.astype(np.longdouble))
    exact = np.empty(len(x))
    for row in range(len(x)):
        centred = weight - (weight @ p[row])[:, None]
        exact[row] = ((x[row][:, None] * p[row] * centred) ** 2).sum() / 9
    exact = np.minimum(exact, 1 - 1 / classes)
    lowest = np.ptp(logits, axis=1)
    np.testing.assert_array_less(
        np.abs(got - exact), 16 * np.finfo(np.float32).eps * (1 + lowest) * exact + 1e-38
    )


@pytest.mark.clause("DMS-D-005")
def test_round_off_never_makes_it_negative() -> None:
    """Classes with the same weights have a variance of 0, and round-off of either sign."""
    random = rng(15)
    x = random.normal(size=(500, 64)).astype(np.float32)
    weight = random.normal(size=(64, 1)).repeat(3, axis=1).astype(np.float32)
    weight[:, 2] *= -1
    assert (dropout_variance(NUMPY, x, weight, x @ weight, 0.3, 1.0) >= 0).all()
    alike = weight[:, :2]
    assert (dropout_variance(NUMPY, x, alike, x @ alike, 0.3, 1.0) == 0).all()


def test_the_variance_is_that_of_the_calibrated_probabilities() -> None:
    """Halving the logits by the temperature is halving the weights."""
    x, weight = rng(13).normal(size=5), rng(14).normal(size=(5, 3))
    logits = x @ weight / 2
    assert estimate(x, weight, logits, 0.2, 2.0) == pytest.approx(
        estimate(x, weight / 2, logits, 0.2, 1.0), rel=1e-14
    )


# --- masks ---------------------------------------------------------------------------------------


@pytest.mark.clause("DMS-D-003")
def test_masks_depend_on_seed_and_name_and_nothing_else() -> None:
    widths = {"image": 50, "text": 30, "audio": 50}
    first = draw_masks(widths, 10, 0.3, 5)
    again = draw_masks(dict(reversed(widths.items())), 10, 0.3, 5)
    alone = draw_masks({"text": 30}, 10, 0.3, 5)
    longer = draw_masks(widths, 100, 0.3, 5)
    for name, width in widths.items():
        assert first[name].shape == (10, width)
        assert first[name].dtype == np.float32
        assert set(np.unique(first[name])) <= {0.0, 1.0}
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_array_equal(first[name], longer[name][:10])
    np.testing.assert_array_equal(first["text"], alone["text"])
    assert (first["image"] != first["audio"]).any()
    assert (first["image"] != draw_masks(widths, 10, 0.3, 6)["image"]).any()


@pytest.mark.clause("DMS-D-003")
def test_masks_are_the_same_on_every_machine() -> None:
    drawn = draw_masks({"\u753b\u50cf": 12, "text": 12}, 2, 0.5, 2026)
    assert ["".join(str(int(x)) for x in row) for rows in drawn.values() for row in rows] == [
        "111111111100",
        "100011110001",
        "000100010100",
        "101010011110",
    ]


@given(
    rate=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    seed=st.integers(0, 2**64),
    name=st.text(min_size=1, max_size=8),
)
@settings(deadline=None, max_examples=50)
def test_masks_keep_as_often_as_the_rate_says(rate: float, seed: int, name: str) -> None:
    """Within six standard deviations of a binomial, in all and apart from its neighbours."""
    kept = draw_masks({name: 100}, 200, rate, seed)[name].astype(np.float64)
    deviation = np.sqrt(rate * (1 - rate) / kept.size)
    assert abs(kept.mean() - (1 - rate)) <= 6 * deviation
    for neighbour in (kept[1:] * kept[:-1], kept[:, 1:] * kept[:, :-1]):
        both = (1 - rate) ** 2
        # Products of neighbours overlap: at most three times the variance of independent ones.
        allowed = 6 * np.sqrt(3 * both * (1 - both) / neighbour.size)
        assert abs(neighbour.mean() - both) <= allowed


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("passes", {"passes": 0}),
        ("rate", {"rate": 1.0}),
        ("rate", {"rate": -0.1}),
        ("seed", {"seed": -1}),
        ("width of 'a'", {"widths": {"a": 0}}),
    ],
)
def test_masks_that_cannot_be_are_refused(word: str, change: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=word):
        partial(draw_masks, widths={"a": 3}, passes=2, rate=0.5, seed=0)(**change)
