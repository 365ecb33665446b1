"""What a detector learns by: focal loss for scores, generalized IoU for boxes, cross-entropy and Dice for the mask."""

from typing import Any

from keras import ops

_BOXES = 3.0
_MASK = 3.0


def detection_loss(truth: Any, predictions: Any) -> Any:
    """Compare what is said of anchors with what they stand for.

    The score of an anchor is to be the overlap of its box with its item, so that the best of several boxes on one item
    is the surest: focal loss (Lin et al.: Focal Loss for Dense Object Detection, 2017) as it is generalized for such
    targets (Li et al.: Generalized Focal Loss, 2020, equation 7). For the boxes of items generalized IoU loss
    (Rezatofighi et al., 2019). Both are summed and divided by the number of anchors that stand for items.

    Args:
        truth: float32 (N, anchors, 5): 1 for an item, 0 for the background, -1 for neither; and the item's box.
        predictions: float32 (N, anchors, 5): a logit and a box.

    Returns:
        float32 scalar.
    """
    kind, logit = truth[:, :, 0], predictions[:, :, 0]
    is_item = ops.cast(kind > 0.5, "float32")
    is_asked = ops.cast(kind > -0.5, "float32")
    items = ops.maximum(1.0, ops.sum(is_item))
    overlap = generalized_overlap(truth[:, :, 1:], predictions[:, :, 1:])
    target = is_item * ops.clip(ops.stop_gradient(overlap), 0.0, 1.0)
    focal = ops.sum(is_asked * ops.square(ops.sigmoid(logit) - target) * _entropy(target, logit))
    return (focal + _BOXES * ops.sum(is_item * (1 - overlap))) / items


def generalized_overlap(boxes: Any, others: Any) -> Any:
    """Compute generalized IoU, pair by pair.

    Args:
        boxes: (..., 4): left, top, right, bottom.
        others: The same shape.

    Returns:
        (...), from -1 to 1.
    """
    start, end = ops.maximum(boxes[..., :2], others[..., :2]), ops.minimum(boxes[..., 2:], others[..., 2:])
    shared = ops.prod(ops.maximum(end - start, 0.0), axis=-1)
    areas = [ops.prod(each[..., 2:] - each[..., :2], axis=-1) for each in (boxes, others)]
    union = areas[0] + areas[1] - shared
    reach = ops.maximum(boxes[..., 2:], others[..., 2:]) - ops.minimum(boxes[..., :2], others[..., :2])
    hull = ops.prod(reach, axis=-1)
    return shared / (union + 1e-7) - (hull - union) / (hull + 1e-7)


def mask_loss(truth: Any, logits: Any) -> Any:
    """Compare masks: cross-entropy of every cell, and Dice loss (Milletari et al., 2016) of the batch.

    Args:
        truth: float32 (N, M, M), 0 to 1.
        logits: float32 (N, M, M).

    Returns:
        float32 scalar.
    """
    share = ops.sigmoid(logits)
    dice = 1 - (2 * ops.sum(share * truth) + 1) / (ops.sum(share) + ops.sum(truth) + 1)
    return _MASK * (ops.mean(_entropy(truth, logits)) + dice)


def _entropy(truth: Any, logits: Any) -> Any:
    """Compute the cross-entropy of each, without overflow."""
    return ops.maximum(logits, 0) - logits * truth + ops.log1p(ops.exp(-ops.abs(logits)))
