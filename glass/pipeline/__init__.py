"""From raw histories to a report: the steps behind the commands, each safe to repeat."""

from glass.pipeline.check import check_config
from glass.pipeline.recommend import Recommendation, recommend
from glass.pipeline.run import Run

__all__ = ["Recommendation", "Run", "check_config", "recommend"]
