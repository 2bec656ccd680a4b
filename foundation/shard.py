"""One of several equal parts of a job, computed by a process of its own: `--shard=i/n`."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """One of `count` equal parts of a job, `index` from 0."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"shard {self.index}/{self.count} does not exist. Write --shard=i/n with i from 0 to n − 1."
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that `i/n` names; raise `ValueError` for other texts."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise ValueError(f"--shard={text} is not a shard. Write --shard=i/n, such as 0/4.")
        return cls(index=int(index), count=int(count))

    def contains(self, number: int) -> bool:
        """Return whether the item with this number belongs to the shard."""
        return number % self.count == self.index


WHOLE = Shard()
