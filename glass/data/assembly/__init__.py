"""From raw events and items to the files of a prepared data set, in bounded memory.

Users and items are told apart by 64-bit keys of their ids. A data set that fits into memory is one
partition; a larger one is split by the highest bits of the keys, and one partition of its users, or
of its items, is in memory at a time (docs/data.md).
"""

from glass.data.assembly.steps import Assembled, assemble

__all__ = ["Assembled", "assemble"]
