"""Refuses settings that cannot work before any time is spent on them."""

from __future__ import annotations

from glass.config import EvalConfig, ModelConfig, RunConfig, SequenceConfig, TrainConfig
from glass.data.preparation import check_config as check_data_config
from glass.evaluation.candidates import CHOICES
from glass.sid.builder import check_sid_config
from glass.systems import TRAINED
from glass.training.metric import cut_off
from glass.workers.start import check_ray

BASELINES = ("popularity", "own_frequency", "recent_frequency", "item_knn")
SYSTEMS = (*BASELINES, *TRAINED)


def _require(good: bool, field: str, value: object, wanted: str) -> None:
    if not good:
        raise ValueError(f"{field} is {value!r}; it must be {wanted}")


def check_config(config: RunConfig) -> None:
    """Raises ValueError naming the first field that cannot work, and what it must be."""
    _require(
        config.name not in ("", ".", "..", "latest") and not {"/", "\0"} & set(config.name),
        "name",
        config.name,
        "a folder name other than 'latest'",
    )
    for system in config.systems:
        _require(system in SYSTEMS, "systems", system, f"one of {', '.join(SYSTEMS)}")
    _require(bool(config.systems), "systems", config.systems, "at least one system")
    check_data_config(config.data)
    check_sid_config(config.sid)
    check_ray(config.ray)
    _check_vectors(config)
    _check_model(config.model)
    _check_sequence(config.sequence)
    _check_train(config.train)
    _check_eval(config.eval, config.train.metric)


def _check_vectors(config: RunConfig) -> None:
    """Published codes may come without item vectors, which some parts of models read."""
    if config.sid.source != "none":
        return
    for system in config.systems:
        for field in TRAINED[system].vector_readers(config) if system in TRAINED else ():
            _require(False, "sid.source", "none", f"a source of item vectors: {field} reads them")


def _check_model(model: ModelConfig) -> None:
    for field in ("d_model", "num_heads", "head_dim", "d_ff", "short_length", "search_max_items"):
        _require(getattr(model, field) >= 1, f"model.{field}", getattr(model, field), "at least 1")
    for field in ("num_encoder_layers", "num_decoder_layers"):
        _require(getattr(model, field) >= 1, f"model.{field}", getattr(model, field), "at least 1")
    for field in ("num_neighbours", "search_min_items"):
        _require(getattr(model, field) >= 0, f"model.{field}", getattr(model, field), "at least 0")
    _require(0 <= model.dropout < 1, "model.dropout", model.dropout, "in [0, 1)")
    _require(0 <= model.fixed_gate <= 1, "model.fixed_gate", model.fixed_gate, "in [0, 1]")
    _require(1 <= model.num_tiers <= 255, "model.num_tiers", model.num_tiers, "in [1, 255]")
    limit = model.tier_table_limit
    _require(limit >= 0, "model.tier_table_limit", limit, "at least 0")
    width = model.num_heads * model.head_dim
    _require(
        model.initialization != "copy" or width >= model.d_model,
        "model.head_dim",
        model.head_dim,
        "such that model.num_heads * model.head_dim is at least model.d_model, with "
        "model.initialization=copy",
    )
    _require(
        model.tier_edges != "paper" or model.num_tiers == 4,
        "model.num_tiers",
        model.num_tiers,
        "4 with model.tier_edges=paper",
    )


def _check_sequence(sequence: SequenceConfig) -> None:
    sizes = ("d_model", "num_layers", "num_heads", "head_dim", "d_ff", "max_items", "uid_dim")
    for field in sizes:
        value = getattr(sequence, field)
        _require(value >= 1, f"sequence.{field}", value, "at least 1")
    hidden, std = sequence.hidden_dim, sequence.codebook_std
    _require(hidden is None or hidden >= 1, "sequence.hidden_dim", hidden, "at least 1, or null")
    _require(std is None or std > 0, "sequence.codebook_std", std, "above 0, or null")
    _require(0 <= sequence.dropout < 1, "sequence.dropout", sequence.dropout, "in [0, 1)")
    _require(sequence.alignment >= 0, "sequence.alignment", sequence.alignment, "at least 0")
    _require(sequence.temperature > 0, "sequence.temperature", sequence.temperature, "above 0")


def _check_train(train: TrainConfig) -> None:
    for field in ("batch_size", "max_targets", "patience", "log_every", "checkpoint_every"):
        _require(getattr(train, field) >= 1, f"train.{field}", getattr(train, field), "at least 1")
    for field in ("learning_rate", "max_epochs", "eval_every"):
        _require(getattr(train, field) > 0, f"train.{field}", getattr(train, field), "above 0")
    _require(train.shuffle_events >= 1, "train.shuffle_events", train.shuffle_events, "at least 1")
    for field in ("weight_decay", "warmup_steps", "num_valid_groups", "grad_clip", "workers"):
        _require(getattr(train, field) >= 0, f"train.{field}", getattr(train, field), "at least 0")


def _check_eval(evaluation: EvalConfig, metric: str) -> None:
    _require(
        bool(evaluation.ks) and min(evaluation.ks) >= 1,
        "eval.ks",
        evaluation.ks,
        "cut-offs of at least 1",
    )
    k = cut_off(metric)
    wanted = f"with {k}, which early stopping needs (train.metric is {metric})"
    _require(k in evaluation.ks, "eval.ks", evaluation.ks, wanted)
    _require(
        evaluation.beam_width >= max(evaluation.ks),
        "eval.beam_width",
        evaluation.beam_width,
        f"at least the largest cut-off, {max(evaluation.ks)}",
    )
    _require(
        evaluation.candidates in CHOICES,
        "eval.candidates",
        evaluation.candidates,
        f"one of {', '.join(CHOICES)}",
    )
    for field in ("batch_size", "knn_neighbours"):
        value = getattr(evaluation, field)
        _require(value >= 1, f"eval.{field}", value, "at least 1")
    prior = evaluation.item_prior
    _require(0 < prior < float("inf"), "eval.item_prior", prior, "a number above 0")
    _require(evaluation.bootstrap >= 0, "eval.bootstrap", evaluation.bootstrap, "at least 0")
