"""One reader a format. Each yields the inner form of `glass.data.raw.RawData`."""

from __future__ import annotations

from typing import Protocol

from glass.config import DataConfig
from glass.data.raw import RawData, Source
from glass.data.readers import (
    complete_journey,
    inter_json,
    kuairec,
    movielens,
    recbole,
    table,
    taobao_mm,
)
from glass.data.readers.amazon import minionerec, p5, reviews


class Reader(Protocol):
    """A module that finds the files of a format and reads them.

    Both functions raise ValueError that names the setting or file and the remedy.
    """

    def find(self, config: DataConfig) -> list[Source]:
        """Files of the data set, the interactions first; reads no rows."""
        ...

    def read(self, config: DataConfig, sources: list[Source]) -> RawData:
        """Read the files that `find` returned."""
        ...


READERS: dict[str, Reader] = {
    "complete_journey": complete_journey,
    "movielens_1m": movielens,
    "movielens_100k": movielens,
    "recbole": recbole,
    "inter_json": inter_json,
    "p5": p5,
    "minionerec": minionerec,
    "amazon_reviews": reviews,
    "taobao_mm": taobao_mm,
    "kuairec": kuairec,
    "table": table,
}
