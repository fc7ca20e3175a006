"""Computes heads: features, logits and passes from frozen embeddings of different widths.

A head is linear: one projection into the common feature space and one classifier. The encoder
has run once, before. Monte-Carlo dropout acts on the head's input alone, so that one matrix product
gives every pass of a modality.

Like the pipeline, these functions look at no value; call them within ``ns.guard()``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dms_spec.equations.namespace import Namespace
from dms_spec.equations.primitives import device_of
from dms_spec.errors import MissingInput, ShapeError, SpecError, closest, unknown
from dms_spec.types import Array

#: The parameters of a head by short name, with their axes; the full name of each is
#: ``heads.<modality>.<name>``.
HEAD_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "scale.zero": ("D_m",),
    "scale.unit": ("D_m",),
    "projection.weight": ("D_m", "D"),
    "projection.bias": ("D",),
    "classifier.weight": ("D_m", "C"),
    "classifier.bias": ("C",),
    "dropout.masks": ("T", "D_m"),
    "temperature": (),
}

# What each output reads beside the scale; features read a projection where there is one.
_READS: Mapping[str, tuple[str, ...]] = {
    "features": (),
    "logits": ("classifier.weight", "classifier.bias", "temperature"),
    "mc_logits": ("classifier.weight", "classifier.bias", "temperature", "dropout.masks"),
    "variance": ("classifier.weight", "classifier.bias", "temperature"),
}

#: What `apply_heads` can compute.
HEAD_OUTPUTS: tuple[str, ...] = tuple(_READS)

# A limit that still fits float32 when it is multiplied by weights and summed over inputs.
_LARGEST_SQUARE = 1e30


def apply_heads(
    ns: Namespace,
    embeddings: Mapping[str, Array],
    present: Array | None,
    parameters: Mapping[str, Array],
    *,
    modalities: tuple[str, ...],
    dropout: float,
    outputs: tuple[str, ...] = HEAD_OUTPUTS,
) -> dict[str, Array]:
    """Computes features, logits, passes and variance of every modality.

    With ``s = (x - zero) / unit`` and the temperature tau::

        features   h   = s W_h + b_h, or without a projection s, with zeros up to the widest
        logits     l   = (s W + b) / tau
        mc_logits  l_t = ((s * mask_t / (1 - q)) W + b) / tau
        variance   first order, without samples: `dropout_variance`

    Half precision is computed in float32; one float64 embedding makes it float64 throughout.

    Equation E19: inverted dropout, Srivastava et al. 2014 (JMLR 15); passes at test time, Gal and
    Ghahramani 2016 (arXiv 1506.02142); temperature, Guo et al. 2017 (arXiv 1706.04599).

    Args:
        ns: The namespace to compute in.
        embeddings: ``[B, D_m]`` floating, by modality. Where a modality is absent they may hold
            anything, NaN and Inf included.
        present: bool ``[B, M]`` in the order of ``modalities``, or None for all present.
        parameters: By full name, see `HEAD_PARAMETERS`. Deviations and temperatures are above 0.
        modalities: Names, in the order of the M axis.
        dropout: The rate q in [0, 1) that the masks were drawn with.
        outputs: Which of `HEAD_OUTPUTS` to compute; only their parameters are needed.

    Returns:
        By name, in the computing dtype: ``features`` [B, M, D], ``logits`` [B, M, C],
        ``mc_logits`` [T, B, M, C], ``variance`` [B, M]. An absent modality is exactly 0 in all of
        them. A present one that is not finite comes out not finite, to be counted as absent.

    Raises:
        MissingInput: A modality has no embeddings.
        ShapeError: Sizes disagree.
        SpecError: A parameter is missing, or the rate is outside [0, 1).
        UnknownName: ``outputs`` names something else.
    """
    inputs = head_inputs(ns, embeddings, present, parameters, modalities=modalities)
    return heads_of_inputs(
        ns,
        inputs,
        present,
        parameters,
        modalities=modalities,
        dropout=dropout,
        outputs=outputs,
    )


def head_inputs(
    ns: Namespace,
    embeddings: Mapping[str, Array],
    present: Array | None,
    parameters: Mapping[str, Array],
    *,
    modalities: tuple[str, ...],
) -> dict[str, Array]:
    """Scales embeddings: s of `apply_heads`, ``[B, D_m]`` by modality, in the computing dtype.

    The heads and the joint expert read it. Where a modality is absent it is that of zeros.

    Raises:
        MissingInput, ShapeError, SpecError: As in `apply_heads`.
    """
    xp, scale = ns.xp, ("scale.zero", "scale.unit")
    _check_shapes(embeddings, parameters, modalities, scale)
    wide = any(embeddings[name].dtype == xp.float64 for name in modalities)
    dtype = xp.float64 if wide else xp.float32
    inputs = {}
    for m, name in enumerate(modalities):
        x = xp.astype(embeddings[name], dtype, copy=False)
        if present is not None:
            # Before any arithmetic: 0 * NaN is NaN, in a product and in its gradient.
            x = ns.select(present[:, m], x)
        zero, unit = (
            xp.astype(parameters[f"heads.{name}.{one}"], dtype, copy=False) for one in scale
        )
        inputs[name] = scaled(x, zero, unit)
    return inputs


def heads_of_inputs(
    ns: Namespace,
    inputs: Mapping[str, Array],
    present: Array | None,
    parameters: Mapping[str, Array],
    *,
    modalities: tuple[str, ...],
    dropout: float,
    outputs: tuple[str, ...] = HEAD_OUTPUTS,
) -> dict[str, Array]:
    """Computes what `apply_heads` computes from inputs that `head_inputs` has scaled.

    Raises:
        ShapeError, SpecError, UnknownName: As in `apply_heads`.
    """
    xp = ns.xp
    _check_rate(dropout)
    for output in outputs:
        if output not in _READS:
            raise unknown("output of the heads", output, HEAD_OUTPUTS)
    projected = any(f"heads.{name}.projection.weight" in parameters for name in modalities)
    needed = _needed(outputs, projected)
    _check_shapes(inputs, parameters, modalities, needed)
    heads = []
    widest = max(inputs[name].shape[1] for name in modalities)
    for name in modalities:
        s = inputs[name]
        own = {
            short: xp.astype(parameters[f"heads.{name}.{short}"], s.dtype, copy=False)
            for short in needed
        }
        heads.append(_head(ns, s, own, dropout, outputs, widest))
    axes = {"mc_logits": 2}
    results = {
        name: xp.stack([head[name] for head in heads], axis=axes.get(name, 1)) for name in outputs
    }
    if present is None:
        return results
    # A zero embedding still has a bias, which would teach the bias from nothing.
    return {name: ns.select(present, array) for name, array in results.items()}


def _head(
    ns: Namespace,
    s: Array,
    own: Mapping[str, Array],
    dropout: float,
    outputs: tuple[str, ...],
    widest: int,
) -> dict[str, Array]:
    """Computes one modality: [B, D] features, [B, C] logits, [T, B, C] passes, [B] variance."""
    xp = ns.xp
    results = {}
    if "projection.weight" in own:
        results["features"] = xp.matmul(s, own["projection.weight"]) + own["projection.bias"]
    elif "features" in outputs:
        results["features"] = s
        if s.shape[1] < widest:
            # Zeros by a product: the number of rows of a traced batch is not known.
            rest = xp.zeros((s.shape[1], widest - s.shape[1]), dtype=s.dtype, device=device_of(s))
            results["features"] = xp.concat([s, xp.matmul(s, rest)], axis=1)
    if any(name != "features" for name in outputs):
        # On the parameters, which are smaller than what comes out.
        weight = own["classifier.weight"] / own["temperature"]
        bias = own["classifier.bias"] / own["temperature"]
    if "logits" in outputs or "variance" in outputs:
        results["logits"] = xp.matmul(s, weight) + bias
    if "mc_logits" in outputs:
        results["mc_logits"] = _passes(ns, s, weight / (1.0 - dropout), own["dropout.masks"]) + bias
    if "variance" in outputs:
        results["variance"] = dropout_variance(
            ns, s, own["classifier.weight"], results["logits"], dropout, own["temperature"]
        )
    return results


def scaled(x: Array, zero: Array, unit: Array) -> Array:
    """Scales inputs: s = (x - zero) / unit, ``[B, D_m]`` with ``[D_m]``; in E19 and E26."""
    return (x - zero) / unit


def class_scores(ns: Namespace, fused: Array, parameters: Mapping[str, Array]) -> Array:
    """z W + b: the linear head over fused features, [B, D] -> [B, C].

    Parameters ``head.weight`` [D, C] and ``head.bias`` [C].
    """
    weight, bias = (
        ns.xp.astype(parameters[f"head.{name}"], fused.dtype, copy=False)
        for name in ("weight", "bias")
    )
    return ns.xp.matmul(fused, weight) + bias


def class_probabilities(
    ns: Namespace,
    fused: Array,
    active: Array,
    *,
    level: str,
    parameters: Mapping[str, Array],
    prior: Array,
) -> Array:
    """Computes class probabilities from what was fused, [B, D or C] -> [B, C].

    Args:
        ns: The namespace to compute in.
        fused: What a scheduler fused.
        active: bool ``[B, M]``.
        level: The spec's level of fusion.
        parameters: With those of `class_scores` where features were fused.
        prior: Class frequencies ``[C]``: the answer for a sample in which nothing is active.
    """
    xp = ns.xp
    if level == "feature":
        probabilities = ns.softmax(class_scores(ns, fused, parameters))
    else:
        probabilities = ns.softmax(fused) if level == "logit" else fused
    something = xp.any(active, axis=-1, keepdims=True)
    return xp.where(something, probabilities, xp.astype(prior, probabilities.dtype, copy=False))


def _passes(ns: Namespace, s: Array, weight: Array, masks: Array) -> Array:
    """(s * mask_t) W for all t, [B, D_m], [D_m, C], [T, D_m] -> [T, B, C], in one product.

    ``(s * mask) W = s (mask * W)``, so the masks go to whichever is smaller. They go to the
    weights, ``[D_m, T C]``: that is T C wide where the inputs would be ``[T B, D_m]``, it does
    not grow with the batch, and it makes one wide product of T narrow ones. Measured on one
    core with B = 1024, D_m = 768, T = 10: 1.8 ms against 10 ms for C = 10, and level at
    C = 1000; only a batch much smaller than C would have it the other way round.
    """
    xp = ns.xp
    passes, width = masks.shape
    classes = weight.shape[1]
    folded = xp.matrix_transpose(masks)[:, :, None] * weight[:, None, :]
    runs = xp.matmul(s, xp.reshape(folded, (width, passes * classes)))
    return xp.permute_dims(xp.reshape(runs, (-1, passes, classes)), (1, 0, 2))


def dropout_variance(
    ns: Namespace,
    inputs: Array,
    weight: Array,
    logits: Array,
    dropout: float,
    temperature: Array | float,
) -> Array:
    """Estimates the variance of the class probabilities under dropout, summed over classes, without
    sampling.

    Equation E20. Derivation (delta method, first order through the softmax; the closed form of
    the moments is that of Wang and Manning 2013, "Fast dropout training"). Inverted dropout
    multiplies input d by ``1 + e_d``, with ``E e_d = 0``, ``Var e_d = q / (1 - q)``, independent
    over d. The logits move by ``delta_k = sum_d e_d x_d W_dk / tau``, so that exactly ::

        Cov(l_j, l_k) = q / (1 - q) / tau^2 * sum_d x_d^2 W_dj W_dk

    and to first order ``dp_k = p_k (delta_k - sum_j p_j delta_j)``, hence ::

        sum_k Var p_k ~ q / (1 - q) / tau^2 * sum_k p_k^2 sum_d x_d^2 (W_dk - Wbar_d)^2
        Wbar_d = sum_j p_j W_dj

    The result is limited to ``1 - 1 / C``, which no such variance exceeds.

    Error: with ``range = max_k delta_k - min_k delta_k``, the standard deviation (the root of
    this variance) is off by at most ``sqrt(E range^4) / 4``. That is second order: it is small
    where dropout moves the logits by much less than one; where it moves them by several, the
    estimate ranks samples and does no more. Each input must also be a small part of the whole:
    dropping one is a jump, not a step, so the error does not vanish with q alone. Measured against
    20 000 passes (D = 256, C = 10), median relative error for q = .1 / .3 / .5: logits of
    deviation 0.5: 1 / 1 / 1 %; 1: 1 / 6 / 15 %; 2: 14 / 41 / 77 %. Ten passes are off by 13 to 28 %
    wherever, and order the samples far worse. Confident rows are estimated too low.

    Round-off: squaring out ``(W_dk - Wbar_d)^2`` cancels for a confident row, where ``Wbar``
    is all but the weights of the likeliest class. In float32 that form was seen wrong by a factor
    of 1e6, and negative, at ``1 - max p = 1e-5``. Here everything is relative to that class: with
    ``V = W - W_top``, r the probabilities of the others and ``o = Wbar - W_top = sum_j r_j V_j``,
    which has no large part ::

        sum_d x_d^2 (W_dk - Wbar_d)^2 = sum_d x_d^2 V_dk^2 - 2 h_k + own
        h_k = sum_d x_d^2 V_dk o_d,    own = sum_d x_d^2 o_d^2 = sum_j r_j h_j

    For the likeliest class it is ``own``; the others are squared out, and have ``p_k <= 1/2``.
    Measured: within 3e-6 of the value in float32 down to ``1 - max p = 1e-7``. It costs four
    products of the size of one head's, and nothing of size ``[B, D, C]``.

    Args:
        ns: The namespace to compute in.
        inputs: x, the head's standardised input, ``[B, D]``.
        weight: W, the classifier's, ``[D, C]``, not divided by the temperature.
        logits: l, divided by the temperature, ``[B, C]``.
        dropout: The rate q in [0, 1).
        temperature: tau > 0, a scalar.

    Returns:
        ``[B]``, in [0, 1 - 1/C]; comparable with ``uncertainty`` reduced by ``"sum"``.
    """
    xp = ns.xp
    # Beyond 1e15 dropout decides everything or nothing. Limited to it, no square overflows.
    squares = xp.minimum(inputs * inputs, ns.constant(_LARGEST_SQUARE, inputs))
    # What all classes have in common moves no probability, and would only cancel.
    w = weight - xp.mean(weight, axis=-1, keepdims=True)
    rows = xp.matrix_transpose(w)
    p = ns.softmax(logits)
    zero = ns.constant(0.0, p)
    top = xp.argmax(logits, axis=-1)
    is_top = top[:, None] == xp.arange(logits.shape[1], device=device_of(logits))
    rest = xp.where(is_top, zero, p)

    def at_top(values: Array) -> Array:
        return xp.sum(xp.where(is_top, values, zero), axis=-1, keepdims=True)

    square = xp.matmul(squares, w * w)
    with_top = xp.matmul(squares * xp.take(rows, top, axis=0), w)
    with_rest = xp.matmul(squares * xp.matmul(rest, rows), w)
    h = with_rest - xp.sum(rest, axis=-1, keepdims=True) * with_top
    h = h - at_top(h)
    own = xp.sum(rest * h, axis=-1, keepdims=True)
    spread = square - 2.0 * with_top + at_top(square) - 2.0 * h + own
    # Negative by round-off, never by more.
    spread = xp.maximum(xp.where(is_top, own, spread), zero)
    scaled = p / temperature
    variance = dropout / (1.0 - dropout) * xp.sum(scaled * scaled * spread, axis=-1)
    return xp.minimum(variance, 1.0 - 1.0 / ns.count(logits, -1))


def draw_masks(
    widths: Mapping[str, int], passes: int, rate: float, seed: int
) -> dict[str, NDArray[np.float32]]:
    """Draws frozen dropout masks: 1 keeps an input, 0 drops it.

    Drawn from NumPy's Philox, one stream per modality, derived from the seed and the name: a
    modality's masks depend neither on the other modalities nor on their order, and the first
    passes are the same however many are drawn.

    Args:
        widths: D_m of each modality.
        passes: T, at least 1.
        rate: Probability of dropping, in [0, 1).
        seed: Not negative.

    Returns:
        ``[T, D_m]`` float32 by modality, for the parameter ``heads.<modality>.dropout.masks``.

    Raises:
        SpecError: A number is out of range.
    """
    _check_rate(rate)
    for what, number, least in (
        ("passes", passes, 1),
        ("seed", seed, 0),
        *((f"width of {name!r}", width, 1) for name, width in widths.items()),
    ):
        if number < least:
            raise SpecError(
                f"the {what} is out of range", expected=f"{least} or more", got=str(number)
            )
    masks = {}
    for name, width in widths.items():
        stream = np.random.SeedSequence(seed, spawn_key=tuple(name.encode()))
        random = np.random.Generator(np.random.Philox(stream))
        masks[name] = (random.random((passes, width)) >= rate).astype(np.float32)
    return masks


def _needed(outputs: tuple[str, ...], projected: bool) -> list[str]:
    read = {name for output in outputs for name in _READS[output]}
    if "features" in outputs and projected:
        read |= {"projection.weight", "projection.bias"}
    return [name for name in HEAD_PARAMETERS if name in read]


def _check_rate(rate: float) -> None:
    if not 0 <= rate < 1:
        raise SpecError("the dropout rate is out of range", expected="[0, 1)", got=str(rate))


def _check_shapes(
    embeddings: Mapping[str, Array],
    parameters: Mapping[str, Array],
    modalities: tuple[str, ...],
    needed: Sequence[str],
) -> None:
    """Compares embeddings and parameters. D, C, T and B are the same for all heads."""
    known: dict[str, tuple[int, str]] = {}
    for modality in modalities:
        if modality not in embeddings:
            raise MissingInput(
                f"modality {modality!r} has no embeddings",
                expected=", ".join(modalities),
                got=", ".join(embeddings) or "none",
                fix="Give an array for every modality; mark absent rows in present.",
            )
        known.pop("D_m", None)
        arrays: dict[str, tuple[Array, tuple[str, ...]]] = {
            f"embeddings of {modality!r}": (embeddings[modality], ("B", "D_m"))
        }
        for short in needed:
            name = f"heads.{modality}.{short}"
            if name not in parameters:
                raise SpecError(f"the heads lack {name!r}", fix=closest(name, parameters))
            arrays[name] = (parameters[name], HEAD_PARAMETERS[short])
        for name, (array, axes) in arrays.items():
            shape = tuple(array.shape)
            fits = [known.get(axis) for axis in axes]
            if len(shape) != len(axes) or any(
                fit is not None and fit[0] != size for fit, size in zip(fits, shape, strict=True)
            ):
                expected = [
                    f"{axis} = {fit[0]} as in {fit[1]}" if fit else axis
                    for axis, fit in zip(axes, fits, strict=True)
                ]
                raise ShapeError(
                    f"{name} has the wrong shape",
                    expected=f"[{', '.join(expected)}]",
                    got=str(list(shape)),
                )
            for axis, size in zip(axes, shape, strict=True):
                known.setdefault(axis, (size, name))
