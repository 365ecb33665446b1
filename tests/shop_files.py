"""What files of the shop's data say, and why they are refused."""

import json

import pytest

from imgsearch import Index
from imgsearch.build.metadata import read_products
from imgsearch.errors import UsageError


def items(directory):
    with Index.open(directory) as opened:
        return {item.path: item for item in opened.items.fetch(range(len(opened)))}


def rows(file, encoding="utf-8"):
    """What a file says: path -> (line, product, category, metadata)."""
    return {
        image: (each.line, each.product, each.category, json.loads(each.metadata))
        for each in read_products(file, encoding)
        for image in each.paths
    }


def refusal(file, encoding="utf-8"):
    with pytest.raises(UsageError) as caught:
        list(read_products(file, encoding))
    return caught.value
