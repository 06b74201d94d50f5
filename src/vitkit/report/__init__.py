"""One offline page about a run: `write_report(path, Report(...))`."""

from vitkit.report.contents import Mistake, Report
from vitkit.report.page import render, write_report

__all__ = ["Mistake", "Report", "render", "write_report"]
