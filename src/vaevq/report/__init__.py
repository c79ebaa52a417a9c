"""A finished run as one page: pictures of held-out images, the codebook's use, curves, figures and their protocol."""

from vaevq.report.against import write_comparison
from vaevq.report.examples import report_run
from vaevq.report.page import write_report
from vaevq.report.pictures import write_pictures
from vaevq.report.slices import volume_picture

__all__ = ["report_run", "volume_picture", "write_comparison", "write_pictures", "write_report"]
