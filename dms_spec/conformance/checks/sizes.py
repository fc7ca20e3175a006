"""Checks arrays of every size: past the blocks, words and counters that an implementation has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dms_spec.conformance import drawing, strategies
from dms_spec.conformance.context import Arrays, everything
from dms_spec.conformance.oracle import POLICIES
from dms_spec.conformance.registry import Context, check
from dms_spec.spec import SchedulerSpec

# Just past what blocks, vectors and counters hold. What comes first is tried with few examples too.
_SIZES = {
    "classes": (1025, 130, 64, 4099, 257, 23, 519, 101, 28, 1100),
    "width": (513, 128, 65, 2051, 256, 1025, 31, 100, 520, 77),
    "passes": (17, 33, 64, 7, 129, 20, 31, 4, 14, 6),
    "modalities": (65, 33, 128, 9, 100, 17, 48, 67, 129, 12),
}
_SHORT = 30
_MANY = 5000
# Lost beside 1 in every dtype, and a number in all of them but half precision.
_NEXT_TO_NOTHING = 1e-18
_ROWS = (1001, 33, 128, 65_537, 4099, 257, 7, 16, 2050, 64, 24, 31, 12)


def _case(
    ctx: Context, random: np.random.Generator, policy: str, fusion: str, **sizes: int
) -> strategies.Case:
    """Draws ordinary numbers with gaps, and every signal.

    Of a long axis, few entries are of ordinary size, the last ones among them, and the others are
    next to nothing. So no order of summation loses more than closeness allows.
    """
    b, m, d = sizes.get("rows", 2), sizes.get("modalities", 3), sizes.get("width", 5)
    c, t = sizes.get("classes", 4), sizes.get("passes", 3)
    drawn = {
        "features": random.normal(size=(b, m, d)),
        "logits": 2 * random.normal(size=(b, m, c)),
        "mc_logits": 2 * random.normal(size=(t, b, m, c)),
    }
    drawn["mc_logits"][-1] *= -1
    for name, array in drawn.items():
        array[..., -1] += 2 + random.normal(size=array.shape[:-1])
        few = np.isin(np.arange(array.shape[-1]), _few(array.shape[-1]))
        array[..., ~few] = array[..., ~few] * _NEXT_TO_NOTHING if name == "features" else -60.0
    arrays: Arrays = {name: array.astype(ctx.dtype) for name, array in drawn.items()}
    arrays["present"] = random.random((b, m)) < 0.8
    arrays["present"][0] = True
    arrays["present"][:, -1] = True
    strategies.fill_absent(arrays, np.nan)
    trusts = policy == "soundness"
    weighed = strategies.DRAWN if policy in strategies.WEIGHING else ()
    weighed = ("typicality",) if trusts else weighed
    spec = SchedulerSpec(
        modalities=strategies.names(m),
        policy=policy,
        signals={name: {} for name in strategies.SIGNAL_OPTIONS},
        coefficients=dict.fromkeys(weighed, 0.7),
        fusion="evidence" if trusts else fusion,  # type: ignore[arg-type]
    )
    own = drawing.parameters(
        spec, random, width=d, classes=c, dtype=ctx.computing, optional=True, own=True
    )
    return strategies.Case(spec=spec, arrays=arrays, parameters=own)


def _few(length: int) -> NDArray[np.int64]:
    """Places along an axis: all of a short one; of a long one the ends, and some in between."""
    if length <= _SHORT:
        return np.arange(length)
    between = np.linspace(2, length - 5, _SHORT - 6).astype(np.int64)
    return np.concatenate([[0, 1], between, np.arange(length - 4, length)])


def _policies(ctx: Context) -> list[str]:
    return [name for name in POLICIES if not ctx.lacks((f"policy:{name}",))]


@check("DMS-N-001", "DMS-P-001")
def check_large_cases_match_the_oracle(ctx: Context) -> None:
    """However many classes, features, passes or modalities there are, the oracle is matched."""
    policies, levels = _policies(ctx), ("feature", "logit", "probability")
    for random, (place, (turn, axis)) in ctx.grid(range(10), enumerate(_SIZES)):
        policy = policies[(place + turn) % len(policies)]
        size = {axis: _SIZES[axis][place]}
        case = _case(ctx, random, policy, levels[(place + turn) % 3], **size)
        ctx.expect_exact("DMS-N-001", case.spec, case.arrays, case.parameters)


@check("DMS-C-009")
def check_products_are_not_narrowed(ctx: Context) -> None:
    """Long sums and products are as exact as short ones, whatever precision is claimed."""
    policy = ctx.plain_policy()
    for random, (size, level) in ctx.grid((64, 512, 130, 2051), ("feature", "logit")):
        case = _case(ctx, random, policy, level, classes=size, width=size, passes=2)
        # Weights that no narrower format holds.
        spec = case.spec.replace(
            signals={"alignment": {}, "anchored_alignment": {}}, coefficients={}
        )
        own = {
            name: array
            for name, array in case.parameters.items()
            if not name.startswith("signals.typicality.")
        }
        ctx.expect_exact("DMS-C-009", spec, case.arrays, own)


@check("DMS-W-005", "DMS-C-005")
def check_rows_are_alike_however_many(ctx: Context) -> None:
    """Rows that are repeated in any order give what they give once, notes included."""
    policies, levels = _policies(ctx), ("feature", "logit", "probability")
    for random, (rows,) in ctx.grid(_ROWS):
        policy = policies[int(random.integers(len(policies)))]
        level = levels[int(random.integers(3))]
        passes, width = int(random.choice([1, 3])), int(random.choice([2, 5, 40, 130]))
        classes = int(random.choice([2, 4, 60])) if rows < _MANY else 4
        case = _case(
            ctx, random, policy, level, rows=5, width=width, passes=passes, classes=classes
        )
        order = random.permutation(np.arange(rows) % 5)
        many = {
            name: array[:, order] if name == "mc_logits" else array[order]
            for name, array in case.arrays.items()
        }
        few = ctx.schedule(case.spec, case.arrays, case.parameters)
        found = ctx.schedule(case.spec, many, case.parameters)
        allowed = ctx.allowed(case.spec, case.arrays, case.parameters)
        ctx.expect("DMS-W-005", found.notes == few.notes, f"{rows} rows have other notes")
        one, all_ = everything(few), everything(found)
        for name, array in all_.items():
            wanted = one[name][order]
            ctx.expect("DMS-W-005", array.shape == wanted.shape, f"{name} of {rows} rows")
            near = array == wanted
            if name in allowed:
                with np.errstate(invalid="ignore"):
                    off = np.abs(array.astype(np.float64) - wanted.astype(np.float64))
                near |= off <= allowed[name][order]
            what = f"{name} of a row among {rows} differs from that of the row among 5"
            ctx.expect("DMS-W-005", near, what, array, wanted)


_WIDE = {"features": 300, "logits": 700, "mc_logits": 150}


@check("DMS-P-004", "DMS-P-005")
def check_what_is_not_finite_is_found_anywhere(ctx: Context) -> None:
    """The one number of a large array that is not finite is found, wherever it is."""
    bad = (np.nan, np.inf)
    for random, (_, number, role, count) in ctx.grid(range(3), bad, _WIDE, (5, 70)):
        drawn: Arrays = {
            "features": random.normal(size=(count, 3, 300 if role == "features" else 2)),
            "logits": random.normal(size=(count, 3, 700 if role == "logits" else 2)),
        }
        if role == "mc_logits":
            drawn["logits"] = random.normal(size=(count, 3, 150))
            drawn["mc_logits"] = random.normal(size=(18, count, 3, 150))
        arrays = {name: array.astype(ctx.dtype) for name, array in drawn.items()}
        expected = np.ones((count, 3), dtype=bool)
        row, modality = int(random.integers(count)), int(random.integers(3))
        where = arrays[role][..., row, modality, :]
        where[tuple(int(random.integers(size)) for size in where.shape)] = number
        expected[row, modality] = False
        spec = SchedulerSpec(modalities=strategies.names(3), policy=ctx.plain_policy())
        result = ctx.schedule(spec, arrays)
        what = f"active is wrong beside {number} in {role}"
        ctx.expect("DMS-P-004", result.active == expected, what, result.active, expected)
        finite = np.isfinite(result.fused) & np.isfinite(result.weights).all(axis=1)[:, None]
        ctx.expect("DMS-P-005", finite, f"{number} in {role} comes out", result.fused)
