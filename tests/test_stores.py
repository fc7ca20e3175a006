"""Stores through pyarrow's file systems, on a local S3 server: make test-stores."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import small_artifact

from dms_spec.artifact import save_artifact
from dms_spec.cli import main
from dms_spec.staging import STAGING

Run = Callable[..., Any]
SERVER = os.environ.get("MOTO_SERVER")
FILES, ROWS, KILLS = 12, 20, 8
pytestmark = pytest.mark.skipif(SERVER is None, reason="make test-stores starts a server")


class Store:
    """A bucket on a local server, and where the artifact lies."""

    def __init__(self, port: int, artifact: Path) -> None:
        from pyarrow import fs

        self.artifact, self._address = artifact, f"127.0.0.1:{port}"
        self.files = fs.S3FileSystem(
            endpoint_override=self._address,
            scheme="http",
            access_key="key",
            secret_key="secret",
            allow_bucket_creation=True,
        )
        self.files.create_dir("bucket")

    def uri(self, path: str, bucket: str = "bucket") -> str:
        options = f"endpoint_override={self._address}&scheme=http"
        return f"s3://key:secret@{bucket}/{path}?{options}"

    def names(self, path: str) -> set[str]:
        from pyarrow import fs

        selector = fs.FileSelector(f"bucket/{path}", allow_not_found=True)
        return {found.base_name for found in self.files.get_file_info(selector)}

    def contents(self, path: str) -> dict[str, bytes]:
        names = self.names(path)
        return {n: self.files.open_input_file(f"bucket/{path}/{n}").readall() for n in names}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Twelve files in a bucket, each a part. Only the addresses hold credentials."""
    folder = tmp_path_factory.mktemp("store")
    save_artifact(folder / "art", small_artifact())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(
            [str(SERVER), "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
        ) as process,
    ):
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for _ in range(600):
            with socket.socket() as probe:
                if process.poll() is not None or not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        made = Store(port, folder / "art")
        for k in range(FILES):
            ids = pa.array(range(k * ROWS, k * ROWS + ROWS))
            columns = {n: pa.array([[k + 0.5, 1.0, -2.0]] * ROWS) for n in "ab"}
            table = pa.table({"id": ids, **columns})
            pq.write_table(table, f"bucket/data/{k}.parquet", filesystem=made.files)
        yield made
        process.terminate()


@pytest.fixture(scope="module")
def unbroken(store: Store) -> dict[str, bytes]:
    words = ["predict", str(store.artifact), store.uri("data"), "-o", store.uri("out")]
    assert main([*words, "--keep", "id", "--workers", "1"]) == 0
    return store.contents("out")


def test_a_bucket_holds_what_a_folder_would(
    store: Store, unbroken: dict[str, bytes], tmp_path: Path, dms: Run
) -> None:
    given = ("predict", store.artifact, store.uri("data"), "--keep", "id", "--workers", 1)
    dms(*given, "-o", tmp_path / "out").succeeded()
    local = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert unbroken == local and len(local) == FILES + 1
    assert not any(b"secret" in content for content in unbroken.values())
    watched = ("watch", store.uri("out"), "--reference", store.uri("out"), "--window", 60)
    assert "240 rows in 4 windows" in dms(*watched).succeeded()


def test_killed_and_run_again_gives_the_same_files(
    store: Store, unbroken: dict[str, bytes]
) -> None:
    """At random moments after a run has written something; at the end nothing else is left."""
    draw = random.Random(0)
    words = ["predict", str(store.artifact), store.uri("data"), "-o", store.uri("killed")]
    command = [sys.executable, "-m", "dms_spec", *words, "--keep", "id", "--workers", "2"]
    cut_short = 0
    for _ in range(KILLS):
        before = store.names("killed")
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
            while run.poll() is None and store.names("killed") <= before:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.1))
            run.kill()
        cut_short += not set(unbroken) <= store.names("killed")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert store.contents("killed") == unbroken
    assert cut_short > 1


def test_what_a_killed_run_left_is_removed_and_nothing_else(store: Store, dms: Run) -> None:
    given = ("predict", store.artifact, store.uri("data"), "-o", store.uri("left"))
    dms(*given, "--workers", 1).succeeded()
    for name in (f"{STAGING}part-00001.parquet", "notes.txt"):
        with store.files.open_output_stream(f"bucket/left/{name}") as file:
            file.write(b"half")
    dms(*given, "--workers", 1).succeeded()
    names = store.names("left")
    assert f"{STAGING}part-00001.parquet" not in names and "notes.txt" in names


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (lambda s: s.uri("new", "nowhere"), "Bucket 'nowhere' not found"),
        (lambda s: "s3://key:secret@bucket/new?endpoint_override=127.0.0.1:1&scheme=http", "curl"),
    ],
)
def test_a_store_that_cannot_be_reached_is_named_without_credentials(
    store: Store, dms: Run, place: Callable[[Store], str], words: str
) -> None:
    given = ("predict", store.artifact, store.uri("data"), "-o", place(store), "--workers", 1)
    message = dms(*given).refused()
    assert "cannot reach s3://" in message and words in message and "secret" not in message
    message = dms("predict", store.artifact, store.uri("data/0.parquet"), "-o", "a.npz").refused()
    assert "an address in a store" in message
