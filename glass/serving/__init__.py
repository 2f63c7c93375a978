"""Recommendations to users whose events come in one by one, from a saved model."""

from glass.serving.recommender import Recommender
from glass.serving.search import Recommendation

__all__ = ["Recommendation", "Recommender"]
