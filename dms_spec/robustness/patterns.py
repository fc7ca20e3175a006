"""Says which modalities of which samples are hit, and defines the sensor-failure protocol.

The protocol is that of Liao et al. 2025 (arXiv 2503.18445), for methods that were trained on
complete data: entire modalities missing (EMM), random features missing (RMM), noise (NM). There
an input is normalised to mean 0 and deviation 1, and "missing" is 0: so here it is the feature's
training mean, and noise is measured in training deviations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from dms_spec.errors import MissingInput, SpecError, unknown
from dms_spec.robustness.corruptions.corruption import Corruption, Scene, by_name, of_share
from dms_spec.robustness.corruptions.features import blank
from dms_spec.robustness.corruptions.registry import corruption
from dms_spec.robustness.samples import BoolArray, FloatArray, stream


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Says which modalities of a sample are corrupted.

    Attributes:
        name: Unique.
        modalities: These ones; None for all that the corruption applies to.
        drawn: Only ``max(1, half of them)``, drawn for each sample without replacement.
    """

    name: str
    modalities: tuple[str, ...] | None = None
    drawn: bool = False

    def hits(
        self, modalities: tuple[str, ...], fits: BoolArray, samples: int, seed: int
    ) -> BoolArray:
        """Finds what is hit: bool ``[N, M]``.

        Half of the modalities are drawn from the seed alone, so that all corruptions of a seed
        hit the same ones.

        Args:
            modalities: Names, in the order of the M axis.
            fits: Which of them the corruption applies to, ``[M]``.
            samples: N.
            seed: Of the drawing.

        Raises:
            UnknownName: A modality of the pattern is not among them.
            SpecError: Nothing can be hit.
        """
        chosen = fits.copy()
        if self.modalities is not None:
            for name in self.modalities:
                if name not in modalities:
                    raise unknown("modality", name, modalities)
            chosen &= np.isin(modalities, self.modalities)
        if not chosen.any():
            raise SpecError(
                f"pattern {self.name!r} hits nothing",
                expected="a modality of the kind that the corruption applies to",
                got=", ".join(modalities),
            )
        if not self.drawn:
            return np.tile(chosen, (samples, 1))
        order = stream(seed, "pattern").random((samples, len(modalities)))
        rank = np.where(chosen, order, np.inf).argsort(axis=1).argsort(axis=1)
        return rank < max(1, int(chosen.sum()) // 2)


#: Half of the modalities, drawn for each sample.
HALF = Pattern(name="half", drawn=True)
#: Every modality of every sample.
EVERY = Pattern(name="every")


def named(modalities: Iterable[str]) -> Pattern:
    """Hits these modalities, in every sample.

    Example:
        >>> from dms_spec.robustness import named
        >>> named(["image", "text"]).name
        'image+text'
    """
    names = tuple(modalities)
    return Pattern(name="+".join(names), modalities=names)


# ------------------------------------------------------------------------------- sensor failure


def _missing_elements(x: FloatArray, severity: float, scene: Scene) -> FloatArray:
    return np.where(scene.random.random(x.shape) < severity, 0.0, x)


#: Level: density of salt and pepper, deviation of the noise.
NOISE_LEVELS: Mapping[int, tuple[float, float]] = {1: (0.05, 0.1), 2: (0.1, 0.2), 3: (0.2, 0.5)}


def _noisy(x: FloatArray, severity: float, scene: Scene) -> FloatArray:
    density, deviation = NOISE_LEVELS[round(severity)]
    u, there = scene.random.random(x.shape), x[scene.there]
    top, bottom = there.max(initial=0.0), there.min(initial=0.0)
    y = np.where(u < density / 2, bottom, np.where(u >= 1 - density / 2, top, x))
    return y + deviation * scene.random.standard_normal(x.shape)


_SENSORS = "Entire modalities are missing"

#: The corruptions of the protocol, by name.
SENSORS: dict[str, Corruption] = by_name(
    Corruption(
        name="emm_told",
        function=blank,
        meaning=f"{_SENSORS}, and the methods are told.",
        kind="any",
        space="standard",
        told=True,
        clean_at=0.0,
        random=False,
    ),
    Corruption(
        name="emm_untold",
        function=blank,
        meaning=f"{_SENSORS}: their features are the training mean, and the methods are not told.",
        space="standard",
        clean_at=0.0,
        random=False,
    ),
    of_share(
        "rmm",
        _missing_elements,
        "Random features are missing: they are the training mean; the methods are not told.",
        of="features",
        severities=(0.25, 0.5, 0.75),
        space="standard",
    ),
    Corruption(
        name="nm",
        function=_noisy,
        meaning="Every modality is noisy: salt and pepper, then Gaussian noise, with density "
        "and training deviations "
        + ", ".join(f"{d:g} and {s:g}" for d, s in NOISE_LEVELS.values())
        + ".",
        severities=(1.0, 2.0, 3.0),
        unit="level: low, mid, high",
        space="standard",
        hits="every",
        least=1.0,
        most=3.0,
    ),
)

#: Beyond this many modalities there are too many subsets to measure them all.
MOST_MODALITIES = 10


def damaged_sets(modalities: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Lists every set of modalities but the set of all, the empty one first: ``2^M - 1`` of them.

    Raises:
        SpecError: There are more than 10 modalities.

    Example:
        >>> from dms_spec.robustness import damaged_sets
        >>> damaged_sets(("image", "text"))
        ((), ('image',), ('text',))
    """
    if len(modalities) > MOST_MODALITIES:
        raise SpecError(
            "there are too many modalities to leave out every set of them",
            expected=f"{MOST_MODALITIES} or fewer",
            got=f"{len(modalities)}, which have {2 ** len(modalities) - 1} sets",
        )
    sizes = range(len(modalities))
    return tuple(chosen for size in sizes for chosen in combinations(modalities, size))


def average(scores: Mapping[frozenset[str], float], modalities: int) -> float:
    """Computes the mean score when every set of damaged modalities is equally likely.

    ``1 / (2^M - 1) * sum of score_S over |S| <= M - 1``: the empty set counts, the set of all does
    not (arXiv 2503.18445, as its code computes it).

    Args:
        scores: By set of damaged modalities, all ``2^M - 1`` of them.
        modalities: M.

    Raises:
        MissingInput: A set is missing, or there are others.

    Example:
        >>> from dms_spec.robustness import average
        >>> scores = {frozenset(): 0.9, frozenset({"image"}): 0.6, frozenset({"text"}): 0.3}
        >>> round(average(scores, 2), 3)
        0.6
    """
    _check_sets(scores, modalities)
    return sum(scores.values()) / len(scores)


def expected(scores: Mapping[frozenset[str], float], modalities: int, p: float) -> float:
    """Computes the expected score when each modality is damaged by itself with probability p.

    ``sum of p^|S| (1 - p)^(M - |S|) score_S over |S| <= M - 1, / (1 - p^M)`` (arXiv 2503.18445).

    Raises:
        MissingInput: A set is missing, or there are others.
        SpecError: p is outside [0, 1).

    Example:
        >>> from dms_spec.robustness import expected
        >>> scores = {frozenset(): 0.9, frozenset({"image"}): 0.6, frozenset({"text"}): 0.3}
        >>> round(expected(scores, 2, 0.5), 3)
        0.6
    """
    _check_sets(scores, modalities)
    if not 0 <= p < 1:
        raise SpecError("p is out of range", expected="[0, 1)", got=str(p))
    total = sum(
        p ** len(damaged) * (1 - p) ** (modalities - len(damaged)) * score
        for damaged, score in scores.items()
    )
    return total / (1 - p**modalities)


#: The probabilities of damage that the protocol reports.
PROBABILITIES: tuple[float, ...] = (0.2, 0.1, 0.05)


def _check_sets(scores: Mapping[frozenset[str], float], modalities: int) -> None:
    names = frozenset().union(*scores)
    complete = len(scores) == 2**modalities - 1 and len(names) <= modalities
    if not complete or any(len(damaged) >= modalities for damaged in scores):
        raise MissingInput(
            "the scores are not those of all sets of damaged modalities",
            expected=f"{2**modalities - 1} sets of at most {modalities - 1} of {modalities}",
            got=f"{len(scores)} sets of {len(names)} modalities",
        )


# ----------------------------------------------------------------------------------------- cases


@dataclass(frozen=True, kw_only=True)
class Case:
    """Names one thing to measure: a corruption at one severity, on a pattern, with one seed.

    Example:
        >>> from dms_spec.robustness import Case, corruption, named
        >>> what, where = corruption("zeroed"), named(["image"])
        >>> case = Case(corruption=what, severity=0.0, pattern=where, seed=0)
        >>> str(case)
        'zeroed on image, seed 0'
    """

    corruption: Corruption
    severity: float
    pattern: Pattern
    seed: int

    @property
    def key(self) -> tuple[str, float, str, int]:
        """What distinguishes it from the others."""
        return self.corruption.name, self.severity, self.pattern.name, self.seed

    def __str__(self) -> str:
        name, severity, pattern, seed = self.key
        strength = f" {severity:g}" if self.corruption.unit else ""
        return f"{name}{strength} on {pattern}, seed {seed}"


#: Nothing happens.
CLEAN = Corruption(
    name="clean",
    function=blank,
    meaning="Nothing happens.",
    severities=(0.0,),
    kind="any",
    clean_at=0.0,
    random=False,
)


def clean(seed: int = 0) -> Case:
    """Makes the case in which nothing happens."""
    return Case(corruption=CLEAN, severity=0.0, pattern=EVERY, seed=seed)


def sweep(
    corruptions: Iterable[str | Corruption],
    *,
    patterns: Iterable[Pattern] | None = None,
    seeds: Iterable[int] = range(5),
) -> tuple[Case, ...]:
    """Lists corruptions at all their severities, on patterns, with seeds.

    What draws nothing at random is measured with the first seed alone.

    Args:
        corruptions: Names, or corruptions; ``corruption("gaussian").at(0.2, 0.4)`` has severities
            of its own.
        patterns: None takes for each corruption what it says of itself: half of the modalities,
            drawn for each sample, or every one.
        seeds: Of everything random, each 0 or more.

    Raises:
        UnknownName: There is no such corruption.
        SpecError: There is no seed, or one is negative.

    Example:
        >>> from dms_spec.robustness import corruption, sweep
        >>> for case in sweep([corruption("gaussian").at(0.1, 0.5)], seeds=(0,)):
        ...     print(case)
        gaussian 0.1 on half, seed 0
        gaussian 0.5 on half, seed 0
    """
    numbers = _seeds(seeds)
    cases: list[Case] = []
    for one in corruptions:
        what = corruption(one)
        own = (HALF if what.hits == "half" else EVERY,)
        for pattern in own if patterns is None else patterns:
            drawn = what.random or pattern.drawn
            cases += [
                Case(corruption=what, severity=severity, pattern=pattern, seed=seed)
                for severity in what.severities
                for seed in (numbers if drawn else numbers[:1])
            ]
    return tuple(cases)


def sensor_failure(
    modalities: tuple[str, ...], *, seeds: Iterable[int] = range(5)
) -> tuple[Case, ...]:
    """Lists EMM (told and untold) and RMM on every set of modalities, and NM on all of them.

    The empty set is the clean case, which is measured anyway.

    Raises:
        SpecError: There are more than 10 modalities, no seed, or a negative one.

    Example:
        >>> from dms_spec.robustness import sensor_failure
        >>> cases = sensor_failure(("image", "text"), seeds=(0,))
        >>> sorted({case.corruption.name for case in cases})
        ['emm_told', 'emm_untold', 'nm', 'rmm']
    """
    sets = [named(damaged) for damaged in damaged_sets(modalities) if damaged]
    numbers = _seeds(seeds)
    missing = [what for name, what in SENSORS.items() if name != "nm"]
    return (
        *sweep(missing, patterns=sets, seeds=numbers),
        *sweep((SENSORS["nm"],), seeds=numbers),
    )


def _seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    numbers = tuple(dict.fromkeys(seeds))
    if not numbers or min(numbers) < 0:
        raise SpecError(
            "seeds are not usable", expected="one or more, each 0 or more", got=str(list(numbers))
        )
    return numbers
