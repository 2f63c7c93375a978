import importlib.util
import json
import re
import sys

import numpy as np
import pytest

from glass.sid import text
from glass.sid.text import encode_texts
from glass.sid.text_model import MINILM_COMMAND, MINILM_PACKAGE, find_model


def test_distinct_texts_are_encoded_once_and_longest_first(encoder):
    vectors = encode_texts(["ab", " ab ", "", "abcd", "ab", "  "], "any")
    assert encoder.calls == [["abcd", "ab"]]
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors[0], vectors[1])
    assert np.array_equal(vectors[0], vectors[4])
    assert not np.array_equal(vectors[0], vectors[3])
    assert np.array_equal(vectors[3], encoder.encode(["abcd"])[0])
    assert not vectors[[2, 5]].any()


def test_no_text_at_all(encoder):
    with pytest.raises(ValueError, match="every item's text is empty"):
        encode_texts(["", " "], "any")


def test_cache_is_used_for_the_same_texts_and_model_only(encoder, tmp_path):
    first = encode_texts(["a", "b"], "one", tmp_path)
    assert np.array_equal(encode_texts(["b", "a"], "one", tmp_path)[::-1], first)
    assert len(encoder.calls) == 1
    encode_texts(["a", "b"], "two", tmp_path)
    encode_texts(["a", "c"], "one", tmp_path)
    encode_texts(["ab", ""], "one", tmp_path)
    assert len(encoder.calls) == 4
    assert len(list(tmp_path.iterdir())) == 4


def test_damaged_cache_is_encoded_anew(encoder, tmp_path):
    first = encode_texts(["a", "b"], "one", tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"\x05junk")
    assert np.array_equal(encode_texts(["a", "b"], "one", tmp_path), first)
    assert len(encoder.calls) == 2
    assert np.array_equal(encode_texts(["a", "b"], "one", tmp_path), first)
    assert len(encoder.calls) == 2


def test_interrupted_encoding_leaves_no_cache(encoder, tmp_path, monkeypatch):
    def half(_, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(text, "save_file", half)
    with pytest.raises(OSError, match="No space left on device"):
        encode_texts(["a"], "one", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_name_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=re.escape(MINILM_COMMAND)):
        find_model("minilm")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match="pip install sentence-transformers"):
        encode_texts(["a"], "a-name")


def test_model_folder(tmp_path):
    with pytest.raises(ValueError, match=r"has no modules\.json"):
        find_model(str(tmp_path))
    modules = [{"idx": 0, "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert find_model(str(tmp_path)) == tmp_path
    (tmp_path / "modules.json").write_text(json.dumps([*modules, {"type": "evil.Module"}]))
    with pytest.raises(ValueError, match=r"asks for the class 'evil.Module'"):
        find_model(str(tmp_path))
    assert find_model("org/name-on-the-hub") is None


def key_of(texts, model, folder):
    return next(iter(text._keys([texts], model, folder)))[1]


def test_cache_key_follows_the_model_files(tmp_path):
    (tmp_path / "modules.json").write_text("[]")
    before = key_of(["a"], "m", tmp_path)
    assert key_of(["a"], "m", tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert key_of(["a"], "m", tmp_path) != before
    assert key_of(["ab", "c"], "m", None) != key_of(["a", "bc"], "m", None)


def test_vectors_of_the_first_release_stay_cached():
    assert key_of(["a", "b"], "one", None) == "b9db44037227c12503d9ce8e38db3074"


@pytest.mark.slow
def test_bundled_model_knows_what_is_similar():
    pytest.importorskip("sentence_transformers")
    if importlib.util.find_spec(MINILM_PACKAGE) is None:
        pytest.skip(f"needs {MINILM_COMMAND}")
    vectors = encode_texts(["whole milk 1 gallon", "skim milk", "cordless drill"], "minilm")
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


@pytest.mark.slow
def test_bundled_model_in_chunks(monkeypatch, tmp_path):
    pytest.importorskip("sentence_transformers")
    if importlib.util.find_spec(MINILM_PACKAGE) is None:
        pytest.skip(f"needs {MINILM_COMMAND}")
    texts = ["milk", "whole milk 1 gallon", "", "drill", "cordless drill, 18 V, two batteries", "a"]
    whole = encode_texts(texts, "minilm")
    monkeypatch.setattr(text, "TEXTS_AT_A_TIME", 2)
    np.testing.assert_allclose(encode_texts(texts, "minilm", tmp_path), whole, atol=1e-6)
    assert len(list(tmp_path.iterdir())) == 3
