"""Arrays that need not fit into memory: the same numbers, and few of them at a time."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dms_spec import streams
from dms_spec.embeddings.nonfinite import finite_rows, nonfinite
from dms_spec.embeddings.table import read_table
from dms_spec.errors import FileError
from dms_spec.files import read_arrays, write_arrays
from dms_spec.streams import Writer, forget

Run = Callable[..., Any]
SUFFIXES = (".npz", ".safetensors")


def arrays(rows: int = 50) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "features": random.normal(size=(rows, 2, 3)),
        "logits": random.normal(size=(rows, 2, 4)).astype(np.float32),
        "present": random.random((rows, 2)) < 0.8,
    }


@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(0, 50), max_size=5), suffix=st.sampled_from(SUFFIXES))
def test_parts_make_the_file_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], suffix: str
) -> None:
    path = tmp_path_factory.mktemp("parts") / f"a{suffix}"
    whole = arrays()
    ends = [0, *sorted(cuts), 50]
    with Writer(path, "dms-spec arrays") as writer:
        for start, end in pairwise(ends):
            writer.append({name: array[start:end] for name, array in whole.items()})
    read = read_arrays(path)
    write_arrays(path.with_name(f"b{suffix}"), whole)
    for name, array in whole.items():
        assert read[name].dtype == array.dtype and np.array_equal(read[name], array)
    assert path.read_bytes() == path.with_name(f"b{suffix}").read_bytes()


def test_parts_that_differ_are_refused(tmp_path: Path) -> None:
    for other in ({"a": np.ones((2, 4))}, {"a": np.ones((2, 3), "f4")}, {}, {"b": np.ones((2, 3))}):
        with (
            pytest.raises(ValueError, match="part to part"),
            Writer(tmp_path / "a.npz", "x") as own,
        ):
            own.append({"a": np.ones((2, 3))})
            own.append(other)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_mapped_arrays_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    write_arrays(path, arrays())
    monkeypatch.setattr(streams, "LARGE", 1)
    mapped = read_arrays(path, mapped=True)
    for name, array in read_arrays(path).items():
        assert isinstance(mapped[name].base, np.memmap) and not mapped[name].flags.writeable
        for _ in range(2):
            assert mapped[name].dtype == array.dtype and np.array_equal(mapped[name], array)
            forget(*mapped.values())
    if suffix == ".npz":
        content = bytearray(path.read_bytes())
        content[content.index(arrays()["features"].tobytes()) + 9] ^= 1
        path.with_name("b.npz").write_bytes(content)
        with pytest.raises(FileError, match="CRC"):
            read_arrays(path.with_name("b.npz"), mapped=True)


def test_only_what_is_wanted_is_decompressed(tmp_path: Path) -> None:
    """16 MiB of zeros in 16 KiB, which no modality is."""
    path = tmp_path / "bomb.npz"
    table = {"image": np.ones((9, 2)), "text": np.ones((9, 3)), "labels": np.arange(9)}
    np.savez_compressed(path, **table, other=np.zeros((2**19, 4)))
    assert path.stat().st_size < 1 << 16
    tracemalloc.start()
    read = read_table(path, axis=("image", "text"))
    names = set(read_arrays(path, wanted=lambda *_: False))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    assert len(read) == 9 and names == {*table, "other"}
    assert read.remarks == ("array 'other' is not used",)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_what_is_not_finite_is_found_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    array = arrays()["features"].reshape(50, 6)
    array[[3, 17, 49], [1, 1, 5]] = np.nan
    claimed = np.arange(50) != 17
    finite = finite_rows(array)
    whole = finite, nonfinite(array, claimed, finite)
    monkeypatch.setattr(streams, "_PART", 7 * 6 * 8)
    assert np.array_equal(finite_rows(array), whole[0]) and whole[0].sum() == 47
    assert nonfinite(array, claimed, finite) == whole[1]
    assert (whole[1].rows, whole[1].cells, whole[1].columns) == (2, 2, (1, 5))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_schedule_in_parts_has_the_bits_of_the_whole(
    dms: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"in{suffix}"
    write_arrays(path, arrays())
    for name in ("whole", "parts"):
        dms("schedule", path, "-o", tmp_path / f"{name}{suffix}").succeeded()
        monkeypatch.setattr("dms_spec.cli.common._ENTRIES", 7 * 16)
        monkeypatch.setattr(streams, "LARGE", 1)
    files = [(tmp_path / f"{name}{suffix}").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]
    bad = arrays()
    bad["features"][40] = np.nan
    write_arrays(path, bad)
    spec = tmp_path / "spec.json"
    spec.write_text('{"modalities": ["a", "b"], "policy": "static", "nonfinite": "raise"}')
    message = dms("schedule", path, "-o", tmp_path / f"x{suffix}", "--spec", spec).refused()
    assert "from sample 37 on: " in message and "sample 3" in message


def test_memory_does_not_grow_with_the_rows(
    dms: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside what a part takes: 12 and 24 MB go in, 4 and 8 MB come out."""
    monkeypatch.setattr("dms_spec.cli.common._ENTRIES", 1 << 16)
    monkeypatch.setattr(streams, "LARGE", 1)
    monkeypatch.setattr(streams, "_PART", 1 << 20)
    peaks = []
    for rows in (30_000, 60_000):
        np.savez(tmp_path / f"{rows}.npz", features=np.ones((rows, 3, 16)))
        tracemalloc.start()
        dms(
            "schedule",
            tmp_path / f"{rows}.npz",
            "-o",
            tmp_path / f"o{rows}.npz",
            "--spec",
            "static",
        ).succeeded()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] < 12 << 20
