"""Learns and predicts as scikit-learn's classifiers do: `FusionClassifier`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from importlib import import_module
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dms_spec.artifact import Artifact
from dms_spec.embeddings.explanation import Explanations, explain_table
from dms_spec.embeddings.inputs import (
    BLOCKS,
    WHERE,
    Columns,
    are_named,
    blocks_of,
    counted,
    is_mapping,
    vector_columns,
    with_gaps,
)
from dms_spec.embeddings.predictor import Predictions, Predictor
from dms_spec.embeddings.presence import is_reserved
from dms_spec.embeddings.settings import FitSettings
from dms_spec.embeddings.sources.columns import Columns as FrameColumns
from dms_spec.embeddings.sources.frames import arrays_of_frame, open_frame, take_of
from dms_spec.embeddings.table import Table
from dms_spec.embeddings.typicality import Covariance
from dms_spec.errors import (
    BackendUnavailable,
    DMSWarning,
    MissingInput,
    SpecError,
    install_hint,
)
from dms_spec.plugins import get_backend
from dms_spec.pretrained import Pretrained
from dms_spec.spec import SchedulerSpec

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import assert_all_finite, check_random_state, column_or_1d
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise BackendUnavailable(
        "FusionClassifier needs scikit-learn",
        got=str(error),
        fix=install_hint("dms-spec[sklearn]"),
    ) from error

#: The modality that all columns make where nobody names any.
_ONLY = "inputs"


class FusionClassifier(Pretrained, ClassifierMixin, BaseEstimator):  # type: ignore[misc] # no types
    """Classifies samples that are seen through several modalities, as ``dms fit`` learns to.

    ``X`` is one of these, everywhere:

    - a mapping with an array ``[N, D]`` for each modality under its name. An array may be None, or
      lack, where its modality is absent in all rows. What else a table may hold is read too, so
      that ``numpy.load("train.npz")`` is an ``X``: see `Table.from_arrays`.
    - a data frame (pandas, polars, pyarrow, ``datasets``), with the columns that ``modalities``
      names; without it, each column of vectors is a modality.
    - one array ``[N, D]``, with the blocks of columns that ``modalities`` names.

    A modality is absent in a row that is None, null or NaN throughout, or where ``present`` says
    so. In a row that holds NaN in some columns, it counts as absent, and a note says so.

    Pickles of it work, for pipelines. A pickle can run any code when it is read. So exchange models
    by `save` and `load`, which hold plain data alone.

    Args:
        modalities: By modality its columns. Of a data frame: a pattern such as ``"image_*"``, or
            names. Of an array: a slice, or indices. For a mapping, names alone will do: others are
            left out. None: every array of a mapping, every column of vectors of a frame; otherwise
            all columns are one modality.
        spec: A preset (``"robust"``, ``"paper"``, ``"static"``), or a spec.
        epochs: This and all others down to ``class_weight``: see `dms_torch.fit.FitSettings`.
        patience: See there.
        batch_size: See there.
        learning_rate: See there.
        width: See there.
        passes: See there.
        dropout: See there.
        noise: See there.
        covariance: See there.
        rank: See there.
        pull: See there.
        consistency: See there.
        class_weight: None; ``"balanced"``; or a weight for each class, as in scikit-learn.
        random_state: The seed of everything random, or what draws it. None: another one each time.
        device: Of the torch backend, to learn on; None for its first.

    Attributes:
        artifact_: What was learned, as ``dms fit`` writes it.
        classes_: The labels' own values ``[C]``, sorted.
        modalities_: The names of the modalities, in the order of the weights.
        notes_: What is weaker than it looks, in words.
        n_features_in_: How many columns an array had.
        feature_names_in_: The names that they had.

    Source: the interface is scikit-learn's, `Developing scikit-learn estimators
    <https://scikit-learn.org/stable/developers/develop.html>`_.

    Example:
        >>> import numpy as np
        >>> from dms_spec import FusionClassifier
        >>> table = np.load("train.npz")
        >>> classifier = FusionClassifier().fit(table)
        >>> classifier.modalities_, classifier.weights(table).shape
        (('image', 'text'), (60, 2))
    """

    def __init__(
        self,
        modalities: Mapping[str, Columns] | Sequence[str] | None = None,
        *,
        spec: SchedulerSpec | str = "robust",
        epochs: int = FitSettings.epochs,
        patience: int = FitSettings.patience,
        batch_size: int = FitSettings.batch_size,
        learning_rate: float = FitSettings.learning_rate,
        width: int = FitSettings.width,
        passes: int = FitSettings.passes,
        dropout: float = FitSettings.dropout,
        noise: float = FitSettings.noise,
        covariance: Covariance = FitSettings.covariance,
        rank: int = FitSettings.rank,
        pull: float = FitSettings.pull,
        consistency: float = FitSettings.consistency,
        class_weight: Mapping[Any, float] | str | None = None,
        random_state: Any = FitSettings.seed,
        device: str | None = None,
    ) -> None:
        self.modalities = modalities
        self.spec = spec
        self.epochs = epochs
        self.patience = patience
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.width = width
        self.passes = passes
        self.dropout = dropout
        self.noise = noise
        self.covariance = covariance
        self.rank = rank
        self.pull = pull
        self.consistency = consistency
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def fit(
        self,
        X: Any,  # noqa: N803 - scikit-learn's name
        y: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        validation: ArrayLike | None = None,
        present: Any = None,
    ) -> Self:
        """Learns heads and a scheduler, as `dms_torch.fit.fit` does.

        Args:
            X: The modalities.
            y: Labels ``[N]``, integers or strings. None: those of the table.
            groups: ``[N]``, integers or strings: rows of one group stay together in every fold.
            sample_weight: ``[N]``, 0 or more: how much each row counts.
            validation: Rows to choose settings on, as indices or bool ``[N]``.
            present: Where each modality is present: bool ``[N]`` by modality, or ``[N, M]``.

        Raises:
            MissingInput: There are no labels, or nothing can be learned from the rows.
            ShapeError, DTypeError, SpecError: An array or a setting does not fit.
            BackendUnavailable: Torch is not installed, or the device cannot be used.
            ValueError: As scikit-learn refuses labels or arrays.
        """
        extra = {
            "groups": groups,
            "sample_weight": sample_weight,
            "validation": validation,
            "present": present,
        }
        table = self._learnable(X, y, extra)
        fitted = _training().fit(table, self._spec(table), self._settings(), device=self.device)
        artifact = fitted.artifact
        if self.columns_ is not None and table.columns is None:  # a frame's the fit notes itself
            artifact = replace(artifact, model={**artifact.model, BLOCKS: self.columns_})
        self._bind(artifact)
        return self

    def predict(self, X: Any, *, present: Any = None) -> NDArray[Any]:  # noqa: N803
        """Predicts the class of each row, ``[N]``."""
        return self._heard(X, present)["predicted"]

    def predict_proba(self, X: Any, *, present: Any = None) -> NDArray[Any]:  # noqa: N803
        """Predicts class probabilities, ``[N, C]``, in the order of ``classes_``."""
        return self._heard(X, present)["probabilities"]

    def weights(self, X: Any, *, present: Any = None) -> NDArray[Any]:  # noqa: N803
        """Says how much each modality counts in each row, ``[N, M]``; 0 where it is absent."""
        return self._heard(X, present)["weights"]

    def predictions(self, X: Any, *, present: Any = None) -> Predictions:  # noqa: N803
        """Gives everything that `Predictor.predict` says of each row, and its notes.

        Raises:
            NotFittedError: Nothing has been learned yet.
            ShapeError, DTypeError, SpecError, MissingInput: ``X`` does not fit what was learned.
        """
        table = self._known(X, present)
        found = self._predictor.predict(table)
        found.notes = (*table.notes(), *found.notes)
        return found

    def explain(self, X: Any, *, present: Any = None) -> Explanations:  # noqa: N803
        """Explains each row, as ``dms explain`` does: print it, or read it as data."""
        return explain_table(self._predictor, self._known(X, present))[0]

    def learned(self) -> Artifact:
        """Gives what was learned, as ``dms fit`` writes it.

        Raises:
            NotFittedError: Nothing has been learned yet.
        """
        check_is_fitted(self)
        return self.artifact_

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Gives the classifier that has learned an artifact.

        Raises:
            ArtifactError: The artifact has no heads, or its model does not fit its parameters.
        """
        model = artifact.model
        given = model.get("settings")
        known = given if isinstance(given, Mapping) else {}
        settings = {f.name: known[f.name] for f in fields(FitSettings) if f.name in known}
        seed = settings.pop("seed", FitSettings.seed)
        if settings.get("class_weight") == "none":
            del settings["class_weight"]
        columns: Any = blocks_of(artifact)
        if (named := FrameColumns.of_model(model)) is not None:
            columns = named.modalities
        found = cls(columns, spec=artifact.spec, random_state=seed, **settings)
        found.columns_ = columns
        found._bind(artifact)
        return found

    # ----------------------------------------------------------------------------------- inside

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_predictor"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "artifact_" in state:
            self._bind(self.artifact_)

    def _heard(self, X: Any, present: Any) -> Predictions:  # noqa: N803
        """Predicts, and warns of the notes, which an array alone cannot hold."""
        found = self.predictions(X, present=present)
        for note in found.notes:
            warnings.warn(note, DMSWarning, stacklevel=3)
        return found

    def _bind(self, artifact: Artifact) -> None:
        """Takes over what was learned."""
        self._predictor = Predictor(artifact, get_backend("numpy"))
        self.artifact_ = artifact
        self.classes_ = self._predictor.classes
        self.modalities_ = artifact.spec.modalities
        self.notes_ = tuple(artifact.model.get("notes", ()))

    def _settings(self) -> FitSettings:
        own: dict[str, Any] = {f.name: getattr(self, f.name, None) for f in fields(FitSettings)}
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        # Weights by class are weights of rows: see _learnable.
        by_row = self.class_weight is None or isinstance(self.class_weight, Mapping)
        own["class_weight"] = "none" if by_row else self.class_weight
        return FitSettings(**own | {"seed": int(seed)})

    def _spec(self, table: Table) -> SchedulerSpec:
        if isinstance(self.spec, SchedulerSpec):
            return self.spec
        return SchedulerSpec.preset(self.spec, table.modalities)

    def _learnable(self, X: Any, y: Any, extra: Mapping[str, Any]) -> Table:  # noqa: N803
        """Makes a table to learn from, and remembers which columns are which modality."""
        chosen = self.modalities
        self.columns_: dict[str, Any] | None
        if is_mapping(X):
            self.columns_ = None
        elif chosen is None:
            vectors = vector_columns(X)
            self.columns_ = {name: name for name in vectors} or {_ONLY: slice(None)}
        elif isinstance(chosen, Mapping):
            self.columns_ = dict(chosen)
        else:
            raise SpecError(
                "modalities does not say which columns they have",
                expected="a mapping from modality to columns, since X holds columns",
                got=repr(chosen),
            )
        arrays = self._arrays(X, extra, reset=True)
        if nothing := [n for n, a in arrays.items() if a is None and not is_reserved(n)]:
            raise MissingInput(
                f"modality {nothing[0]!r} is None, so there is nothing to learn from",
                expected="an array [N, D]",
                fix="Leave the modality out.",
            )
        if y is not None or "labels" not in arrays:
            arrays["labels"] = _labels(y)
        if isinstance(self.class_weight, Mapping):
            own = compute_sample_weight(dict(self.class_weight), arrays["labels"])
            arrays["sample_weight"] = own * np.asarray(arrays.get("sample_weight", 1.0))
        names = self.columns_ or chosen
        table = Table.from_arrays(
            arrays, None if names is None else tuple(names), need_labels=True, where=WHERE
        )
        if self.columns_ and are_named(self.columns_):
            table = replace(table, columns=FrameColumns(modalities=self.columns_))
        return table

    def _known(self, X: Any, present: Any) -> Table:  # noqa: N803
        """Makes a table along the axis of what was learned."""
        check_is_fitted(self)
        arrays = self._arrays(X, {"present": present}, reset=False)
        return Table.from_arrays(
            # A prediction depends neither on labels nor on how rows were split.
            {n: a for n, a in arrays.items() if not is_reserved(n) or n.startswith("present")},
            axis=self.modalities_,
            widths=self._predictor.model.widths,
            strict_labels=False,
            where=WHERE,
        )

    def _arrays(self, X: Any, extra: Mapping[str, Any], *, reset: bool) -> dict[str, Any]:  # noqa: N803
        """Gives the modalities by name, where each is present, and what else is known."""
        given = {name: value for name, value in extra.items() if value is not None}
        arrays = self._modalities(X, reset=reset)
        if "present" in given:  # in place of what NaN and null say
            arrays = {n: a for n, a in arrays.items() if not n.startswith("present")}
        elif not is_mapping(X) or "present" not in X:
            arrays = with_gaps(arrays)
        return arrays | given

    def _modalities(self, X: Any, *, reset: bool) -> dict[str, Any]:  # noqa: N803
        if is_mapping(X):
            chosen = list(X if self.modalities is None else self.modalities)
            return {n: a for n, a in X.items() if n in chosen or is_reserved(n)}
        if self.columns_ is None:
            raise MissingInput(
                "nothing says which columns are which modality",
                expected=f"a mapping with arrays {', '.join(self.modalities_)}",
                got=type(X).__name__,
                fix="Or fit with modalities={...}, and columns by modality.",
            )
        if are_named(self.columns_):
            frame = open_frame(X, WHERE)
            taken = take_of(frame, self.columns_)
            if reset:
                self.columns_ = {**taken.modalities}
            widths = None if reset else self._predictor.model.widths
            return {**arrays_of_frame(frame, taken, widths=widths)}
        wide = validate_data(self, X, reset=reset, ensure_all_finite=False)
        blocks = counted(self.columns_, wide.shape[1])
        if reset:
            self.columns_ = {**blocks}
        return {name: wide[:, own] for name, own in blocks.items()}


def _labels(y: Any) -> NDArray[Any]:
    """Reads labels as scikit-learn's own classifiers do."""
    labels: NDArray[Any] = column_or_1d(y, warn=True)
    assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    return labels


def _training() -> Any:
    """Imports what learns."""
    try:
        return import_module("dms_torch.fit.training")
    except ImportError as error:
        raise BackendUnavailable(
            "learning needs torch", got=str(error), fix=install_hint("dms-spec[sklearn]")
        ) from error
