"""The HTML report of a run and its summary for the terminal."""

from glass.report.adapt import sid_health_facts
from glass.report.console import print_summary, summary_text
from glass.report.html import render, write_report
from glass.report.input import ExampleUser, ReportInput, ShownBucket, ShownItem

__all__ = [
    "ExampleUser",
    "ReportInput",
    "ShownBucket",
    "ShownItem",
    "print_summary",
    "render",
    "sid_health_facts",
    "summary_text",
    "write_report",
]
