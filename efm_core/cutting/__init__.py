"""Episodes cut out of ordinary rosbag2 recordings by a mapping file."""

from __future__ import annotations

from efm_core.cutting.cut import CutEpisode, CutJob, cut_bags
from efm_core.cutting.mapping import CutMapping, MappingError, load_mapping

__all__ = ["CutEpisode", "CutJob", "CutMapping", "MappingError", "cut_bags", "load_mapping"]
