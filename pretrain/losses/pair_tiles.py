"""Tiles of pairs that fit the registers and the shared memory of an NVIDIA GPU."""

from __future__ import annotations

from typing import NamedTuple

# Bytes of shared memory that a program can have, by compute capability (CUDA C++ Programming Guide, technical
# specifications: 163, 227 and 99 KB).
_SHARED_MEMORY = {"8.0": 166_912, "9.0": 232_448, "10.0": 232_448}
_LEAST_SHARED_MEMORY = 101_376
# Float32 numbers of the sums of a program's rows that fit its registers. The tensor cores of 9.0 read operands from
# shared memory. For other cards operands take registers, too: with 64 * 768 sums, ptxas spills 420 bytes a thread.
_REGISTER_SUMS = {"9.0": 64 * 768}
_LEAST_REGISTER_SUMS = 32 * 1152
_BYTES = 2  # of an operand in bfloat16
_TILES = ((64, 32), (32, 32), (32, 16), (16, 16))  # rows and columns; more rows read the columns less often
_CHUNKS = (256, 128, 64)  # of more than 64 dimensions
_LEAST_CHUNK = 16


class Tile(NamedTuple):
    """The pairs that a program of the kernel holds at a time.

    rows, columns: of a tile. chunk: embedding dimensions of an operand of a matrix product. All are powers of two.
    stages: tiles of columns on the way: the one in use, and those that are being loaded.
    warps: groups of 32 threads that share the work.
    """

    rows: int
    columns: int
    chunk: int
    stages: int = 2
    warps: int = 8

    def width(self, dim: int) -> int:
        """Return the embedding dimension with its padding: a multiple of the chunk."""
        return -(-dim // self.chunk) * self.chunk

    def shared_memory(self, dim: int, *, reads_operands: bool) -> int:
        """Return the bytes that a program takes at most: embeddings and slopes in bfloat16, and sums of rows.

        `reads_operands`: whether tensor cores read operands from there, so that the tile in use is kept, too.
        """
        kept = self.stages if reads_operands else self.stages - 1
        embeddings = (self.rows + kept * self.columns) * self.width(dim)
        return _BYTES * (embeddings + self.rows * self.columns) + self.warps * self.rows


def choose_tile(dim: int, compute_capability: str) -> Tile:
    """Return the largest tile for embeddings of `dim` dimensions in bfloat16 on a card.

    Raises `ValueError` if the smallest does not fit the registers or the shared memory.
    """
    chunk = choose_chunk(dim)
    memory = _SHARED_MEMORY.get(compute_capability, _LEAST_SHARED_MEMORY)
    sums = _REGISTER_SUMS.get(compute_capability, _LEAST_REGISTER_SUMS)
    for rows, columns in _TILES:
        tile = Tile(rows, columns, chunk)
        if (
            rows * tile.width(dim) <= sums
            and tile.shared_memory(dim, reads_operands=compute_capability == "9.0") <= memory
        ):
            return tile
    raise ValueError(
        f"objective.implementation 'pallas' cannot hold embeddings of {dim} dimensions on a GPU of compute capability "
        f"{compute_capability}. Use objective.implementation='xla'."
    )


def choose_chunk(dim: int) -> int:
    """Return the number of dimensions of an operand: the largest of those that pad `dim` least."""
    if dim <= _CHUNKS[-1]:
        return max(_LEAST_CHUNK, 1 << (dim - 1).bit_length())
    return min(_CHUNKS, key=lambda chunk: -(-dim // chunk) * chunk)
