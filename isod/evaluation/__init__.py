"""Average precision by class and object size, for detection with don't-care objects."""

from isod.evaluation.average_precision import average_precision
from isod.evaluation.evaluator import DetectionEvaluator
from isod.evaluation.strata import SIZES, STRATA, size_codes

__all__ = ["SIZES", "STRATA", "DetectionEvaluator", "average_precision", "size_codes"]
