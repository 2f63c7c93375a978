"""Texts and catalogues in parts, by this process or by workers of Ray that may die."""

import os
import sys
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sid_workers
import torch
from safetensors.numpy import load_file, save_file

import glass.pipeline.run
import glass.sid.comparison
from glass.cli import main
from glass.config import RayConfig, RqVaeConfig, SidConfig, VqVaeConfig
from glass.sid import assign as assignment
from glass.sid import build, text
from glass.sid.assign import assign, assign_parts
from glass.sid.rqvae import RqVae
from glass.sid.text import encode_texts
from glass.workers import ONE_PROCESS, started

TEXTS = [f"thing {i % 23}" for i in range(60)] + ["", " thing 3 ", "  "]
SMALL = SidConfig(
    codebook_sizes=(4, 8),
    collaborative_dim=4,
    kmeans_iterations=5,
    vqvae=VqVaeConfig(epochs=3, batch_size=16),
    rqvae=RqVaeConfig(hidden_sizes=(8,), code_dim=4, epochs=3, batch_size=16),
)
QUANTIZERS = ["rkmeans", "vqvae", "rqvae"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers, who find the text model of the helpers as sentence-transformers."""
    place = tmp_path_factory.mktemp("package")
    (place / "sentence_transformers.py").write_text("from sid_workers import SentenceTransformer\n")
    helpers = Path(sid_workers.__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(place), str(helpers))))
        with started(RayConfig(enabled=True, address="local", num_cpus=2)) as workers:
            yield workers


@pytest.fixture
def here(monkeypatch):
    """The same text model in this process."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", sid_workers)


def vectors_of(texts):
    """float32 [V, 8] that the text model gives."""
    rows = [np.random.default_rng(list(t.strip().encode())).normal(size=8) + 3 for t in texts]
    return np.array(rows, np.float32) * np.array([[bool(t.strip())] for t in texts])


# --- texts


@pytest.mark.parametrize("size", [1, 4, 22, 23, 100])
@pytest.mark.parametrize("cached", [True, False])
def test_chunks_give_what_one_gives(size, cached, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "TEXTS_AT_A_TIME", size)
    found = encode_texts(TEXTS, "any", tmp_path / "cache" if cached else None)
    assert found.dtype == np.float32
    assert np.array_equal(found, vectors_of(TEXTS))
    whole = sorted({t.strip() for t in TEXTS} - {""})
    assert [sorted(call) for call in encoder.calls] == [
        whole[i : i + size] for i in range(0, 23, size)
    ]
    files = list((tmp_path / "cache").iterdir()) if cached else []
    assert len(files) == cached * len(encoder.calls)


def test_a_killed_call_goes_on_at_its_chunk(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "TEXTS_AT_A_TIME", 5)
    whole = encoder.encode

    def killed(texts, **given):
        if len(encoder.calls) == 2:
            raise KeyboardInterrupt
        return whole(texts, **given)

    monkeypatch.setattr(encoder, "encode", killed)
    with pytest.raises(KeyboardInterrupt):
        encode_texts(TEXTS, "any", tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(encoder, "encode", whole)
    assert np.array_equal(encode_texts(TEXTS, "any", tmp_path), vectors_of(TEXTS))
    assert len(encoder.calls) == 5
    assert len({t for call in encoder.calls for t in call}) == sum(map(len, encoder.calls)) == 23


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def change(name="vectors", rows=slice(None), dtype=np.float32, shape=(-1, 8)):
    def changed(path):
        vectors = load_file(path)["vectors"]
        save_file({name: np.ascontiguousarray(vectors[rows].astype(dtype)).reshape(shape)}, path)

    return changed


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        change(name="other"),
        change(rows=slice(4)),
        change(dtype=np.float64),
        change(shape=(5, 4, 2)),
    ],
)
def test_a_damaged_chunk_is_encoded_anew(damage, encoder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(text, "TEXTS_AT_A_TIME", 5)
    encode_texts(TEXTS, "any", tmp_path)
    second = next(
        p
        for p in tmp_path.iterdir()
        if (load_file(p)["vectors"] == vectors_of([min(encoder.calls[1])])).all(1).any()
    )
    damage(second)
    there = second.exists()
    assert np.array_equal(encode_texts(TEXTS, "any", tmp_path), vectors_of(TEXTS))
    assert encoder.calls[5:] == [encoder.calls[1]]
    assert (f"cache file {second}" in caplog.text) == there
    encode_texts(TEXTS, "any", tmp_path)
    assert len(encoder.calls) == 6


def test_chunks_of_two_models_are_refused(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "TEXTS_AT_A_TIME", 5)
    encode_texts(TEXTS, "any", tmp_path)
    path = sorted(tmp_path.iterdir())[0]
    vectors = load_file(path)["vectors"]
    save_file({"vectors": np.ascontiguousarray(vectors[:, :5])}, path)
    with pytest.raises(ValueError, match=r"two versions of sid\.text_model"):
        encode_texts(TEXTS, "any", tmp_path)


def test_the_model_is_loaded_once_and_let_go(encoder, monkeypatch):
    loaded = []
    monkeypatch.setattr(text, "load_encoder", lambda *_: loaded.append(1) or encoder)
    monkeypatch.setattr(text, "TEXTS_AT_A_TIME", 5)
    encode_texts(TEXTS, "any")
    assert loaded == [1]
    encode_texts(TEXTS, "any")
    assert loaded == [1, 1]


# --- codes


@pytest.mark.parametrize("size", [1, 7, 64, 299, 300, 301])
@pytest.mark.parametrize("normalize", [True, False])
def test_ranges_give_the_codes_of_one_call(size, normalize, monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 24)).astype(np.float32)
    books = [rng.normal(size=(k, 24)).astype(np.float32) for k in (16, 5)]
    books[1][3] = books[1][1]  # a tie
    monkeypatch.setattr(assignment, "ROWS_AT_A_TIME", size)
    found = assign_parts(vectors, books, normalize_residual=normalize)
    assert found.dtype == np.int32
    assert np.array_equal(found, assign(vectors, books, normalize_residual=normalize))


@pytest.mark.parametrize("size", [64, 100, 399, 400, 1000])
def test_ranges_of_an_rqvae_give_the_codes_of_one_call(size, monkeypatch):
    """Codebooks of the vectors' own codes: any other rounding shows."""
    vectors = torch.randn(400, 24).numpy()
    model = RqVae(24, (8, 8), RqVaeConfig(hidden_sizes=(64, 32), code_dim=16)).eval()
    with torch.no_grad():
        whole = model.encode(torch.from_numpy(vectors))
    seen = []

    def encode(x):
        seen.append(model.encode(x))
        return seen[-1]

    books = [whole.numpy()[:50].copy(), whole.numpy()[50:90].copy()]
    monkeypatch.setattr(assignment, "ROWS_AT_A_TIME", size)
    found = assign_parts(vectors, books, encode=encode)
    assert max(map(len, seen)) <= size
    assert torch.equal(torch.cat(seen), whole)
    assert np.array_equal(found, assign(whole.numpy(), books))


def test_arrays_that_nobody_may_write_to():
    vectors, books = torch.randn(40, 8).numpy(), [torch.randn(6, 8).numpy() for _ in range(2)]
    expected = assign(vectors, books)
    for array in (vectors, *books):
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(assign(vectors, books), expected)


def test_no_items():
    books = [np.ones((2, 3), np.float32)]
    assert assign_parts(np.ones((0, 3), np.float32), books).shape == (0, 1)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_a_table_built_in_parts(quantizer, dataset, encoder, tmp_path, monkeypatch):
    config = replace(SMALL, quantizer=quantizer)
    whole = build(config, dataset, tmp_path / "whole")
    monkeypatch.setattr(text, "TEXTS_AT_A_TIME", 10)
    monkeypatch.setattr(assignment, "ROWS_AT_A_TIME", 20)
    parts = build(config, dataset, tmp_path / "parts")
    assert np.array_equal(parts.vectors, whole.vectors)
    assert np.array_equal(parts.codes, whole.codes)
    assert parts.manifest["fit"] == whole.manifest["fit"]
    assert {p.name for p in tmp_path.iterdir()} == {"whole", "parts"}


# --- by workers


@pytest.mark.parametrize("saving", [True, False])
def test_texts_by_workers_of_which_one_dies(saving, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "TEXTS_AT_A_TIME", 3)
    model = sid_workers.save_model(tmp_path / "model", dies_at="thing 15", saving=saving)
    monkeypatch.chdir(tmp_path)  # relative paths are known to workers too
    cache, work = Path("cache"), Path("work")
    work.mkdir()
    found = encode_texts(TEXTS, "model", cache, workers=cluster, work=work)
    assert (tmp_path / "died").exists()
    assert np.array_equal(found, vectors_of(TEXTS))
    assert sorted(p.suffix for p in cache.iterdir()) == [".safetensors"] * 8
    assert not [p for p in cache.iterdir() if "tmp" in p.name]
    assert list(work.iterdir()) == []
    done = sid_workers.calls(model)
    times = Counter(t for call in done for t in call)
    twice = {"thing 14", "thing 15", "thing 16"} if saving else set()
    assert times == {t: 1 + (t in twice) for t in set(TEXTS[:23])}
    again = encode_texts(TEXTS, "model", cache, workers=cluster, work=work)
    assert np.array_equal(again, found)
    assert sid_workers.calls(model) == done


def test_codes_by_workers_of_which_one_dies(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(assignment, "ROWS_AT_A_TIME", 64)
    vectors = torch.randn(400, 24).numpy()
    model = RqVae(24, (8, 8), RqVaeConfig(hidden_sizes=(64,), code_dim=16)).eval()
    books = [book.detach().numpy() for book in model.codebooks]
    encode = sid_workers.DyingEncoder(model, vectors[250], tmp_path / "died")
    (tmp_path / "work").mkdir()
    found = assign_parts(vectors, books, encode=encode, workers=cluster, work=tmp_path / "work")
    assert (tmp_path / "died").exists()
    assert list((tmp_path / "work").iterdir()) == []
    assert np.array_equal(found, assign_parts(vectors, books, encode=model.encode))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_tables_by_workers(quantizer, cluster, here, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "TEXTS_AT_A_TIME", 10)
    monkeypatch.setattr(assignment, "ROWS_AT_A_TIME", 20)
    monkeypatch.chdir(tmp_path)  # relative paths are known to workers too
    model = sid_workers.save_model(tmp_path / "model")
    config = replace(SMALL, quantizer=quantizer, text_model="model")
    alone = build(config, dataset, "alone")
    shared = build(config, dataset, "shared", workers=cluster)
    assert np.array_equal(shared.vectors, alone.vectors)
    assert np.array_equal(shared.codes, alone.codes)
    assert shared.manifest == alone.manifest
    for name, value in alone.quantizer.items():
        assert np.array_equal(shared.quantizer[name], value), name
    assert len(sid_workers.calls(model)) == 6
    assert {p.name for p in tmp_path.iterdir()} == {"model", "log.txt", "alone", "shared"}


def test_errors_of_workers_leave_nothing(cluster, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(text, "TEXTS_AT_A_TIME", 10)  # one part would be done here
    model = sid_workers.save_model(tmp_path / "model")
    (model / "settings.json").unlink()
    config = replace(SMALL, text_model=str(model))
    with pytest.raises(ValueError, match="cannot be loaded"):
        build(config, dataset, tmp_path / "sid", workers=cluster)
    assert {p.name for p in tmp_path.iterdir()} == {"model"}


# --- where workers are started


@pytest.fixture
def shop(tmp_path):
    events = [f"u{u},i{(3 * u + k * k) % 9},{k}" for u in range(12) for k in range(8)]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *events]))
    path = tmp_path / "shop.yaml"
    path.write_text(
        f"output: {tmp_path}/runs\nname: shop\nray: {{enabled: true}}\n"
        f"data: {{name: shop, format: table, path: {tmp_path}/events.csv, min_item_events: 1, "
        f"num_test_events: 1, num_valid_events: 1, folder: {tmp_path}/data}}\n"
        "sid: {source: collaborative, collaborative_dim: 3, codebook_sizes: [3, 3], "
        "vqvae: {epochs: 1}}\n"
    )
    return str(path)


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["build"], glass.pipeline.run),
        (["compare", "--quantizers", "rkmeans", "vqvae"], glass.sid.comparison),
    ],
)
def test_workers_start_once_and_not_for_what_is_there(command, module, shop, monkeypatch):
    began = []

    @contextmanager
    def count(config):
        began.append(config)
        yield ONE_PROCESS

    monkeypatch.setattr(module, "started", count)
    for _ in range(2):
        assert main(["sid", command[0], shop, *command[1:]]) == 0
        assert began == [RayConfig(enabled=True)]
