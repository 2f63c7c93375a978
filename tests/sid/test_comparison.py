from dataclasses import replace

import numpy as np
import pytest

import glass.sid.comparison as compare_module
from glass.cli import main
from glass.config import RqVaeConfig, SidConfig, VqVaeConfig
from glass.sid import compare, format_comparison
from glass.sid.builder import build

SMALL = SidConfig(
    source="collaborative",
    codebook_sizes=(4, 4),
    collaborative_dim=4,
    kmeans_iterations=5,
    vqvae=VqVaeConfig(epochs=2, batch_size=16),
    rqvae=RqVaeConfig(hidden_sizes=(8,), code_dim=4, epochs=2, batch_size=16),
)
NAMES = ["rkmeans", "vqvae", "rqvae"]


def test_quantizers_share_vectors_and_an_interrupted_comparison_goes_on(
    dataset, tmp_path, monkeypatch
):
    made = []

    def count(config, *others):
        made.append(config.quantizer)
        return item_vectors(config, *others)

    item_vectors = compare_module.item_vectors
    monkeypatch.setattr(compare_module, "item_vectors", count)
    compare(SMALL, dataset, tmp_path / "all", NAMES[:1])
    found = compare(SMALL, dataset, tmp_path / "all", NAMES)
    assert list(found) == NAMES
    assert len(made) == 2
    again = compare(SMALL, dataset, tmp_path / "all", NAMES)
    assert len(made) == 2
    for name, health in found.items():
        assert again[name].to_dict() == health.to_dict()
        alone = build(replace(SMALL, quantizer=name), dataset, tmp_path / name)
        assert [level.counts.tolist() for level in health.levels] == [
            np.bincount(codes, minlength=4).tolist() for codes in alone.codes.T
        ]


def test_table_has_what_was_before_deduplication(dataset, tmp_path):
    plain = compare(SMALL, dataset, tmp_path / "plain", ["rkmeans"])["rkmeans"]
    unique = compare(replace(SMALL, deduplicate=True), dataset, tmp_path / "unique", ["rkmeans"])
    lines = format_comparison(unique).splitlines()
    assert len(lines) == 2
    assert lines == format_comparison({"rkmeans": plain}).splitlines()
    cells = lines[1].split()
    assert cells[:2] == ["rkmeans", f"{plain.num_sids}"]
    assert cells[4:6] == ["0", "0"]
    assert cells[8] == f"{plain.relative_error[0]:.3f}"
    assert cells[10] == f"{plain.agreement.nearest[0]:.1%}"


@pytest.mark.parametrize(
    ("names", "message"),
    [(["rkmeans", "opq"], "'opq'; it must be rkmeans"), ([], "quantizers is empty")],
)
def test_names_are_checked_before_any_work(names, message, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_module, "item_vectors", lambda *_: pytest.fail("worked first"))
    with pytest.raises(ValueError, match=message):
        compare(SMALL, dataset, tmp_path, names)


def test_command(tmp_path, capsys):
    events = [f"u{u},i{(3 * u + k * k) % 9},{k}" for u in range(12) for k in range(8)]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *events]))
    (tmp_path / "shop.yaml").write_text(
        f"output: {tmp_path}/runs\nname: shop\n"
        f"data: {{name: shop, format: table, path: {tmp_path}/events.csv, min_item_events: 1, "
        f"num_test_events: 1, num_valid_events: 1, folder: {tmp_path}/data}}\n"
        "sid: {source: collaborative, collaborative_dim: 3, codebook_sizes: [3, 3], "
        "vqvae: {epochs: 1}}\n"
    )
    arguments = ["sid", "compare", str(tmp_path / "shop.yaml"), "--quantizers", "rkmeans", "vqvae"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["quantizer", "rkmeans", "vqvae"]
    assert lines[-1] == f"Figures: {tmp_path}/runs/shop/sid_compare.json"
    assert (tmp_path / "runs" / "shop" / "sid_compare" / "vqvae" / "sids.parquet").is_file()
