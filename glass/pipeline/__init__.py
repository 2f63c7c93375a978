"""From raw histories to a report: the steps behind the commands, each safe to repeat."""

from glass.pipeline.check import check_config
from glass.pipeline.recommend import recommend
from glass.pipeline.run import Run
from glass.serving import Recommendation

__all__ = ["Recommendation", "Run", "check_config", "recommend"]
