"""Write the golden vectors: ``python docs/spec/build_vectors.py``.

One file for each topic, named by the letter of its family of clauses. Every clause is there in
float64 and in float32; answers and scales are the oracle's. Numbers are drawn from Philox's raw
integers and scaled by powers of two, and logarithms are rounded from decimal ones, so that the
inputs are the same on every machine. The answers go through the machine's exp and log, and may
differ in the last bits; the test that holds the files to be up to date knows that.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dms_spec.conformance.vectors import Vector, freeze, to_json  # noqa: E402
from dms_spec.spec import SchedulerSpec  # noqa: E402

TARGET = ROOT / "dms_spec" / "conformance" / "vectors"

NAN, INF = float("nan"), float("inf")
DTYPES = ("float64", "float32")
NEEDS = {
    "confidence": ("logits",),
    "uncertainty": ("mc_logits",),
    "mutual_information": ("mc_logits",),
    "alignment": ("features",),
    "anchored_alignment": ("features",),
    "agreement": ("logits",),
    "corroboration": ("logits",),
    "energy": ("logits",),
    "typicality": ("features",),
}


@dataclass
class Case:
    """A case before it is rounded to a dtype; ``arrays`` and ``parameters`` are float64."""

    clause: str
    description: str
    spec: SchedulerSpec
    arrays: dict[str, Any]
    parameters: dict[str, Any] = field(default_factory=dict)

    def frozen(self, dtype: str) -> Vector:
        def rounded(arrays: dict[str, Any]) -> dict[str, Any]:
            return {
                name: np.array(array, dtype=bool if name == "present" else dtype)
                for name, array in arrays.items()
            }

        return freeze(
            self.spec,
            rounded(self.arrays),
            rounded(self.parameters),
            clause=self.clause,
            description=self.description,
            dtype=dtype,
        )


def draw(name: str, *shape: int, span: float = 4.0, bits: int = 9) -> np.ndarray:
    """Numbers in [-span, span), the same for the same name; few bits, so that files stay small."""
    raw = np.random.Philox(key=zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    top = (raw >> np.uint64(64 - bits)).astype(np.float64)
    return (top * 2.0 ** (1 - bits) - 1).reshape(shape) * span


def names(count: int) -> tuple[str, ...]:
    return tuple(f"m{i}" for i in range(count))


def spec(count: int, policy: str = "linear", /, **changes: Any) -> SchedulerSpec:
    return SchedulerSpec(modalities=names(count), policy=policy, **changes)


def batch(name: str, *, b: int = 2, m: int = 3, d: int = 2, c: int = 3, t: int = 2) -> dict:
    """Features, logits and passes, drawn; leave out what the spec does not read with `only`."""
    return {
        "features": draw(f"{name} features", b, m, d),
        "logits": draw(f"{name} logits", b, m, c),
        "mc_logits": draw(f"{name} mc_logits", t, b, m, c),
    }


def only(arrays: dict, *roles: str) -> dict:
    return {role: arrays[role].copy() for role in roles}


def ln(values: Any) -> np.ndarray:
    """Logarithms, correctly rounded on every machine; of 0, minus infinity."""
    flat = [float(Decimal(str(x)).ln()) if x else -INF for x in np.ravel(values).tolist()]
    return np.array(flat).reshape(np.shape(values))


PAPER = SchedulerSpec.preset("paper", names(3))


# ---------------------------------------------------------------------------------- the families


def a_presets() -> Iterator[Case]:
    features = [[1.0, 0.0], [0.6, 0.8], [-1.0, 0.5]]
    logits = ln([[0.7, 0.2, 0.1], [0.4, 0.3, 0.3], [0.05, 0.9, 0.05]])
    passes = ln(
        [
            [[0.6, 0.3, 0.1], [0.4, 0.3, 0.3], [0.1, 0.8, 0.1]],
            [[0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [0.0, 1.0, 0.0]],
        ]
    )
    arrays = {
        "features": np.repeat([features], 3, axis=0),
        "logits": np.repeat([logits], 3, axis=0),
        "mc_logits": np.repeat(passes[:, None], 3, axis=1),
        "present": [[1, 1, 1], [1, 1, 0], [1, 0, 0]],
    }
    yield Case("DMS-A-007 DMS-W-002 DMS-F-001", "the worked example", PAPER, arrays)
    static = SchedulerSpec.preset("static", names(3))
    features_alone = {"features": draw("static", 2, 3, 3), "present": [[1, 1, 1], [0, 1, 1]]}
    yield Case("DMS-A-008 DMS-W-007", "preset static, drawn", static, features_alone)
    robust = SchedulerSpec.preset("robust", names(3))
    drawn = only(batch("robust"), "logits", "mc_logits")
    yield Case("DMS-L-003", "the rule of preset robust, drawn", robust, drawn)


def p_presence() -> Iterator[Case]:
    present = np.array([[1, 1, 0], [0, 1, 1]], dtype=bool)

    def filled(name: str, filler: float) -> dict:
        arrays = batch(name, c=2)
        for role in ("features", "logits", "mc_logits"):
            arrays[role][..., ~present, :] = filler
        return arrays | {"present": present}

    ids = "DMS-P-002 DMS-P-001 DMS-P-009"
    for word, filler in (("NaN", NAN), ("infinity", INF), ("minus infinity", -INF)):
        yield Case(ids, f"absent, filled with {word}", PAPER, filled("absent", filler))
    yield Case("DMS-P-003", "without present, all are", PAPER, batch("no mask", b=1, c=2))
    alone = batch("one present", b=3, c=2) | {"present": np.eye(3, dtype=bool)}
    yield Case("DMS-W-003 DMS-P-001", "one present, each in turn", PAPER, alone)
    for fusion in ("feature", "logit", "probability"):
        nothing = batch("none present", c=2) | {"present": [[0, 0, 0], [1, 1, 1]]}
        nothing["logits"][0, 0] = NAN
        yield Case(
            "DMS-P-007", f"nothing present, {fusion} level", PAPER.replace(fusion=fusion), nothing
        )

    def spoilt(role: str, *entries: tuple[tuple, float]) -> dict:
        arrays = batch(f"spoilt {role}", b=3, c=2)
        for where, value in entries:
            arrays[role][where] = value
        return arrays

    ids = "DMS-P-004 DMS-P-005"
    one = [((0, 0, 1), NAN), ((1, 1, 0), INF), ((2, 2, 0), -INF)]
    yield Case(ids, "NaN, Inf or -Inf in one feature spoils", PAPER, spoilt("features", *one))
    one = [((0, 0, 1), NAN), ((1, 1, 0), INF), ((2, 2), -INF)]
    yield Case(ids, "NaN, Inf or nothing but -Inf in logits", PAPER, spoilt("logits", *one))
    one = [((0, 0, 0, 1), NAN), ((1, 1, 1, 0), INF), ((0, 2, 2), -INF)]
    yield Case(ids, "NaN, Inf or nothing but -Inf in one pass", PAPER, spoilt("mc_logits", *one))
    mixed = spoilt("logits", ((0, 0), -INF), ((0, 0, 1), NAN), ((1, 1), -INF), ((1, 1, 0), INF))
    yield Case(ids, "NaN or Inf among -Inf in logits", PAPER, mixed)
    single = spoilt("logits", ((0, 0, 1), -INF), ((1, 1, 0), -INF))
    single["mc_logits"][0, 2, 0, 0] = single["mc_logits"][1, 2, 1, 1] = -INF
    yield Case("DMS-P-004 DMS-N-004", "single -Inf logits are legal", PAPER, single)
    unread = only(batch("unread", c=2), "features", "logits")
    unread["logits"][0, 1, 0] = NAN
    yield Case(
        "DMS-P-004",
        "what no signal reads spoils too",
        SchedulerSpec.preset("static", names(3)),
        unread,
    )
    lone = batch("lone pass", c=2, t=1)
    lone["mc_logits"][0, 1, 2, 1] = NAN
    yield Case("DMS-P-004 DMS-Q-004", "the only pass spoils, and tells nothing else", PAPER, lone)
    gone = spoilt("features", ((0, slice(None), 0), NAN))
    yield Case("DMS-P-005 DMS-P-007", "every modality of a sample is spoilt", PAPER, gone)
    raises, strict = PAPER.replace(nonfinite="raise"), PAPER.replace(strict=True)
    yield Case(
        "DMS-P-006", "nonfinite raise: refused", raises, spoilt("features", ((0, 0, 1), NAN))
    )
    yield Case("DMS-P-006", "nonfinite raise: NaN in an absent one", raises, filled("legal", NAN))
    yield Case(
        "DMS-P-008",
        "strict: refused",
        strict,
        batch("strict", c=2) | {"present": [[1, 1, 1], [0, 0, 0]]},
    )
    yield Case(
        "DMS-P-008",
        "strict: accepted",
        strict,
        batch("strict", c=2) | {"present": [[1, 1, 1], [0, 0, 1]]},
    )


def one_signal(
    name: str, count: int = 3, coefficient: float = 2.0, **options: Any
) -> SchedulerSpec:
    """A spec that weighs one signal, fused at the level of what it reads."""
    return spec(
        count,
        signals={name: options},
        coefficients={name: coefficient},
        fusion="feature" if "features" in NEEDS[name] else "probability",
    )


def q_confidence() -> Iterator[Case]:
    plain, raw = one_signal("confidence"), one_signal("confidence", normalize=False)
    drawn = only(batch("confidence", c=4), "logits")
    yield Case("DMS-Q-001", "drawn", plain, drawn)
    yield Case("DMS-Q-002", "not normalised, drawn", raw, drawn)
    single = only(batch("one class", c=1), "logits")
    yield Case("DMS-Q-001", "one class", plain, single)
    yield Case("DMS-Q-002", "one class, not normalised", raw, single)
    ruled = {"logits": [[[0.5, -INF, -INF], [1.0, 1.0, -INF], [2.0, 2.0, 2.0]]]}
    yield Case("DMS-N-004 DMS-Q-001", "one, two and three classes left", plain, ruled)
    yield Case("DMS-N-004 DMS-Q-002", "the same, not normalised", raw, ruled)
    steep = {"logits": draw("steep", 2, 3, 4, span=64.0)}
    yield Case("DMS-Q-001", "steep logits", plain, steep)
    far = {"logits": draw("far", 2, 3, 3) + 1e4}
    yield Case("DMS-N-002 DMS-Q-001", "logits offset by 1e4", plain, far)
    yield Case(
        "DMS-N-002 DMS-Q-001", "logits offset by -1e4", plain, {"logits": far["logits"] - 2e4}
    )


def q_uncertainty() -> Iterator[Case]:
    plain, total = one_signal("uncertainty"), one_signal("uncertainty", reduction="sum")
    drawn = only(batch("uncertainty", t=3), "logits", "mc_logits")
    yield Case("DMS-Q-003", "mean over classes, drawn", plain, drawn)
    yield Case("DMS-Q-003", "sum over classes, drawn", total, drawn)
    passes = only(batch("few passes", b=1), "logits", "mc_logits")
    yield Case("DMS-Q-004", "one pass", plain, passes | {"mc_logits": passes["mc_logits"][:1]})
    yield Case(
        "DMS-Q-004", "passes of length 0", plain, passes | {"mc_logits": np.zeros((0, 1, 3, 3))}
    )
    yield Case("DMS-Q-004", "no passes", plain, only(passes, "logits"))
    same = passes | {"mc_logits": np.repeat(passes["logits"][None], 3, axis=0)}
    yield Case("DMS-Q-003", "passes that agree", total, same)
    yield Case("DMS-Q-003", "passes that disagree entirely", total, opposed("logits"))
    ruled = only(batch("ruled out in a pass", b=1), "logits", "mc_logits")
    ruled["mc_logits"][0, 0, 0, 1] = ruled["mc_logits"][1, 0, 1, :2] = -INF
    yield Case("DMS-N-004 DMS-Q-003", "-Inf in one pass", plain, ruled)
    far = {role: array + 1e4 for role, array in passes.items()}
    yield Case("DMS-N-002 DMS-Q-003", "logits offset by 1e4", plain, far)
    single = only(batch("one class", b=1, c=1), "logits", "mc_logits")
    yield Case("DMS-Q-003", "one class", plain, single)


def opposed(*roles: str) -> dict:
    """Two passes: of one opinion, sure of opposite classes, and sure against unsure."""
    a, b, even = [0.0, -INF], [-INF, 0.0], [0.0, 0.0]
    arrays = {"mc_logits": [[[a, a, a]], [[a, b, even]]]}
    return arrays | {role: [[even, even, even]] for role in roles}


def q_mutual_information() -> Iterator[Case]:
    plain = one_signal("mutual_information")
    drawn = only(batch("mutual information", t=3), "logits", "mc_logits")
    yield Case("DMS-Q-005", "drawn", plain, drawn)
    same = drawn | {"mc_logits": np.repeat(drawn["logits"][None], 3, axis=0)}
    yield Case("DMS-Q-005", "passes that agree", plain, same)
    yield Case("DMS-Q-005 DMS-N-004", "passes that disagree entirely", plain, opposed("logits"))
    few = only(batch("few passes", b=1), "logits", "mc_logits")
    yield Case("DMS-Q-004", "one pass", plain, few | {"mc_logits": few["mc_logits"][:1]})
    far = {role: array + 1e4 for role, array in few.items()}
    yield Case("DMS-N-002 DMS-Q-005", "logits offset by 1e4", plain, far)


def q_alignment() -> Iterator[Case]:
    plain = one_signal("alignment")
    drawn = only(batch("alignment", d=4), "features")
    yield Case("DMS-Q-006", "drawn", plain, drawn)
    yield Case("DMS-Q-006", "one absent", plain, drawn | {"present": [[1, 1, 1], [1, 0, 1]]})
    two = one_signal("alignment", 2)
    yield Case("DMS-Q-007 DMS-Q-006", "two modalities", two, only(batch("two", m=2), "features"))
    lone = drawn | {"present": [[0, 1, 0], [0, 0, 1]]}
    yield Case("DMS-Q-006", "no others", plain, lone)
    zero = drawn["features"].copy()
    zero[0, 0] = zero[1, :2] = 0
    yield Case("DMS-Q-006", "zero vectors", plain, {"features": zero})
    yield Case("DMS-Q-006", "nothing but zero vectors", plain, {"features": np.zeros((1, 3, 2))})
    cancel = [[[1.0, 0.5], [2.0, -1.0], [-2.0, 1.0]]]
    yield Case("DMS-Q-006", "others that cancel", plain, {"features": cancel})
    turned = [[[1.0, 2.0], [-1.0, -2.0], [2.0, 4.0]], [[1.0, 2.0], [1.0, 2.0], [2.0, -1.0]]]
    yield Case("DMS-Q-006", "opposite, equal and orthogonal vectors", plain, {"features": turned})
    sizes = np.array([1e-30, 1e18, 1.0])[:, None]
    yield Case(
        "DMS-N-001 DMS-Q-006",
        "features from 1e-30 to 1e18",
        plain,
        {"features": drawn["features"] * sizes},
    )
    for size in (1e-30, 1e18):
        yield Case(
            "DMS-N-001 DMS-Q-006",
            f"features of size {size:g}",
            plain,
            {"features": drawn["features"] * size},
        )
    yield Case("DMS-Q-006", "one feature", plain, {"features": draw("one feature", 2, 3, 1)})


def q_anchored_alignment() -> Iterator[Case]:
    plain, two = one_signal("anchored_alignment"), one_signal("anchored_alignment", 2)
    drawn = only(batch("anchored", d=4), "features")
    zero = drawn["features"].copy()
    zero[0, 1] = 0

    def anchor(values: Any) -> dict:
        return {"signals.anchored_alignment.anchor": values}

    own = draw("anchors", 3, 4)
    yield Case("DMS-Q-008", "one anchor for all", plain, drawn, anchor(own[0]))
    yield Case("DMS-Q-008", "an anchor for each", plain, drawn, anchor(own))
    yield Case("DMS-Q-008", "an anchor of zeros", plain, drawn, anchor(np.zeros(4)))
    own = own.copy()
    own[2] = 0
    yield Case(
        "DMS-Q-008", "zero features, and a zero anchor", plain, {"features": zero}, anchor(own)
    )
    square = {"features": [[[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [3.0, 4.0]]]}
    yield Case("DMS-Q-008", "with two modalities it counts", two, square, anchor([2.0, 0.0]))


def q_agreement() -> Iterator[Case]:
    plain = one_signal("agreement")
    drawn = only(batch("agreement"), "logits")
    yield Case("DMS-Q-009", "drawn", plain, drawn)
    yield Case("DMS-Q-009", "one absent", plain, drawn | {"present": [[1, 1, 1], [1, 0, 1]]})
    two = one_signal("agreement", 2)
    yield Case("DMS-Q-007 DMS-Q-009", "two modalities", two, only(batch("two", m=2), "logits"))
    yield Case("DMS-Q-009", "no others", plain, drawn | {"present": [[0, 1, 0], [0, 0, 1]]})
    same = np.repeat(drawn["logits"][:, :1], 3, axis=1)
    yield Case("DMS-Q-009", "predictions that agree", plain, {"logits": same})
    apart = {"logits": [[[0.0, -INF], [-INF, 0.0], [-INF, 1.0]]]}
    yield Case("DMS-Q-009 DMS-N-004", "predictions that exclude each other", plain, apart)
    yield Case("DMS-Q-009", "one class", plain, {"logits": draw("one class", 1, 3, 1)})
    far = {"logits": drawn["logits"] + 1e4}
    yield Case("DMS-N-002 DMS-Q-009", "logits offset by 1e4", plain, far)


def q_corroboration() -> Iterator[Case]:
    plain = one_signal("corroboration")
    drawn = only(batch("corroboration"), "logits")
    yield Case("DMS-Q-015", "drawn", plain, drawn)
    yield Case("DMS-Q-015", "one absent", plain, drawn | {"present": [[1, 1, 1], [1, 0, 1]]})
    two = one_signal("corroboration", 2)
    sure = {"logits": ln([[[0.98, 0.01, 0.01], [0.2, 0.4, 0.4]]])}
    yield Case("DMS-Q-015", "two modalities: a sure one and an unsure one", two, sure)
    yield Case("DMS-Q-015", "no others", plain, drawn | {"present": [[0, 1, 0], [0, 0, 1]]})
    apart = {"logits": [[[0.0, -INF], [-INF, 0.0], [-INF, 1.0]]]}
    yield Case("DMS-Q-015 DMS-N-004", "predictions that exclude each other", plain, apart)
    far = {"logits": drawn["logits"] + 1e4}
    yield Case("DMS-N-002 DMS-Q-015", "logits offset by 1e4", plain, far)


def q_typicality() -> Iterator[Case]:
    plain = one_signal("typicality")

    def fitted(**arrays: Any) -> dict:
        """A place of three modalities, each turned otherwise, and what leaving it costs."""
        cost = {"band": [[-1.0, 1.0], [0.0, 1.5], [-0.5, 0.75]], "loss": [[2, 0.5], [8, 0], [1, 3]]}
        return {f"signals.typicality.{name}": array for name, array in (arrays | cost).items()}

    deviations = np.array([[1.0, 0.5], [2.0, 0.25], [0.5, 1.0]])
    turns = np.array(
        [[[0.6, -0.8], [0.8, 0.6]], [[0.0, 1.0], [1.0, 0.0]], [[0.8, 0.6], [-0.6, 0.8]]]
    )
    nu = draw("prototypes", 3, 2, 2, span=2.0)
    center = draw("center", 3, 2, span=2.0)
    full = fitted(
        center=center,
        whitening=turns / deviations[:, None],
        deviations=deviations,
        prototypes=nu,
        outside=np.zeros(3),
    )
    low_rank = fitted(
        center=draw("center", 3, 3, span=2.0),
        # The third axis is outside, and so is what the first two are turned away from.
        whitening=np.pad(turns[..., :1] / deviations[:, None, :1], ((0, 0), (0, 1), (0, 0))),
        deviations=deviations[:, :1],
        prototypes=nu[..., :1],
        outside=[0.25, 1.0, 4.0],
    )
    diagonal = fitted(
        center=center,
        whitening=1 / deviations,
        deviations=deviations,
        prototypes=nu,
        outside=np.zeros(3),
    )
    drawn = only(batch("typicality"), "features")
    wider = only(batch("typicality, wider", b=1, d=3), "features")
    yield Case("DMS-Q-013", "full covariance, drawn", plain, drawn, full)
    yield Case("DMS-Q-013", "low-rank covariance, drawn", plain, wider, low_rank)
    mask = {"present": [[1, 1, 1], [1, 0, 1]]}
    yield Case("DMS-Q-013", "diagonal covariance, one absent", plain, drawn | mask, diagonal)
    # In each modality's own whitened coordinates, from the first prototype along the first axis.
    steps = np.zeros((3, 3, 2))
    steps[..., 0] = np.exp2([[0.5, 1.0, 0.0], [-3.0, -1.0, -2.0], [3.0, 4.0, 6.0]])
    places = np.einsum("mdr,bmr->bmd", turns, (nu[:, 0] + steps) * deviations) + center
    single = full | {"signals.typicality.prototypes": nu[:, :1]}
    yield Case("DMS-Q-013", "typical, too close, too far", plain, {"features": places}, single)
    at = {"features": center[None], "present": [[1, 1, 0]]}
    zeros = {"signals.typicality.prototypes": np.zeros((3, 1, 2))}
    yield Case("DMS-Q-013", "at a prototype: any finite number", plain, at, full | zeros)
    huge = {"features": wider["features"][..., :2] * 1e18}
    yield Case("DMS-N-001 DMS-Q-013", "features of size 1e+18", plain, huge, full)
    yield Case("DMS-Q-014", "without parameters", plain, drawn)


def q_energy() -> Iterator[Case]:
    drawn = only(batch("energy"), "logits")
    yield Case("DMS-Q-010", "drawn", one_signal("energy", coefficient=0.5), drawn)
    for temperature in (0.5, 2.0):
        cool = one_signal("energy", coefficient=0.5, temperature=temperature)
        yield Case("DMS-Q-010", f"temperature {temperature:g}", cool, drawn)
    plain = one_signal("energy", coefficient=0.5)
    ruled = {"logits": [[[0.5, -INF, -INF], [1.0, 1.0, -INF], [2.0, 2.0, 2.0]]]}
    yield Case("DMS-N-004 DMS-Q-010", "-Inf logits", plain, ruled)
    yield Case("DMS-Q-010", "one class", plain, {"logits": draw("one class", 1, 3, 1)})
    yield Case(
        "DMS-N-002 DMS-Q-010", "logits offset by 1e4", plain, {"logits": drawn["logits"] + 1e4}
    )
    huge = {"logits": draw("huge", 1, 3, 3, span=1e18)}
    yield Case("DMS-N-001 DMS-Q-010", "logits of 1e18", plain, huge)


def l_policies() -> Iterator[Case]:
    arrays = batch("policies")
    mask = {"present": [[1, 1, 1], [1, 0, 1]]}
    anchor = {"signals.anchored_alignment.anchor": draw("anchor", 2)}
    every = spec(3, signals={name: {} for name in NEEDS}, coefficients=dict.fromkeys(NEEDS, 0.5))
    yield Case("DMS-L-003 DMS-L-001", "linear over all signals", every, arrays | mask, anchor)
    some = spec(
        3,
        signals={"confidence": {}, "uncertainty": {}, "alignment": {}},
        coefficients={"uncertainty": 4.0, "confidence": 0.0},
    )
    yield Case(
        "DMS-L-003", "a coefficient of 0, and a signal that is not weighed", some, arrays | mask
    )
    yield Case("DMS-L-003", "linear without coefficients", spec(3), only(arrays, "features") | mask)
    features = only(arrays, "features") | mask
    bias = {"policy.bias": draw("bias", 3)}
    yield Case("DMS-L-002", "static with a bias", spec(3, "static"), features, bias)
    yield Case("DMS-L-002 DMS-W-007", "static without a bias", spec(3, "static"), features)
    dropout = spec(3, "modality_dropout", policy_options={"rate": 0.5})
    yield Case("DMS-L-006 DMS-W-007", "modality dropout, not in training", dropout, features)


def l_co_attention() -> Iterator[Case]:
    plain = spec(3, "co_attention")
    arrays = {"features": draw("attention", 3, 3, 4, span=1.0)}
    mask = {"present": [[1, 1, 1], [1, 0, 1], [0, 1, 0]]}
    query = {
        "policy.query": draw("query", 4, 2, span=1.0),
        "policy.key": draw("key", 4, 2, span=1.0),
    }
    yield Case("DMS-L-005", "without parameters", plain, arrays)
    yield Case("DMS-L-005", "without parameters, some absent", plain, arrays | mask)
    yield Case("DMS-L-005", "query and key, narrower than the features", plain, arrays, query)
    yield Case("DMS-L-005", "query and key, some absent", plain, arrays | mask, query)
    none = arrays | {"present": [[0, 0, 0], [1, 1, 1], [0, 0, 0]]}
    yield Case("DMS-L-005 DMS-P-007", "nothing present", plain, none, query)
    yield Case(
        "DMS-L-005", "two modalities", spec(2, "co_attention"), only(batch("two", m=2), "features")
    )
    steep = {"features": draw("steep attention", 2, 3, 2, span=16.0)}
    yield Case("DMS-L-005", "steep attention", plain, steep)


def l_learned() -> Iterator[Case]:
    signals = {"energy": {}, "uncertainty": {"reduction": "sum"}, "alignment": {}}
    weighed = {"uncertainty": 1.0, "energy": 1.0}  # in another order than the signals
    arrays = batch("learned") | {"present": [[1, 1, 1], [1, 0, 1]]}
    theta = {"policy.theta": draw("theta", 2)}
    network = {
        "policy.hidden_weight": draw("hidden weight", 2, 3),
        "policy.hidden_bias": draw("hidden bias", 3),
        "policy.output_weight": draw("output weight", 3),
    }
    own = theta | {"policy.bias": draw("bias", 3)}
    for clause, policy, parameters in (
        ("DMS-L-007", "learned_linear", own),
        ("DMS-L-008", "residual_mlp", theta | network),
        ("DMS-L-009", "monotone", theta | network),
    ):
        learned = spec(3, policy, signals=signals, coefficients=weighed)
        yield Case(clause, f"{policy}, drawn", learned, arrays, parameters)
        large = {name: 16 * array for name, array in parameters.items()}
        yield Case(clause, f"{policy}, large parameters", learned, arrays, large)


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
    yield Case("DMS-W-004 DMS-W-005", "its first sample alone, reordered", PAPER, turned)


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


def n_numerics() -> Iterator[Case]:
    def full(name: str, b: int = 1, span: float = 8.0) -> dict:
        """Every bit of the mantissa drawn, so that rounding has something to do."""
        return {
            "features": draw(f"{name} features", b, 3, 3, span=span, bits=53),
            "logits": draw(f"{name} logits", b, 3, 3, span=span, bits=53),
            "mc_logits": draw(f"{name} mc_logits", 2, b, 3, 3, span=span, bits=53),
        }

    yield Case("DMS-N-001 DMS-A-007", "full mantissas", PAPER, full("full", b=2))
    robust = SchedulerSpec.preset("robust", names(3))
    yield Case("DMS-N-001 DMS-L-003", "full mantissas, steep", robust, full("steep", span=60.0))
    far = full("offset", span=2.0)
    far |= {role: far[role] + 1e4 for role in ("logits", "mc_logits")}
    yield Case("DMS-N-002 DMS-A-007", "full mantissas, logits offset by 1e4", PAPER, far)
    close = full("close", span=1e-3)
    yield Case("DMS-N-001 DMS-A-007", "full mantissas, next to uniform", PAPER, close)
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


FILES: tuple[Callable[[], Iterator[Case]], ...] = (
    a_presets,
    f_fusion,
    l_co_attention,
    l_learned,
    l_policies,
    n_numerics,
    p_presence,
    q_agreement,
    q_alignment,
    q_anchored_alignment,
    q_confidence,
    q_corroboration,
    q_energy,
    q_mutual_information,
    q_typicality,
    q_uncertainty,
    s_shapes,
    w_weights,
)


#: Where the dtype decides what can go wrong.
DELICATE = {"DMS-A-007", "DMS-N-001", "DMS-N-002"}


def build() -> dict[str, str]:
    """The text of each file, by its name.

    A case is there in both dtypes if one of its clauses is delicate or is there for the first
    time, else in one of them, in turn: what it shows does not depend on the dtype.
    """
    seen: set[str] = set()
    texts, turn = {}, 0
    for cases in FILES:
        vectors = []
        for case in cases():
            ids = set(case.clause.split())
            both = ids & DELICATE or not ids <= seen
            vectors += [
                case.frozen(dtype) for dtype in (DTYPES if both else DTYPES[turn : turn + 1])
            ]
            seen |= ids
            turn = turn if both else 1 - turn
        texts[f"{cases.__name__}.json"] = to_json(vectors)
    return texts


if __name__ == "__main__":
    texts = build()
    for old in TARGET.glob("*.json"):
        if old.name not in texts:
            old.unlink()
    TARGET.mkdir(exist_ok=True)
    for name, text in texts.items():
        (TARGET / name).write_text(text, encoding="utf-8", newline="\n")
    size = sum(len(text) for text in texts.values())
    print(f"wrote {len(texts)} files, {size} bytes, to {TARGET.relative_to(ROOT)}")
