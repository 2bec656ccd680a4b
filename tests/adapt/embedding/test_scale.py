"""A collection of 10⁹ rows: its plan, coverage and resume take memory that does not depend on the number of rows."""

import os
import pathlib
import subprocess
import sys
import tracemalloc

import pytest

from adapt.embedding.collection_files import Pieces
from foundation.shard import Shard

ROOT = pathlib.Path(__file__).parents[3]
ROWS = 10**9


def test_shards_of_a_billion_rows_cover_each_row_once_without_a_list(tmp_path):
    tracemalloc.start()
    pieces = Pieces(tmp_path, ROWS)
    shards = [pieces.of(Shard(index=index, count=7)) for index in range(7)]
    end, number = 0, 0
    while end < ROWS:
        piece = next(shards[number % 7])
        assert piece.rows.start == end and piece.path.name == f"{end:012d}.npz"
        end, number = piece.rows.stop, number + 1
    assert end == ROWS and number == len(pieces) == 15_259 and all(next(each, None) is None for each in shards)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    with pytest.raises(IndexError, match="piece 15259 of 15259"):
        pieces[15_259]


@pytest.mark.slow
def test_a_billion_rows_are_resumed_by_three_shards_in_constant_memory(tmp_path):
    grown = {}
    for rows in (10**7, ROWS):
        done = subprocess.run(
            [sys.executable, "-c", RESUME, str(tmp_path / str(rows)), str(rows)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        grown[rows] = int(done.stdout)
    assert abs(grown[ROWS] - grown[10**7]) < 10 << 20, grown


# Embed a collection of ids that are computed, with all pieces there but three, and print the growth of memory.
RESUME = """
import os, pathlib, resource, sys
import numpy as np
from adapt.embedding.collection_files import Pieces
from adapt.embedding.export import _CollectionExport
from foundation.shard import Shard

out, rows = pathlib.Path(sys.argv[1]), int(sys.argv[2])
class Encoder:
    name, dim, weights, options = "none", 4, "w", {}
embedded = []
def embed(numbers):
    embedded.append(numbers)
    yield np.ones((len(numbers), 4), np.float32)
collection = _CollectionExport(Encoder(), "c", "f", rows, "{:012d}".format, embed, {})
pieces = Pieces(out / "x.parts", rows)
pieces[0].path.parent.mkdir(parents=True)
small = {"embeddings": np.zeros((1, 4), np.float32), "ids": np.zeros(2, np.uint8), "bad": np.zeros(0, np.uint8)}
np.savez(pieces[0].path, **small)
removed = (7, 8, len(pieces) - 1)
for piece in range(1, len(pieces)):
    if piece not in removed:
        os.link(pieces[0].path, pieces[piece].path)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for index in (0, 1):
    assert collection.write(out, "x", lambda *_: None, Shard(index=index, count=3)) is None
expected = [pieces[number].rows for index in (0, 1) for number in removed if number % 3 == index]
assert embedded == expected, (embedded, expected)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
