"""Small valid files of every format, and what has to be true of whatever is read."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hostile import attempt

from glass.config import DataConfig, TaobaoMmConfig
from glass.data import Dataset, prepare
from glass.data.synth.taobao_mm import SAMPLES, USERS, VECTORS

Files = dict[str, bytes]
EVENTS = [
    (f"u{user}", f"i{(user * k) % 4}", 86400 * (k + 1)) for user in (1, 2, 3) for k in range(6)
]
ITEMS = [(f"i{item}", f"Thing {item}", "red, round") for item in range(5)]


def parquet(columns: Any, schema: pa.Schema | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer, **options)
    return buffer.getvalue()


def lines(rows: list[tuple[Any, ...]], delimiter: str = ",") -> bytes:
    return "".join(delimiter.join(map(str, row)) + "\n" for row in rows).encode()


def columns(rows: list[tuple[Any, ...]], names: tuple[str, ...]) -> dict[str, list[Any]]:
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _table(suffix: str) -> Files:
    header, item_header = ("user_id", "item_id", "timestamp"), ("item_id", "name", "kind")
    if suffix == "parquet":
        return {
            "e.parquet": parquet(columns(EVENTS, header), row_group_size=7),
            "i.parquet": parquet(columns(ITEMS, item_header)),
        }
    quoted = [(item, name, f'"{kind}"') for item, name, kind in ITEMS]
    return {
        f"e.{suffix}": lines([header, *EVENTS], delimiter := {"csv": ",", "tsv": "\t"}[suffix]),
        f"i.{suffix}": lines([item_header, *quoted], delimiter),
    }


def _complete_journey() -> Files:
    rows = [(int(u[1:]), int(i[1:]), 1, datetime.fromtimestamp(t)) for u, i, t in EVENTS]
    names = ("household_id", "product_id", "quantity", "transaction_timestamp")
    texts = ("product_category", "product_type", "department", "brand", "package_size")
    products = [(item, "ICE", None, "MISC", "Private", "1 LB") for item in range(5)]
    return {
        "transactions.parquet": parquet(columns(rows, names)),
        "products.parquet": parquet(columns(products, ("product_id", *texts))),
    }


def _atomic(name: str, genres: str) -> Files:
    header = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    rows = [(user, item, 4, time) for user, item, time in EVENTS]
    about = ("item_id:token", "movie_title:token_seq", "release_year:float", f"{genres}:token_seq")
    items = [(item, title, 1995, "Comedy") for item, title, _ in ITEMS]
    return {
        f"{name}.inter": lines([header, *rows], "\t"),
        f"{name}.item": lines([about, *items], "\t"),
    }


def _sequences() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for user, item, _ in EVENTS:
        found.setdefault(user[1:], []).append(item[1:])
    return found


def _inter_json() -> Files:
    about = {item[1:]: {"title": title, "categories": [["a"], "b"]} for item, title, _ in ITEMS}
    index = {item[1:]: [f"<a_{item[1:]}>", "<b_0>"] for item, *_ in ITEMS}
    contents = {"inter": _sequences(), "item": about, "index": index}
    return {f"S.{kind}.json": json.dumps(value).encode() for kind, value in contents.items()}


def _p5() -> Files:
    maps = {"item2id": {f"B00{item}": str(item) for item in range(5)}}
    meta = "".join(f"{ {'asin': f'B00{item}', 'title': 'Soap'} }\n" for item in range(5))
    rows = [(user, *items) for user, items in _sequences().items()]
    return {
        "sequential_data.txt": lines(rows, " "),
        "datamaps.json": json.dumps(maps).encode(),
        "meta.json.gz": gzip.compress(meta.encode()),
    }


def _minionerec() -> Files:
    header = ("user_id", "history_item_id", "item_id")
    parts: dict[str, list[tuple[Any, ...]]] = {"train": [], "valid": [], "test": []}
    for user, items in _sequences().items():
        for k, item in enumerate(items[1:], 1):
            split = {5: "test", 4: "valid"}.get(k, "train")
            parts[split].append((user, f'"[{", ".join(items[:k])}]"', item))
    found = {f"{split}/S_5.csv": lines([header, *rows]) for split, rows in parts.items()}
    about = _inter_json()
    return found | {f"index/S.{kind}.json": about[f"S.{kind}.json"] for kind in ("item", "index")}


def _amazon() -> Files:
    reviews = [
        {"reviewerID": user, "asin": item, "unixReviewTime": time, "overall": 5.0}
        for user, item, time in EVENTS
    ]
    meta = [{"asin": item, "title": title, "categories": [["a"]]} for item, title, _ in ITEMS]
    contents = {"r.json": reviews, "m.json": meta}
    return {
        name: "".join(json.dumps(entry) + "\n" for entry in entries).encode()
        for name, entries in contents.items()
    }


def _taobao_mm() -> Files:
    found: Files = {}
    for split in ("train", "test"):
        clicks = [([0, 1] if k % 2 else [1, 0], k % 3, k % 4) for k in range(12)]
        people = {"129_1": [0, 1, 2], "150_2_180": [[k, 1, 2, 3] for k in range(3)]}
        people |= {f"130_{k}": [1] * 3 for k in range(1, 6)} | {"151_2_180": [[1]] * 3}
        rows = columns(clicks, ("label_0", "129_1", "205"))
        found[f"{split}_samples.parquet"] = parquet(rows, SAMPLES)
        found[f"{split}_user_features.parquet"] = parquet(people, USERS)
    vectors = {"205": list(range(5)), "205_c": [[k, *range(127)] for k in range(5)]}
    found["scl_embedding_int8_p90.parquet"] = parquet(vectors, VECTORS)
    return found


_DESCRIBED = {"title_column": "name", "text_columns": ("name", "kind")}
_EVERY: dict[str, tuple[Callable[[], Files], dict[str, Any]]] = {
    "complete_journey": (_complete_journey, {"path": ""}),
    "movielens_1m": (lambda: _atomic("ml-1m", "genre"), {"path": "", "min_rating": 2.0}),
    "movielens_100k": (lambda: _atomic("ml-100k", "class"), {"path": ""}),
    "recbole": (lambda: _atomic("some", "genre"), {"path": "some.inter"}),
    "inter_json": (_inter_json, {"path": ""}),
    "p5": (_p5, {"path": ""}),
    "minionerec": (_minionerec, {"path": ""}),
    "amazon_reviews": (_amazon, {"path": "r.json", "items_path": "m.json"}),
    "taobao_mm": (_taobao_mm, {"path": "", "ties": "stable"}),
    "table": (lambda: _table("csv"), {"path": "e.csv", "items_path": "i.csv", **_DESCRIBED}),
    "table tsv": (lambda: _table("tsv"), {"path": "e.tsv", "items_path": "i.tsv", **_DESCRIBED}),
    "table parquet": (
        lambda: _table("parquet"),
        {"path": "e.parquet", "items_path": "i.parquet", **_DESCRIBED},
    ),
}
CASES = {name: make() for name, (make, _) in _EVERY.items()}
"""{case: {file: content}}; the first word of a case is its format."""


def settings(case: str, folder: Path) -> DataConfig:
    """Settings that read the files of a case in `folder`; malformed rows do not matter."""
    changes = dict(_EVERY[case][1])
    for name in {"path", "items_path"} & changes.keys():
        changes[name] = str(folder / changes[name])
    given = {
        "name": "set",
        "format": case.split()[0],
        "folder": str(folder / "prepared"),
        "min_item_events": 1,
        "min_user_events": 2,
        "num_test_events": 1,
        "num_valid_events": 1,
        "max_malformed_share": 1.0,
        "taobao_mm": TaobaoMmConfig(target_items=None, min_target_clicks=1),
    }
    return DataConfig(**{**given, **changes})


def write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def prepared_or_refused(case: str, folder: Path) -> Dataset | None:
    """The data set, whose manifest tells of every row; None for a ValueError that names a file."""
    config = settings(case, folder)
    dataset, refusal = attempt(lambda: Dataset.load(prepare(config)))
    if dataset is None:
        named = [*CASES[case], str(folder), "data."]
        assert any(name in refusal for name in named), f"names no file and no setting: {refusal}"
    else:
        check_accounts(config.format, dataset)
    return dataset


def check_accounts(format_: str, dataset: Dataset) -> None:
    """Every row is an event of the data set, or counted with the reason why it is not."""
    counts, dropped = dataset.manifest["counts"], dataset.manifest["dropped"]
    left_out = ("users_with_one_event", "users_with_few_events", "rare_items")
    left_out = (*left_out, "users_without_training_events")
    gone = sum(dropped[reason]["events"] for reason in left_out)
    assert counts["source_events"] == counts["events"] + gone
    assert dataset.num_events == counts["events"]
    rows, reports = dropped["rows"], dataset.manifest["malformed"]
    if format_ == "taobao_mm":
        samples = [reports[f"{split}_samples"] for split in ("train", "test")]
        good = sum(report["rows"] - report["count"] for report in samples)
        reasons = ("rows_without_click", "clicks_on_other_items", "clicks_without_history")
        assert 0 <= good - sum(rows[reason] for reason in reasons) <= counts["source_events"]
        return
    report = reports["interactions"]
    named = sum(rows.get(reason, 0) for reason in ("quantity_zero", "below_min_rating"))
    good = report["rows"] - report["count"] - named
    if format_ == "minionerec":  # a first row tells of the events before it too
        assert counts["source_events"] >= good
    else:
        assert counts["source_events"] == good
