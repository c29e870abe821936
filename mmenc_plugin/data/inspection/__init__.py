"""What a data set holds, before it is encoded."""

from mmenc_plugin.data.inspection.catalogue import Catalogue, inspect_catalogue
from mmenc_plugin.data.inspection.figures import Example, Finding, Group, Spread
from mmenc_plugin.data.inspection.interactions import InteractionReport
from mmenc_plugin.data.inspection.pictures import PictureReport
from mmenc_plugin.data.inspection.report import Coverage, Inspection
from mmenc_plugin.data.inspection.texts import TextReport, TokenReport, report_tokens

__all__ = [
    "Catalogue",
    "Coverage",
    "Example",
    "Finding",
    "Group",
    "Inspection",
    "InteractionReport",
    "PictureReport",
    "Spread",
    "TextReport",
    "TokenReport",
    "inspect_catalogue",
    "report_tokens",
]
