"""Work on many parts, each on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


class Workers:
    """Does parts one after another, in this process.

    Attributes:
        several: whether parts are done in other processes: what they read and write lies in files.
    """

    several = False

    def map(self, work: Callable[[Part], Result], parts: Sequence[Part]) -> Iterator[Result]:
        """`work(part)` of every part, in the order of the parts.

        Args:
            work: can be pickled. Where a worker dies its part is done again: what `work` writes
                takes its name once it is whole, and what it reads is left there.
            parts: small; large things lie in files that `work` opens.

        Raises:
            Exception: what `work` raised.
        """
        return map(work, parts)


ONE_PROCESS = Workers()
