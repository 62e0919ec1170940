"""The report of a run: one HTML page with plots, made only from the files in the run's folder.

`write_report` needs matplotlib and jinja2 (extra `report`); both are imported when it is called.
The plot functions for use elsewhere are in `pcl.report.plots`, the reader in `pcl.report.run`.
"""

from pcl.report.page import write_report

__all__ = ["write_report"]
