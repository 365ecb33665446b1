import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.images.boxes import Box, corners, in_reading_order, overlaps, stretched

FEW = settings(max_examples=50, deadline=None)
sides = st.integers(1, 5000)
frames = st.tuples(sides, sides)
anywhere = st.builds(Box, st.integers(-100, 6000), st.integers(-100, 6000), sides, sides)


@st.composite
def within(draw, frame):
    """A box that lies in a frame."""
    height, width = frame
    x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return Box(x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y)))


def lies_in(box: Box, frame: tuple[int, int]) -> bool:
    starts = min(box.x, box.y) >= 0 and min(box.width, box.height) >= 1
    return starts and box.x + box.width <= frame[1] and box.y + box.height <= frame[0]


@FEW
@given(anywhere, frames, frames)
def test_a_stretched_box_lies_in_the_other_frame_wherever_it_was(box, frame, other):
    assert lies_in(stretched(box, frame, other), other)


@FEW
@given(st.data(), frames, st.integers(1, 9), st.integers(1, 9))
def test_a_box_that_was_magnified_comes_back_as_it_was(data, frame, down, across):
    box = data.draw(within(frame))
    other = frame[0] * down, frame[1] * across

    assert stretched(stretched(box, frame, other), other, frame) == box


@FEW
@given(st.data(), frames, frames)
def test_no_edge_moves_by_more_than_a_pixel_and_a_half_of_the_coarser_frame(data, frame, other):
    box = data.draw(within(frame))
    back = stretched(stretched(box, frame, other), other, frame)

    steps = [1.5 * max(1.0, frame[axis] / other[axis]) + 1 for axis in (1, 0, 1, 0)]
    assert (np.abs(corners([back]) - corners([box]))[0] <= steps).all()


@FEW
@given(st.data(), frames)
def test_the_same_frame_changes_nothing(data, frame):
    box = data.draw(within(frame))

    assert stretched(box, frame, frame) == box


@FEW
@given(frames, frames)
def test_all_of_a_frame_is_all_of_the_other(frame, other):
    assert stretched(Box(0, 0, frame[1], frame[0]), frame, other) == Box(0, 0, other[1], other[0])


@FEW
@given(st.lists(anywhere, max_size=5), st.lists(anywhere, max_size=5))
def test_overlaps_are_shares_and_the_same_both_ways(boxes, others):
    shares = overlaps(boxes, others)

    assert shares.shape == (len(boxes), len(others))
    assert shares.dtype == np.float64
    assert ((shares >= 0) & (shares <= 1)).all()
    assert (shares == overlaps(others, boxes).T).all()


@FEW
@given(st.lists(anywhere, min_size=1, max_size=5))
def test_a_box_overlaps_with_itself_and_with_nothing_more_than_that(boxes):
    assert (np.diag(overlaps(boxes, boxes)) == 1).all()


def test_half_of_a_box_overlaps_with_it_by_a_half_and_a_neighbor_by_nothing():
    box = Box(10, 10, 20, 20)

    shares = overlaps([box], [Box(10, 10, 10, 20), Box(30, 10, 20, 20), Box(15, 15, 20, 20), Box(500, 500, 1, 1)])

    assert np.allclose(shares, [[0.5, 0, 225 / 575, 0]])


def test_corners_of_nothing_are_an_empty_array():
    assert corners([]).shape == (0, 4)


def test_a_grid_is_read_by_lines_from_left_to_right_whoever_was_found_first():
    grid = [
        (Box(100 * column + 7 * row, 90 * row + 5 * column, 60, 60), (row, column))
        for row in range(3)
        for column in range(4)
    ]
    shuffled = [grid[place] for place in np.random.default_rng(0).permutation(len(grid))]

    assert in_reading_order(shuffled) == grid


def test_a_small_box_beside_a_tall_one_is_in_its_line():
    tall, small, below = Box(200, 0, 50, 300), Box(0, 200, 40, 40), Box(0, 290, 40, 40)

    assert [name for _, name in in_reading_order([(below, "below"), (tall, "tall"), (small, "small")])] == [
        "small",
        "tall",
        "below",
    ]


@FEW
@given(st.lists(anywhere, max_size=12))
def test_reading_order_loses_nothing_and_does_not_depend_on_the_order_before(boxes):
    boxes = list(dict.fromkeys(boxes))
    found = [(box, number) for number, box in enumerate(boxes)]

    ordered = in_reading_order(found)

    assert sorted(number for _, number in ordered) == [*range(len(boxes))]
    places = {(box.x, box.y) for box in boxes}
    if len(places) == len(boxes) == len({box.y for box in boxes}) == len({box.x for box in boxes}):
        assert in_reading_order(found[::-1]) == ordered


@FEW
@given(st.lists(anywhere, min_size=1, max_size=12))
def test_the_uppermost_box_is_in_the_first_line(boxes):
    ordered = in_reading_order([(box, None) for box in boxes])
    top = min(boxes, key=lambda box: box.y)

    before = [box for box, _ in ordered][: [box for box, _ in ordered].index(top)]
    assert all(box.x <= top.x for box in before)
