"""dms embed: from files and words to a table, whatever is missing, broken, killed or wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("PIL")
pytest.importorskip("pyarrow")
pytest.importorskip("soundfile")
pytest.importorskip("tqdm")

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import tiny_encoders
from PIL import Image

from dms_spec.cli import main
from dms_spec.embeddings.table import read_table
from dms_spec.encoding.journal import Journal
from dms_spec.errors import FileError
from dms_spec.files import read_arrays

Run = Callable[..., Any]
ALL = (
    *("--image", "tiny_encoders:colours", "--text", "tiny_encoders:letters"),
    *("--audio", "tiny_encoders:loudness", "--label", "folder", "--batch-size", 5),
)
LETTERS = tiny_encoders.letters
WORDS = ("--text", "word=tiny_encoders:letters")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_encoders.write_files(tmp_path_factory.mktemp("embed") / "files")
    (folder / "notes.pdf").write_bytes(b"")
    (folder / ".hidden.png").write_bytes(b"")
    Image.new("I;16", (2, 2), 40000).save(folder.parent / "deep.png")
    return folder


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.csv"
    rows = [f"{'sage' * k},{'ab'[k % 2]},id{k % 9},{k // 2}" for k in range(10)]
    path.write_text("word,kind,name,who\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def report_of(path: Path) -> dict[str, Any]:
    return json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))


# ------------------------------------------------------------------------- what comes of the items


@pytest.mark.parametrize("name", ["out.npz", "out.parquet", "out.safetensors"])
def test_a_folder_becomes_a_table_that_says_what_is_absent(
    dms: Run, files: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / name
    given = ALL if name != "out.safetensors" else [a for a in ALL if a not in ("--label", "folder")]
    outcome = dms("embed", files, "-o", out, *given)
    text = outcome.succeeded()
    assert ("dms fit" in text) == ("--label" in given)
    found = report_of(out)
    absent = {(a["id"], a["modality"]): a["reason"] for a in found["absent"]}
    assert absent == {
        ("cat/0", "image"): "nothing there",
        ("dog/1", "image"): "broken file",
        ("dog/3", "image"): "broken file",
        ("cat/2", "text"): "empty text",
        ("cat/4", "audio"): "broken file",
    }
    assert any("cannot identify image" in a.get("detail", "") for a in found["absent"])
    assert "1 file of" in outcome.err and "of other kinds: not read" in outcome.err
    table = read_table(out, **({"modalities": ["image", "text", "audio"]} if "npz" in name else {}))
    assert len(table) == 12 and set(table.modalities) == {"image", "text", "audio"}
    ids = [
        f"{kind}/{k}" for kind in ("cat", "dog") for k in range(12) if (k % 2) == (kind == "dog")
    ]
    for m, modality in enumerate(table.modalities):
        gone = {row for row, own in enumerate(ids) if (own, modality) in absent}
        assert set(np.flatnonzero(~table.present[:, m])) == gone
        assert np.isfinite(table.embeddings[modality][table.present[:, m]]).all()
    kept = [row for row, own in enumerate(ids) if own != "cat/2"]
    words = [(files / f"{ids[row]}.txt").read_text(encoding="utf-8") for row in kept]
    np.testing.assert_array_equal(table.embeddings["text"][kept], tiny_encoders.letters(words))
    if "--label" in given:
        assert table.labels is not None
        assert table.labels.tolist() == [own.partition("/")[0] for own in ids]


def test_labels_groups_splits_and_ids_go_through(dms: Run, words: Path, tmp_path: Path) -> None:
    """The columns of a CSV file reach dms fit as they would from a table of embeddings."""
    columns = ("--label", "kind", "--group", "who", "--id", "name")
    outcome = dms("embed", words, "-o", tmp_path / "out.parquet", *WORDS, *columns)
    outcome.succeeded()
    assert "1 id in more than one row: 'id0'" in outcome.err
    table = read_table(tmp_path / "out.parquet")
    assert table.labels is not None and table.labels.tolist() == list("ab" * 5)
    assert table.groups is not None and table.groups.tolist() == [k // 2 for k in range(10)]
    assert table.present[:, 0].tolist() == [False, *[True] * 9]
    dms("embed", words, "-o", tmp_path / "n.parquet", "--text", "name=tiny_encoders:letters",
        "--id", "name").refused()  # fmt: skip
    frame = pa.parquet.read_table(tmp_path / "out.parquet")
    assert frame.column("name").to_pylist()[-1] == "id0"
    split = ["train"] * 6 + ["test"] * 3 + [None]
    weights = np.arange(10) / 2
    more = pa.csv.read_csv(words).append_column("part", pa.array(split))
    pa.parquet.write_table(more.append_column("w", pa.array(weights)), tmp_path / "in.parquet")
    columns = ("--label", "kind", "--split", "part", "--weight", "w")
    outcome = dms("embed", tmp_path / "in.parquet", "-o", tmp_path / "out.npz", *WORDS, *columns)
    outcome.succeeded()
    table = read_table(tmp_path / "out.npz")
    assert table.test is not None and table.test.tolist() == [6, 7, 8]
    assert table.sample_weight is not None and table.sample_weight.tolist() == weights.tolist()


def test_paths_start_from_the_folder_of_their_table(dms: Run, files: Path, tmp_path: Path) -> None:
    """One column for two encoders; null, empty and missing paths are absent."""
    path = files.parent / "list.parquet"
    own = str(files / "dog" / "5.png")
    cells = ["files/cat/2.png", None, "", "files/none.png", own, "deep.png"]
    there = [True, True, True, True, False, True]
    pa.parquet.write_table(
        pa.table({"picture": cells, "present.a": there, "present.c": there}), path
    )
    out = tmp_path / "out.npz"
    named = ("--image", "a=tiny_encoders:colours", "--file", "b=tiny_encoders:sizes")
    columns = ("--modality", "a=picture", "--modality", "b=picture")
    outcome = dms("embed", path, "-o", out, *named, *columns)
    outcome.succeeded()
    assert "column 'present.c' is not used" in outcome.err
    arrays = read_arrays(out)
    assert arrays["present.a"].tolist() == [True, *[False] * 5]
    assert arrays["present.b"].tolist() == [True, False, False, False, True, True]
    assert arrays["b"][4, 0] == (files / "dog" / "5.png").stat().st_size
    reasons = [a["reason"] for a in report_of(out)["absent"] if a["modality"] == "a"]
    nothing = "nothing there"
    assert reasons == [nothing, nothing, "no file", nothing, "more than 8 bits"]


# ------------------------------------------------------------------------ encoders that go wrong


def picky(texts: list[str]) -> Any:
    if any(len(text) == 8 for text in texts):
        raise ValueError("eight letters")
    return LETTERS(texts)


def with_nan(texts: list[str]) -> Any:
    return [[np.nan if len(text) == 8 else 1.0, 2.0] for text in texts]


def one_by_one(texts: list[str]) -> Any:
    if len(texts) > 1:
        raise ValueError("one at a time, please")
    return LETTERS(texts)


@pytest.mark.parametrize(
    ("encoder", "reason", "noted"),
    [
        (picky, "the encoder failed", "encoded one by one: ValueError: eight letters"),
        (with_nan, "NaN or infinity", ""),
        (one_by_one, None, "failed 1 time on several items together"),
    ],
)
def test_an_encoder_that_fails_on_some_items(
    dms: Run,
    words: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoder: Any,
    reason: str | None,
    noted: str,
) -> None:
    monkeypatch.setattr(tiny_encoders, "letters", encoder)
    out = words.with_name("out.npz")
    outcome = dms("embed", words, "-o", out, *WORDS)
    outcome.succeeded()
    assert noted in outcome.err
    reasons = {a["row"]: a["reason"] for a in report_of(out)["absent"]}
    assert reasons == {0: "empty text"} | ({2: reason} if reason else {})


def growing(texts: list[str]) -> Any:
    return np.ones((len(texts), 2 + len(texts[0]) // 16))


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        (lambda texts: np.ones((len(texts), 3, 2)), "[4, 3, 2]"),
        (lambda texts: np.ones((len(texts) + 1, 2)), "[5, 2]"),
        (lambda texts: np.ones(len(texts)), "[4]"),
        (lambda texts: [[1.0] * (k + 1) for k in range(len(texts))], "inhomogeneous"),
        (lambda texts: [["a"] for _ in texts], "got <U1 [4, 1]"),
        (lambda _: None, "[]"),
        (growing, "changes what it gives"),
    ],
)
def test_what_is_no_embedding_ends_the_run(
    dms: Run, words: Path, monkeypatch: pytest.MonkeyPatch, encoder: Any, said: str
) -> None:
    monkeypatch.setattr(tiny_encoders, "letters", encoder)
    before = sorted(words.parent.iterdir())
    message = dms("embed", words, "-o", words.with_name("o.npz"), *WORDS, "--batch-size", 5)
    assert said in message.refused()
    left = [path.name for path in sorted(words.parent.iterdir()) if path not in before]
    assert left == (["o.npz.unfinished"] if encoder is growing else [])


def test_an_encoder_that_fails_on_every_item_is_stopped_soon(
    dms: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(texts: list[str]) -> Any:
        calls.append(len(texts))
        raise OSError("no weights")

    monkeypatch.setattr(tiny_encoders, "letters", broken)
    pa.csv.write_csv(pa.table({"word": ["a"] * 500}), tmp_path / "many.csv")
    outcome = dms("embed", tmp_path / "many.csv", "-o", tmp_path / "out.npz", *WORDS)
    assert (
        "fails on every item: expected an embedding for some of them, got OSError: no weights"
        in (outcome.refused(4))
    )
    assert sum(calls) == 2 * 32
    assert [path.name for path in tmp_path.iterdir()] == ["many.csv"]


def test_memory_that_is_full_is_no_property_of_an_item(
    dms: Run, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: list[str]) -> Any:
        raise MemoryError

    monkeypatch.setattr(tiny_encoders, "letters", full)
    assert "--batch-size" in dms("embed", words, "-o", words.with_name("o.npz"), *WORDS).refused()


# ---------------------------------------------------------------------------- killed, and run again


@pytest.fixture(scope="module")
def unbroken(files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run writes that nothing stops."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert main(["embed", str(files), "-o", str(folder / "out.parquet"), *map(str, ALL)]) == 0
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=15, deadline=None)
@given(batches=st.integers(0, 8), cut=st.integers(0, 900), flipped=st.integers(0, 3000))
def test_a_run_that_was_killed_ends_with_the_same_bytes(
    files: Path,
    unbroken: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    batches: int,
    cut: int,
    flipped: int,
) -> None:
    """Stopped after some batches; some bytes never reached the disk, or one is another."""
    folder = tmp_path_factory.mktemp("killed")
    words = ["embed", str(files), "-o", str(folder / "out.parquet"), *map(str, ALL)]
    left, add = [batches], Journal.add

    def stopping(*given: Any) -> None:
        add(*given)
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "add", stopping)
        assert main(words) == 130
    (unfinished,) = folder.iterdir()
    data = unfinished.read_bytes()
    start = data.index(b"}\n") + 2  # the mark and the run: other bytes there are refused
    body = bytearray(data[start : max(start, len(data) - cut)])
    if body:
        body[flipped % len(body)] ^= 1
    unfinished.write_bytes(data[:start] + body)
    assert main(words) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == unbroken


def test_what_is_finished_is_not_encoded_again(
    dms: Run, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full while the table is written: its batches are still there."""
    out = words.with_name("out.npz")
    monkeypatch.setattr(
        "dms_spec.streams.Writer._write", lambda _: (_ for _ in ()).throw(OSError(28, "full"))
    )
    assert "full" in dms("embed", words, "-o", out, *WORDS).refused()
    monkeypatch.undo()
    monkeypatch.setattr(tiny_encoders, "letters", lambda _: pytest.fail("encoded again"))
    outcome = dms("embed", words, "-o", out, *WORDS)
    outcome.succeeded()
    assert "went on from an unfinished run, after 1 of 1 batches" in outcome.err


def test_the_work_of_another_run_is_not_lost(
    dms: Run, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = words.with_name("out.npz")
    monkeypatch.setattr(
        "dms_spec.cli.embed.write_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    assert dms("embed", words, "-o", out, *WORDS).code == 130
    monkeypatch.undo()
    unfinished = out.with_name("out.npz.unfinished").read_bytes()
    changed = ("embed", words, "-o", out, *WORDS, "--batch-size", 7)
    assert "is of another run" in dms(*changed).refused()
    assert out.with_name("out.npz.unfinished").read_bytes() == unfinished
    other = out.with_name("other.unfinished")
    with (
        Journal(other, "run"),
        pytest.raises(FileError, match="another run writes"),
        Journal(other, "run"),
    ):
        pass
    dms(*changed, "--overwrite").succeeded()
    dms(*changed).succeeded()  # an earlier output of this kind is replaced
    assert not out.with_name("out.npz.unfinished").exists()
