"""Which detection finds which object: greedy matching of whole images, for every stratum in one pass.

The rules are those of the COCO evaluation, with a don't-care box in the place of its crowd:

* Detections choose in score order; each takes the free object with the highest IoU ≥ threshold (of equal IoUs the
  object listed last), so every object is found at most once.
* An object of another size than the stratum's is ignored, and so is a detection that finds nothing but such an object.
* A don't-care box forgives: any number of detections, of every class, whose area lies inside it by at least the
  threshold, are ignored if they found no object that counts.
* A detection that found nothing is a false positive if it has the stratum's size, and ignored otherwise.

The class-aware matching and the binary one (class ignored) share the overlaps.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from isod.sampling.kernels.compiled import cached
from isod.vocabulary import STRATA

FALSE_POSITIVE, TRUE_POSITIVE, IGNORED = 0, 1, 2
CLASS_AWARE, BINARY = 0, 1
NUM_STRATA = len(STRATA)


def verdict_of(packed: np.ndarray, mode: int, stratum: int) -> np.ndarray:
    """Verdicts (FALSE_POSITIVE, TRUE_POSITIVE or IGNORED) of one mode and stratum out of ``match_images``' result."""
    return (packed >> (2 * (mode * NUM_STRATA + stratum))) & 3


@partial(cached, nogil=True)
def match_images(
    boxes: np.ndarray,
    labels: np.ndarray,
    sizes: np.ndarray,
    first_detection: np.ndarray,
    true_boxes: np.ndarray,
    true_labels: np.ndarray,
    true_sizes: np.ndarray,
    dont_care: np.ndarray,
    first_object: np.ndarray,
    iou_threshold: float,
) -> np.ndarray:
    """Match the detections of a batch of images to their objects.

    Args:
        boxes, labels, sizes: [D, 4] float64 xyxy, [D] int64 and [D] uint8; detections, those of one image together
            and in the order in which they choose.
        first_detection: [B + 1] int64; those of image b are first_detection[b] … first_detection[b + 1] − 1.
        true_boxes, true_labels, true_sizes, dont_care, first_object: the same of the objects; dont_care [G] bool.
        iou_threshold: least IoU of a match; for don't-care boxes least share of the detection's area inside.
    Returns:
        [D] uint16, two bits for each mode and stratum: see ``verdict_of``.
    """
    packed = np.zeros(len(boxes), dtype=np.uint16)
    for image in range(len(first_detection) - 1):
        begin, end = first_object[image], first_object[image + 1]
        taken = np.zeros((2 * NUM_STRATA, end - begin), dtype=np.bool_)
        near = np.empty(end - begin, dtype=np.int64)  # objects that overlap the detection enough
        overlap = np.empty(end - begin, dtype=np.float64)

        for d in range(first_detection[image], first_detection[image + 1]):
            x0, y0, x1, y1 = boxes[d, 0], boxes[d, 1], boxes[d, 2], boxes[d, 3]
            area = (x1 - x0) * (y1 - y0)
            num_near = 0
            for g in range(begin, end):
                width = min(x1, true_boxes[g, 2]) - max(x0, true_boxes[g, 0])
                height = min(y1, true_boxes[g, 3]) - max(y0, true_boxes[g, 1])
                if width <= 0 or height <= 0:
                    continue
                intersection = width * height
                if dont_care[g]:
                    share = intersection / area
                else:
                    true_area = (true_boxes[g, 2] - true_boxes[g, 0]) * (true_boxes[g, 3] - true_boxes[g, 1])
                    share = intersection / (area + true_area - intersection)
                if share >= iou_threshold:
                    near[num_near], overlap[num_near] = g, share
                    num_near += 1

            bits = 0
            for case in range(2 * NUM_STRATA):
                class_aware, stratum = case < NUM_STRATA, case % NUM_STRATA
                best, best_ignored = -1, -1
                best_overlap, best_ignored_overlap = 0.0, 0.0
                for k in range(num_near):
                    g = near[k]
                    if dont_care[g]:
                        counts = False
                    elif taken[case, g - begin] or (class_aware and true_labels[g] != labels[d]):
                        continue
                    else:
                        counts = stratum == 0 or true_sizes[g] == stratum - 1
                    if counts and overlap[k] >= best_overlap:
                        best, best_overlap = g, overlap[k]
                    elif not counts and overlap[k] >= best_ignored_overlap:
                        best_ignored, best_ignored_overlap = g, overlap[k]

                if best >= 0:
                    taken[case, best - begin] = True
                    verdict = TRUE_POSITIVE
                elif best_ignored >= 0:
                    taken[case, best_ignored - begin] = True  # without effect on a don't-care box
                    verdict = IGNORED
                elif stratum == 0 or sizes[d] == stratum - 1:
                    verdict = FALSE_POSITIVE
                else:
                    verdict = IGNORED
                bits |= verdict << (2 * case)
            packed[d] = bits
    return packed
