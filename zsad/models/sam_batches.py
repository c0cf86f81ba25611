"""Which prompts of which images SAM's decoder takes together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Run = tuple[int, int, int]
"""An image and the range of its prompts: index, start, stop."""


@dataclass(frozen=True)
class Batches:
    """The decoder batches of several images.

    Attributes:
        size: prompts of a full batch.
        full: for each image, start and stop of its full batches, in groups. The masks of all batches of a group are
            decoded before any is selected.
        shared: for each image, those shared batches in which it is the first image.
        shared_sizes: the numbers of prompts that a shared batch may be filled up to.
    """

    size: int
    full: list[list[list[tuple[int, int]]]]
    shared: list[list[list[Run]]]
    shared_sizes: tuple[int, ...]

    def shared_size(self, count: int) -> int:
        """The number of prompts that a shared batch of ``count`` is filled up to."""
        return min((one for one in self.shared_sizes if one >= count), default=self.size)


def plan_batches(counts: Sequence[int], size: int, shared_sizes: tuple[int, ...], together: int, group: int) -> Batches:
    """The full batches of each image, and ``shared_batches`` of what is left.

    Args:
        counts: prompts of each image.
        size: prompts of a batch.
        shared_sizes: as in ``Batches``.
        together: the number of full batches in a group.
        group: as of ``shared_batches``.
    """
    full: list[list[list[tuple[int, int]]]] = []
    for count in counts:
        own = [(start, start + size) for start in range(0, count - size + 1, size)]
        full.append([own[first : first + together] for first in range(0, len(own), together)])
    shared: list[list[list[Run]]] = [[] for _ in counts]
    for batch in shared_batches(counts, size, group):
        # The images come in order, so this one is the first to need the batch.
        shared[batch[0][0]].append(batch)
    return Batches(size, full, shared, shared_sizes)


def shared_batches(counts: Sequence[int], size: int, group: int) -> list[list[Run]]:
    """Decoder batches of what is left of each image after its full batches: no more than ``ceil(sum / size)``.

    Args:
        counts: prompts of each image.
        size: prompts of a batch; one that ends amid a group holds the whole group.
        group: an image's prompts are only parted at multiples of this, so that on a CPU the decoder computes the same
            ones together whichever images share the batch, and rounds the same.
    """
    batches: list[list[Run]] = []
    room = 0
    for image, count in enumerate(counts):
        start = count - count % size
        while start < count:
            if room <= 0:
                batches.append([])
                room = size
            stop = min(count, start + -(-room // group) * group)
            batches[-1].append((image, start, stop))
            room -= stop - start
            start = stop
    return batches
