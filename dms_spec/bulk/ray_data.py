"""Scores a dataset of Ray Data with a pool of actors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dms_spec.embeddings.scoring import Scorer
from dms_spec.embeddings.sources.columns import Columns
from dms_spec.errors import BackendUnavailable, MissingInput, install_hint

#: Rows that an actor gets at a time.
ROWS = 1 << 14


class _Actor:
    """Lives in a process of Ray's, and holds the loaded artifact."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        scorer.predictor()

    def __call__(self, batch: Any) -> Any:
        return self._scorer(batch).replace_schema_metadata()


def score_dataset(
    dataset: Any,
    artifact: Path | str,
    *,
    keep: Sequence[str],
    columns: Columns | None = None,
    backend: str = "numpy",
    actors: int = 2,
    cpus: float = 0.5,
) -> Any:
    """Scores every row of a dataset of Ray, lazily. An actor that dies is started again.

    Args:
        dataset: A ``ray.data.Dataset``.
        artifact: The folder, which every machine can read.
        keep: Columns that are copied, with one among them that names the rows: Ray does not keep
            their order.
        columns: Which columns are what; those of the artifact, where it leaves them open.
        backend: Where to compute.
        actors: Processes.
        cpus: What each asks for. Leave some for reading, or nothing ever begins.

    Returns:
        A ``ray.data.Dataset`` with the columns to keep, then what `Predictor.predict` gives.

    Raises:
        MissingInput: There is nothing to keep.
        BackendUnavailable: Ray is not installed.
    """
    if not keep:
        raise MissingInput(
            "nothing would name the rows",
            expected="keep=('id',), with a column that does",
            fix="Ray does not keep the order of rows.",
        )
    try:
        from ray.data import ActorPoolStrategy
    except ImportError as error:
        raise BackendUnavailable(
            "a dataset of Ray needs Ray", got=str(error), fix=install_hint("ray[data]")
        ) from error
    scorer = Scorer(
        artifact=artifact, columns=columns or Columns(), keep=tuple(keep), backend=backend
    )
    return dataset.map_batches(
        _Actor,
        fn_constructor_args=(scorer,),
        batch_format="pyarrow",
        batch_size=ROWS,
        compute=ActorPoolStrategy(size=actors),
        num_cpus=cpus,
    )
