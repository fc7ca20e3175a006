"""Lists cases of the signals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from golden.cases import INF, Case, batch, draw, ln, one_signal, only, opposed


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
    near = np.array([2.0**-119, 2.0**-114, 2.0**-118])[:, None]
    yield Case(
        "DMS-N-007 DMS-Q-006",
        "features just above the smallest normal number of float32",
        plain,
        {"features": drawn["features"] * near},
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


CASES = (
    q_agreement,
    q_alignment,
    q_anchored_alignment,
    q_confidence,
    q_corroboration,
    q_energy,
    q_mutual_information,
    q_typicality,
    q_uncertainty,
)
