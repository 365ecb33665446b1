"""The tokenizer of joint models: what CLIP's files say is done, everything else is refused."""

import copy
import itertools
import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsearch.errors import MissingComponentError, UsageError
from imgsearch.text.byte_pairs import read_tokenizer
from tiny_joint import END, START, TOKENIZER


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return read(tmp_path_factory.mktemp("tokenizer"), TOKENIZER)


def read(folder, data):
    file = folder / "tokenizer.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return read_tokenizer(file)


def changed(path, value):
    """The tokenizer with one value set, at `model.type` and the like."""
    data = copy.deepcopy(TOKENIZER)
    *parents, name = path.split(".")
    inner = data
    for parent in parents:
        inner = inner[int(parent) if parent.isdigit() else parent]
    inner[int(name) if name.isdigit() else name] = value
    return data


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("red", [517]),  # one token, by way of "re" and "ed</w>", whichever comes first
        ("RED  Blue\n", [517, 519]),
        ("bred", [65, 517]),
        ("reds", [512, 67, 256 + 82]),
        ("it's", [72, 256 + 83, 520]),
        ("'s", [520]),
        ("r.d", [256 + 81, 256 + 13, 256 + 67]),
        ("12", [256 + 16, 256 + 17]),  # digits one by one
        ("\u00e9", [127, 256 + 102]),  # two bytes
        ("e\u0301", [127, 256 + 102]),  # the same letter
        ("\x00", [256 + 188]),
        ("<|endoftext|>", None),  # what people type is text
        ("\ud800", [256 + 30]),  # a question mark
    ],
)
def test_known_texts_have_the_ids_that_were_worked_out_by_hand(tokenizer, text, ids):
    found = tokenizer.encode(text)

    assert (found[0], found[-1]) == (START, END)
    assert ids is None or found[1:-1] == ids
    assert not {START, END} & set(found[1:-1])


def slowly(text: str) -> list[int]:
    """The ids of a text by the definition: again and again the first merge of the list, where it is leftmost."""
    text = "".join(letter.lower() for letter in unicodedata.normalize("NFC", text))
    classes = "".join({"L": "l", "N": "n", "Z": " "}.get(unicodedata.category(letter)[0], "o") for letter in text)
    classes = "".join(
        " " if letter.isspace() and letter not in "\x1c\x1d\x1e\x1f" else kind
        for letter, kind in zip(text, classes, strict=True)
    )
    vocabulary = TOKENIZER["model"]["vocab"]
    letters = list(vocabulary)[:256]
    order = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order += [byte for byte in range(256) if byte not in order]
    merges = [tuple(merge.split()) for merge in TOKENIZER["model"]["merges"]]
    ids, place = [], 0
    while place < len(text):
        end = place + 1
        contraction = re.match("'(s|t|re|ve|m|ll|d)", text[place:])
        if contraction:
            end = place + contraction.end()
        elif classes[place] in "lo":
            end = place + re.match(f"{classes[place]}+", classes[place:]).end()
        if classes[place] != " " or contraction:
            tokens = [letters[order.index(byte)] for byte in text[place:end].encode("utf-8", "replace")]
            tokens[-1] += "</w>"
            while pairs := [
                (merges.index(pair), at) for at, pair in enumerate(itertools.pairwise(tokens)) if pair in merges
            ]:
                _, at = min(pairs)
                tokens[at : at + 2] = [tokens[at] + tokens[at + 1]]
            ids += [vocabulary[token] for token in tokens]
        place = end
    return [START, *ids[:14], END]


@given(st.one_of(st.text(), st.text("rebdlu 's1!"), st.text(st.characters(exclude_categories=[]))))
def test_any_text_has_the_ids_of_the_definition(tokenizer, text):
    assert tokenizer.encode(text) == slowly(text)


def test_a_long_text_is_cut_and_a_long_word_takes_no_time_that_grows_with_its_square(tokenizer):
    assert tokenizer.encode("red " * 100_000) == [START, *[517] * 14, END]
    assert tokenizer.encode("red" * 100_000)[:4] == [START, 512, 67, 512]


def test_merges_may_be_lists_and_words_may_be_spelled_as_newer_files_do(tokenizer, tmp_path):
    data = changed("model.merges", [merge.split(" ") for merge in TOKENIZER["model"]["merges"]])
    regex = data["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    regex["Regex"] = r"<\|startoftext\|>|<\|endoftext\|>|" + regex["Regex"]

    assert read(tmp_path, data).encode("a red bluebird's") == tokenizer.encode("a red bluebird's")


def test_a_file_that_does_not_cut_or_fill_up_has_the_length_of_clip_and_fills_up_with_the_end(tmp_path):
    found = read(tmp_path, {**TOKENIZER, "truncation": None, "padding": None})

    assert (found.length, found.padding, found.largest) == (77, END, END)


def test_a_file_without_lower_case_keeps_capitals_apart(tmp_path):
    found = read(tmp_path, {**TOKENIZER, "normalizer": {"type": "NFC"}})

    assert found.encode("Red") != found.encode("red")


VOCABULARY = TOKENIZER["model"]["vocab"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (changed("model.type", "Unigram"), "model.type"),
        (changed("model.type", "WordPiece"), "WordPiece"),
        (changed("model.end_of_word_suffix", ""), "end_of_word_suffix"),
        (changed("model.dropout", 0.1), "dropout"),
        (changed("model.vocab", {token: VOCABULARY[token] for token in VOCABULARY if token != "a"}), "all bytes"),
        (changed("model.vocab", {**VOCABULARY, "a": "0"}), "an id"),
        (changed("model.vocab", {**VOCABULARY, "a": -1}), "an id"),
        (changed("model.vocab", {**VOCABULARY, "a": True}), "an id"),
        (changed("model.vocab", {**VOCABULARY, "a": 10**30}), "an id"),
        (changed("model.vocab", []), "model.vocab"),
        (changed("model.merges", {}), "model.merges"),
        (changed("model.merges.0", "r"), "a merge"),
        (changed("model.merges.0", ["r", ["e"]]), "a merge"),
        (changed("model.merges.0", 5), "a merge"),
        (changed("model.merges.0", "z z"), "a merge"),
        (changed("normalizer.normalizers.0.type", "BertNormalizer"), "normalizer"),
        (changed("pre_tokenizer", None), "pre_tokenizer"),
        (changed("pre_tokenizer.pretokenizers.0.pattern.Regex", "(a+)+$"), "pre_tokenizer"),
        (changed("pre_tokenizer.pretokenizers", []), "pre_tokenizer"),
        (changed("post_processor", None), "post_processor"),
        (changed("post_processor.sep", ["</s>"]), "post_processor.sep"),
        (changed("truncation.direction", "Left"), "truncation.direction"),
        (changed("padding.direction", "Left"), "padding.direction"),
        (changed("truncation.max_length", 2), "max_length"),
        (changed("truncation.max_length", 10**9), "max_length"),
        (changed("padding.pad_id", -1), "pad_id"),
        ([], "an object"),
        ("", "line 1"),
        ("[" * 200_000, "recursion"),
        ('{"model": ', "line 1"),
        ('{"model": {"type": "\ud800"}}'.encode("utf-8", "surrogatepass").decode("latin-1"), "model.type"),
    ],
)
def test_what_is_no_tokenizer_like_clips_is_refused_in_words(tmp_path, data, words):
    with pytest.raises(UsageError, match="expected a tokenizer like CLIP's") as caught:
        read(tmp_path, data)

    assert words in caught.value.message
    assert len(caught.value.message) < 500 + len(str(tmp_path))
    assert "Unigram" in caught.value.hint


def test_a_file_that_is_none_is_said_to_be_missing(tmp_path):
    for path in (tmp_path / "tokenizer.json", tmp_path):
        with pytest.raises(MissingComponentError, match="cannot be read"):
            read_tokenizer(path)
