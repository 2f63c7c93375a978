"""Metrics, significance, baselines and diagnostics; all systems share the code behind a ranking."""

from glass.evaluation.baselines import (
    choose_half_life,
    rank_item_knn,
    rank_own_frequency,
    rank_popularity,
    rank_recent_frequency,
)
from glass.evaluation.bootstrap import bootstrap_ci, paired_bootstrap
from glass.evaluation.candidates import candidate_items
from glass.evaluation.catalogue import SidCatalogue
from glass.evaluation.diagnostics import generation_diagnostics
from glass.evaluation.item_ranking import ItemRanking, OwnCounts, rank_items, rank_items_of_sids
from glass.evaluation.metrics import RankMetrics, rank_metrics
from glass.evaluation.predictions import Predictions, read_predictions, write_predictions
from glass.evaluation.ranking import SystemRanking
from glass.evaluation.redistribution import describe_redistribution
from glass.evaluation.results import build_metrics, by_history_length, write_json_atomic
from glass.evaluation.table import format_table
from glass.evaluation.targets import Targets

__all__ = [
    "ItemRanking",
    "OwnCounts",
    "Predictions",
    "RankMetrics",
    "SidCatalogue",
    "SystemRanking",
    "Targets",
    "bootstrap_ci",
    "build_metrics",
    "by_history_length",
    "candidate_items",
    "choose_half_life",
    "describe_redistribution",
    "format_table",
    "generation_diagnostics",
    "paired_bootstrap",
    "rank_item_knn",
    "rank_items",
    "rank_items_of_sids",
    "rank_metrics",
    "rank_own_frequency",
    "rank_popularity",
    "rank_recent_frequency",
    "read_predictions",
    "write_json_atomic",
    "write_predictions",
]
