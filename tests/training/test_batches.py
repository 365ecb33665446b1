import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsearch.training.batches import IMAGES_PER_CLASS, balanced, shuffled


def generator_of(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 5))
def test_shuffled_batches_hold_each_image_at_most_once(count, batch_size, seed):
    rows = np.arange(count) * 3
    if count < batch_size:
        return

    batches = shuffled(rows, batch_size, generator_of(seed))

    assert batches.shape == (count // batch_size, batch_size)
    assert len(set(batches.ravel())) == batches.size
    assert set(batches.ravel()) <= set(rows)


def test_another_seed_is_another_order():
    assert not np.array_equal(
        shuffled(np.arange(50), 10, generator_of(0)), shuffled(np.arange(50), 10, generator_of(1))
    )


@given(st.lists(st.integers(1, 12), min_size=2, max_size=8), st.integers(4, 40), st.integers(0, 5))
def test_a_batch_for_comparison_has_the_same_number_of_several_classes(sizes, batch_size, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.arange(len(labels)) + 100
    if len(rows) < batch_size:
        return

    batches = balanced(rows, labels, batch_size, generator_of(seed))

    assert batches.shape[1] <= batch_size
    for batch in batches:
        counts = np.bincount(labels[batch - 100], minlength=len(sizes))
        each = np.gcd.reduce(counts[counts > 0])
        assert np.count_nonzero(counts) >= 1
        assert each >= 2


def test_classes_come_equally_often_however_many_images_they_have():
    labels = np.repeat([0, 1, 2, 3], [4, 8, 100, 400])

    batches = balanced(np.arange(512), labels, 16, generator_of())

    counts = np.bincount(labels[batches.ravel()])
    assert batches.shape == (32, 16)
    assert counts.max() == counts.min() == 128


def test_a_class_with_enough_images_does_not_show_one_twice_in_a_batch():
    labels = np.repeat(np.arange(8), 20)

    batches = balanced(np.arange(160), labels, 32, generator_of())

    assert all(len(set(batch)) == 32 for batch in batches)
    assert all(set(np.bincount(labels[batch])) == {IMAGES_PER_CLASS} for batch in batches)


@pytest.mark.parametrize("batch_size", [8, 64])
def test_few_classes_share_a_batch_evenly(batch_size):
    labels = np.repeat([0, 1], 40)

    batches = balanced(np.arange(80), labels, batch_size, generator_of())

    assert all(np.bincount(labels[batch]).tolist() == [batch_size // 2] * 2 for batch in batches)
