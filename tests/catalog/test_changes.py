import pytest

from imgsearch import NoIndexError, build_index, changes
from imgsearch.catalog.changes import ChangedItem, ChangedNeighbor

pytestmark = pytest.mark.usefixtures("quick_builds")


def test_items_and_neighbors_that_changed_are_named(own):
    folder = own()
    catalog = folder / "catalog"
    (catalog / "more" / "equal.png").unlink()
    (catalog / "more" / "new.png").write_bytes((catalog / "cups" / "cups-00.png").read_bytes())
    (catalog / "more" / "smaller.png").write_bytes((catalog / "cups" / "cups-01.png").read_bytes())
    (folder / "products.csv").write_text("path,category,price\nfish/fish-01.png,sea,3\n")
    build_index(catalog, folder / "index", metadata=folder / "products.csv")

    found = changes(folder / "index")

    assert (found.generation, found.before) == (3, 2)
    assert (found.new, found.gone) == (("more/new.png",), ("more/equal.png",))
    assert found.changed == (
        ChangedItem("fish/fish-01.png", ("category", "metadata")),
        ChangedItem("more/smaller.png", ("image",)),
    )
    assert ChangedNeighbor("more/smaller", "fish/fish-01", "cups/cups-01") in found.neighbors or any(
        each.product == "more/smaller" and each.now == "cups/cups-01" for each in found.neighbors
    )
    assert "more/new" not in [each.product for each in found.neighbors]


def test_the_first_generation_has_nothing_to_compare_with(cared):
    with pytest.raises(NoIndexError, match="this is the first generation"):
        changes(cared / "index")


def test_a_generation_against_itself_has_not_changed(cared):
    found = changes(cared / "index", 1)

    assert (found.new, found.gone, found.changed, found.neighbors) == ((), (), (), ())
