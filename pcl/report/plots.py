"""The plots of the report, as functions from plain data to a matplotlib Figure.

Each takes `look` for a dark page or a phone; `png` makes the bytes of an image file. Mappings are from
task name to values, in the order of the tasks, because the order decides the colour: give every plot of
one study the same names. The names `MEMORY` and `memory:<task>` are rehearsal streams.
"""

from pcl.report.conflict import conflict_over_time
from pcl.report.curves import accuracy_over_time, descent_shares, losses, measured_falls
from pcl.report.features import Cloud, feature_maps, tsne
from pcl.report.heatmaps import accuracy_matrix, gradient_cosines
from pcl.report.images import memory_samples
from pcl.report.process import learning_process
from pcl.report.sizes import sizes_over_time
from pcl.report.style import Look, png
from pcl.report.timeline import plan, timeline

__all__ = [
    "Cloud",
    "Look",
    "accuracy_matrix",
    "accuracy_over_time",
    "conflict_over_time",
    "descent_shares",
    "feature_maps",
    "gradient_cosines",
    "learning_process",
    "losses",
    "measured_falls",
    "memory_samples",
    "plan",
    "png",
    "sizes_over_time",
    "timeline",
    "tsne",
]
