from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from glass.cli_parser import make_parser, parse
from glass.config import DataConfig, RunConfig, SidConfig, TrainConfig
from glass.configuration import (
    describe_type,
    field_types,
    find_config,
    read_yaml,
    suggestion,
)
from glass.pipeline import check_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def load(path: Path | None, *arguments: str) -> RunConfig:
    return parse(make_parser("glass run", ""), None if path is None else str(path), arguments)[0]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    return path


class TestConfigs:
    def test_there_are_some(self) -> None:
        assert len(CONFIGS) >= 6

    @pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
    def test_loads_and_can_work(self, path: Path) -> None:
        config = load(path)
        check_config(config)
        assert config.name == path.stem

    @pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
    def test_says_how_to_run_it_and_holds_only_what_differs(self, path: Path) -> None:
        first = path.read_text().splitlines()[0]
        assert first.startswith("# ")
        assert "make run" in first or f"glass run configs/{path.name}" in first
        defaults = asdict(RunConfig())
        for key, value in read_yaml(path).items():
            if isinstance(value, dict):
                assert value, key
                same = {name for name, v in value.items() if v == defaults[key][name]}
                assert not same, (key, same)

    def test_paper_sizes(self) -> None:
        for name in ("taobao_mm_glass", "kuairec_glass"):
            config = load(next(path for path in CONFIGS if path.stem == name))
            model, train = config.model, config.train
            sizes = (model.d_model, model.num_heads, model.head_dim, model.d_ff)
            assert sizes == (96, 6, 32, 1024)
            assert (model.num_encoder_layers, model.num_decoder_layers) == (4, 4)
            assert (train.batch_size, train.learning_rate, train.patience) == (2048, 1e-4, 100)
            assert config.sid.codebook_sizes == (64, 128, 128)


class TestParse:
    def test_defaults(self) -> None:
        assert load(None) == RunConfig()

    def test_file_then_command_line(self, tmp_path: Path) -> None:
        path = write(
            tmp_path, "name: a\ntrain:\n  seed: 3\n  learning_rate: 1e-3\nsid: {seed: 4}\n"
        )
        config = load(path, "--train.seed", "5", "--sid.codebook_sizes", "[8,16]")
        assert config == RunConfig(
            name="a",
            train=TrainConfig(seed=5, learning_rate=0.001),
            sid=SidConfig(seed=4, codebook_sizes=(8, 16)),
        )
        assert isinstance(config.sid.codebook_sizes, tuple)

    def test_whole_number_of_a_float_field_becomes_a_float(self, tmp_path: Path) -> None:
        # 2000 and 2000.0 would be two settings in a fingerprint.
        read = load(write(tmp_path, "train: {max_epochs: 7}")).train.max_epochs
        assert [type(load(None).train.max_epochs), type(read)] == [float, float]

    def test_null_switches_and_lists(self) -> None:
        config = load(
            None,
            "--data.time_column=null",
            "--model.use_hard_search=false",
            "--systems=[glass]",
            "--data.min_rating=4",
        )
        assert config.data == DataConfig(time_column=None, min_rating=4.0)
        assert config.model.use_hard_search is False
        assert config.systems == ("glass",)

    def test_empty_file_and_section(self, tmp_path: Path) -> None:
        assert load(write(tmp_path, "# nothing\n")) == RunConfig()
        assert load(write(tmp_path, "train:\n  # seed: 1\n")) == RunConfig()

    def test_every_field_is_an_option_with_its_text(self) -> None:
        text = " ".join(make_parser("glass run", "").format_help().split())
        for name, kind in field_types().items():
            assert (f"--{name} " in text) == (not hasattr(kind, "__dataclass_fields__")), name
        assert "Newest events fed to the encoder; everything older is the long history." in text

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--train.batch_size", "2.5"], "train.batch_size is 2.5; it must be a whole number"),
            (["--train.max_epochs", "many"], "train.max_epochs is many; it must be a number"),
            (["--train.seed", "null"], "train.seed is null; it must be a whole number"),
            (["--model.use_sid_tier", "maybe"], "must be true or false"),
            (["--data.split", "random"], "data.split is random; it must be one of last_n, time"),
            (["--sid.codebook_sizes", "8,8"], "must be a list of whole numbers"),
            (["--train.learning_rate", "nan"], "train.learning_rate"),
            (["--train.sead", "1"], "unknown option --train.sead. Did you mean --train.seed?"),
            (["--max-epochs", "1"], "Did you mean --train.max_epochs?"),
            (["--model.batch_size", "1"], "--train.batch_size or --eval.batch_size"),
            (["--train", "x.yaml"], "--train is a section"),
            (["--train.seed"], "--train.seed"),
            (["stray"], "stray"),
        ],
    )
    def test_wrong_arguments(self, arguments: list[str], message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            load(None, *arguments)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("train:\n  max_epoch: 2\n", "my.yaml:2: unknown field train.max_epoch. Did you mean "),
            ("trian:\n  seed: 2\n", "my.yaml:1: unknown field trian. Did you mean train?"),
            ("beam_width: 2\n", "Did you mean eval.beam_width?"),
            ("name: a\nname: b\n", "my.yaml:2: name is given twice, first in line 1"),
            ("train: 3\n", "my.yaml:1: train must be a section"),
            ("train:\n  seed:\n", "my.yaml:2: train.seed is empty; it must be a whole number"),
            ("train: {seed: true}\n", "my.yaml: train.seed is True; it must be a whole number"),
            ("data: {format: csv}\n", "data.format is csv; it must be one of complete_journey, "),
            ("name: 3\n", "name is 3; it must be text"),
            ("train: {learning_rate: .nan}\n", "train.learning_rate is nan; it must be finite"),
            ("name: [\n", "is not valid YAML"),
            ("just words\n", "holds no settings"),
            ("- a\n", "holds no settings"),
            ("\tname: a\n", "is not valid YAML"),
        ],
    )
    def test_wrong_files(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            load(write(tmp_path, text))

    def test_yaml_makes_no_objects(self, tmp_path: Path) -> None:
        path = write(tmp_path, "name: !!python/object/apply:os.getcwd []\n")
        with pytest.raises(ValueError, match="not valid YAML"):
            load(path)

    def test_file_that_is_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "my.yaml"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match=r"my\.yaml"):
            load(path)


class TestFindConfig:
    def test_missing_file_names_the_near_one(self, tmp_path: Path) -> None:
        write(tmp_path, "")
        with pytest.raises(ValueError, match=r"does not exist. Did you mean .*my\.yaml\?"):
            find_config(str(tmp_path / "mu.yaml"))
        with pytest.raises(ValueError, match="does not exist"):
            find_config(str(tmp_path / "no" / "mu.yaml"))

    def test_folder_without_config(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"without a config\.yaml"):
            find_config(str(tmp_path))

    def test_link_to_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "latest").symlink_to("gone")
        with pytest.raises(ValueError, match="points to gone"):
            find_config(str(tmp_path / "latest"))

    def test_moved_run_folder_stays_the_run_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "elsewhere" / "renamed"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump({"name": "old", "output": "runs"}))
        (folder.parent / "latest").symlink_to("renamed")
        for given in (folder, folder.parent / "latest"):
            config = load(given)
            assert Path(config.output) / config.name == folder.resolve()
        assert load(folder, "--name", "new").name == "new"

    def test_run_folder_in_place_keeps_its_words(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        folder = Path("runs/mine")
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("name: mine\n")
        assert load(folder).output == "runs"


def test_describe_type() -> None:
    assert describe_type(str | None) == "text or null"
    assert describe_type(field_types()["data.min_rating"]) == "a number or null"
    assert describe_type(field_types()["train.schedule"]) == "one of constant, cosine"
    assert "rqvae" in describe_type(field_types()["sid"])


def test_suggestion_is_silent_when_nothing_is_near() -> None:
    assert suggestion("qqqqq", [*field_types()]) == ""


def test_copying_start_with_narrow_heads_is_refused_before_any_work() -> None:
    config = load(None, "--model.initialization=copy", "--model.head_dim=8")  # 6 heads, d_model 96
    with pytest.raises(ValueError, match=r"model\.head_dim is 8; .* at least model\.d_model"):
        check_config(config)
    check_config(load(None, "--model.initialization=copy", "--model.head_dim=16"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.metric=mrr@5"], r"train\.metric is 'mrr@5'; it must be ndcg@K, hit@K or recall"),
        (["--train.metric=hit@7"], r"eval\.ks is .*with 7, which early stopping needs \(train\."),
        (["--eval.ks=[1,5]"], r"eval\.ks is \(1, 5\); it must be with 20, which early stopping"),
    ],
)
def test_metric_of_early_stopping_must_be_measured(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_config(load(None, *arguments))


def test_metric_of_early_stopping_may_be_any_that_is_measured() -> None:
    check_config(load(None, "--train.metric=recall@5", "--eval.ks=[1,5]"))


@pytest.mark.parametrize(
    ("arguments", "reader"),
    [
        ((), "model.use_sid_tier"),
        (("--model.use_sid_tier=false",), "model.num_neighbours"),
        (("--model.use_sid_tier=false", "--model.num_neighbours=0"), None),
        (("--systems=[tiger]",), None),
    ],
)
def test_models_that_read_item_vectors_need_some(
    arguments: tuple[str, ...], reader: str | None
) -> None:
    published = ("--sid.source=none", "--sid.quantizer=published", "--sid.codes_path=a.json")
    config = load(None, *published, *arguments)
    if reader is None:
        check_config(config)
        return
    with pytest.raises(ValueError, match=rf"sid\.source is 'none'; it must be .*{reader} reads"):
        check_config(config)
