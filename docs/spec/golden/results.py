"""Lists cases of weights, fusion, numerics and shapes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dms_spec.spec import SchedulerSpec
from golden.cases import INF, NAN, PAPER, Case, batch, draw, names, one_signal, only, spec


def w_weights() -> Iterator[Case]:
    def static(count: int, *bias: float) -> tuple[SchedulerSpec, dict, dict]:
        features = draw(f"static {count}", 1, count, 2)
        return spec(count, "static"), {"features": features}, {"policy.bias": list(bias)}

    yield Case("DMS-W-007", "ties: equal scores", *static(4, 0.5, 0.5, 0.5, 0.5))
    yield Case("DMS-W-007", "ties: two and two", *static(4, 2.0, -1.0, 2.0, -1.0))
    equal = {role: np.repeat(a[..., :1, :], 3, axis=-2) for role, a in batch("equal", b=1).items()}
    yield Case("DMS-W-007", "ties: equal modalities", PAPER, equal)
    yield Case("DMS-W-006", "scores", *static(3, 1.0, -2.0, 0.5))
    yield Case("DMS-W-006", "the same scores, shifted by 1e4", *static(3, 10001.0, 9998.0, 10000.5))
    yield Case(
        "DMS-W-006", "the same scores, shifted by -1e4", *static(3, -9999.0, -10002.0, -9999.5)
    )
    yield Case("DMS-W-001 DMS-N-001", "a gap of 90: next to 0", *static(3, 90.0, 0.0, 1.0))
    yield Case("DMS-W-001 DMS-N-001", "a gap of 1e4: underflow to 0", *static(3, 1e4, 0.0, -1e4))
    yield Case("DMS-W-008", "a score of NaN: refused", *static(3, NAN, 0.0, 1.0))
    yield Case("DMS-W-008", "a score of infinity: refused", *static(3, 1.0, INF, 1.0))
    steep = {"logits": draw("steep scores", 1, 3, 3, span=1e18)}
    yield Case("DMS-N-001", "scores of 1e18", one_signal("energy", coefficient=1.0), steep)
    one = SchedulerSpec.preset("paper", names(1))
    single = batch("M = 1", m=1) | {"present": [[1], [0]]}
    yield Case("DMS-W-003 DMS-P-007", "one modality", one, single)
    eight = SchedulerSpec.preset("paper", names(8))
    many = batch("M = 8", m=8, c=2) | {"present": [[1] * 8, [1, 0, 1, 1, 0, 0, 1, 1]]}
    yield Case("DMS-W-002", "eight modalities", eight, many)
    arrays = batch("order")
    yield Case("DMS-W-004 DMS-W-005", "two samples", PAPER, arrays)
    turned = {role: a[..., [2, 0, 1], :][..., :1, :, :] for role, a in arrays.items()}
    yield Case("DMS-W-004 DMS-W-005", "the first of them alone, reordered", PAPER, turned)


def f_fusion() -> Iterator[Case]:
    arrays = only(batch("fusion"), "features", "logits")
    bias = {"policy.bias": draw("bias", 3)}
    mask = {"present": [[1, 1, 1], [1, 0, 1]]}
    for clause, level in (
        ("DMS-F-001 DMS-F-004", "feature"),
        ("DMS-F-002", "logit"),
        ("DMS-F-003", "probability"),
    ):
        static = spec(3, "static", fusion=level)
        yield Case(clause, f"{level} level, drawn", static, arrays, bias)
        yield Case(clause, f"{level} level, one absent", static, arrays | mask, bias)
    logit = spec(3, "static", fusion="logit")
    ruled = {"logits": arrays["logits"].copy()}
    ruled["logits"][0, 0, 1] = ruled["logits"][1, 2, :2] = -INF
    yield Case("DMS-F-002", "a class that one rules out", logit, ruled, bias)
    yield Case(
        "DMS-F-002",
        "ruled out, with a weight of 0",
        logit,
        ruled,
        {"policy.bias": [-1e4, 0.0, 1.0]},
    )
    absent = ruled | {"present": [[0, 1, 1], [1, 1, 0]]}
    yield Case("DMS-F-002", "ruled out by an absent one: not ruled out", logit, absent, bias)
    mixed = logit.replace(fusion="probability")
    yield Case("DMS-F-003 DMS-N-004", "probabilities, with classes ruled out", mixed, ruled, bias)
    single = {"logits": draw("one class", 1, 3, 1)}
    yield Case("DMS-F-003", "probabilities of one class", mixed, single, bias)
    feature = logit.replace(fusion="feature")
    for size in (1e-30, 1e18):
        scaled = {"features": arrays["features"] * size}
        yield Case("DMS-F-001 DMS-N-001", f"features of size {size:g}", feature, scaled, bias)


def f_evidence() -> Iterator[Case]:
    plain = spec(3, "soundness", fusion="evidence")
    logits = only(batch("evidence"), "logits")
    fitted = {
        "fusion.prior": [0.5, 0.375, 0.125],
        "fusion.priors": [[0.25, 0.25, 0.5], [0.625, 0.25, 0.125], [0.5, 0.375, 0.125]],
        "fusion.redundancy": -1.0,
        "policy.doubt": -2.0,
        "policy.exponent": [0.5, -1.0, 2.0],
    }
    level = {name: array for name, array in fitted.items() if "fusion" in name}
    mask = {"present": [[1, 1, 1], [1, 0, 1]]}
    all_of_it = "DMS-F-005 DMS-F-006 DMS-F-007 DMS-L-010"
    yield Case("DMS-F-011 DMS-F-005 DMS-F-006 DMS-F-007", "without parameters", plain, logits)
    yield Case(all_of_it, "with parameters", plain, logits, fitted)
    yield Case("DMS-F-012 DMS-F-005", "with parameters, one absent", plain, logits | mask, fitted)
    placed = {
        f"signals.typicality.{name}": array
        for name, array in {
            "center": draw("evidence center", 3, 2, span=1.0),
            "whitening": [[1.0, 0.5], [2.0, 1.0], [0.5, 0.25]],
            "deviations": [[1.0, 2.0], [0.5, 1.0], [2.0, 4.0]],
            "prototypes": draw("evidence prototypes", 3, 2, 2, span=1.0),
            "outside": [0.0, 0.0, 0.0],
            "band": [[-1.0, 0.5], [-0.5, 0.25], [-2.0, 1.0]],
            "loss": [[4.0, 0.5], [2.0, 0.25], [16.0, 0.0]],
        }.items()
    }
    typical = plain.replace(signals={"typicality": {}}, coefficients={"typicality": 1.0})
    untypical = only(batch("evidence"), "features", "logits")
    untypical["features"][0, 0] *= 64.0
    yield Case(all_of_it, "trust by typicality", typical, untypical, fitted | placed)
    alone = {"logits": logits["logits"], "present": [[1, 0, 0], [0, 0, 1]]}
    yield Case("DMS-W-003 DMS-F-006", "one present: all the weight", plain, alone, fitted)
    loud = {"logits": logits["logits"].copy()}
    loud["logits"][:, 0] = [[-60.0, 60.0, -60.0], [1e4, -1e4, 0.0]]
    yield Case("DMS-F-008", "one is sure, and overrules nobody", plain, loud, fitted)
    ruled = {"logits": logits["logits"].copy()}
    ruled["logits"][0, 0, 1] = ruled["logits"][1, 2, :2] = -INF
    yield Case("DMS-F-008 DMS-N-004", "ruled out by one: no less bounded", plain, ruled, fitted)
    unseen = level | {"fusion.priors": [[0.5, 0.5, 0.0], [0.625, 0.25, 0.125], [0.0, 0.0, 0.0]]}
    yield Case("DMS-F-009", "a class never seen, and nothing seen", plain, logits, unseen)
    unsaid = {"logits": ruled["logits"].copy()}
    unsaid["logits"][0, 0] = [-INF, -INF, 0.0]
    yield Case("DMS-F-009", "all that it knows is ruled out", plain, unsaid, unseen)
    impossible = level | {"fusion.prior": [0.0, 0.25, 0.75]}
    yield Case("DMS-F-005", "a class that is impossible", plain, logits, impossible)
    sure = fitted | {"policy.doubt": -64.0}
    yield Case("DMS-F-005", "trust of 1: the least doubt is left", plain, logits, sure)
    single = {"logits": draw("evidence of one class", 1, 3, 1)}
    yield Case("DMS-F-005", "one class", plain, single)
    huge = {"logits": draw("evidence of 1e18", 1, 3, 3, span=1e18)}
    yield Case("DMS-N-001 DMS-F-007", "logits of 1e18", plain, huge, fitted)


def n_numerics() -> Iterator[Case]:
    def full(name: str, b: int = 1, span: float = 8.0) -> dict:
        """Every bit of the mantissa drawn, so that rounding has something to do."""
        return {
            "features": draw(f"{name} features", b, 3, 3, span=span, bits=53),
            "logits": draw(f"{name} logits", b, 3, 3, span=span, bits=53),
            "mc_logits": draw(f"{name} mc_logits", 2, b, 3, 3, span=span, bits=53),
        }

    yield Case("DMS-N-001 DMS-A-007", "full mantissas", PAPER, full("full", b=2))
    steep = spec(
        3,
        signals={"confidence": {}, "uncertainty": {"reduction": "sum"}, "corroboration": {}},
        coefficients={"confidence": 0.5, "uncertainty": 0.5, "corroboration": 0.5},
        fusion="logit",
    )
    yield Case("DMS-N-001 DMS-L-003", "full mantissas, steep", steep, full("steep", span=60.0))
    far = full("offset", span=2.0)
    far |= {role: far[role] + 1e4 for role in ("logits", "mc_logits")}
    yield Case("DMS-N-002 DMS-A-007", "full mantissas, logits offset by 1e4", PAPER, far)
    close = full("close", span=1e-3)
    yield Case("DMS-N-001 DMS-A-007", "full mantissas, next to equal", PAPER, close)
    huge = only(full("huge", span=1e18), "logits")
    every = spec(
        3,
        signals={"confidence": {}, "agreement": {}},
        coefficients={"confidence": 1.0, "agreement": 1.0},
        fusion="logit",
    )
    yield Case("DMS-N-001", "logits of 1e18", every, huge)
    nearly = {"features": [[[1.0, 0.5], [2.0, -1.0], [-2.0, 1.0 + 2.0**-20]]]}
    yield Case("DMS-N-001 DMS-Q-006", "others that nearly cancel", one_signal("alignment"), nearly)


def s_shapes() -> Iterator[Case]:
    yield Case("DMS-S-007", "no samples", PAPER, batch("empty", b=0))
    one = SchedulerSpec.preset("paper", names(1))
    yield Case("DMS-S-001", "one of everything", one, batch("ones", b=1, m=1, d=1, c=1, t=1))
    two = SchedulerSpec.preset("paper", names(4)).replace(fusion="probability")
    yield Case("DMS-S-001", "sizes that all differ", two, batch("sizes", b=1, m=4, d=2, c=5, t=3))


CASES = (
    f_evidence,
    f_fusion,
    n_numerics,
    s_shapes,
    w_weights,
)
