"""Names to try: whatever a file system allows, and whatever somebody can type into a table."""

from hypothesis import strategies as st

# As `os.fsdecode` gives them: what is not UTF-8 in lone surrogates.
FILE_NAMES = (
    st.lists(st.integers(1, 255).filter(lambda byte: byte != ord("/")), min_size=1, max_size=200).map(bytes)
    | st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=50).map(str.encode)
    | st.sampled_from(
        [b"M\xf6bel", b"line\nbreak", b"'\"\\,;", b"=1+1", b"\xef\xbb\xbfmark", b"\xe2\x80\xaeabc", b"\xff"]
    )
    | st.sampled_from([b" ", b"\r", b"\xef\xbf\xbe\xef\xb7\x90", b"\xf0\x9f\x98\x80\xf0\x9f", b"-rf", b"n" * 200])
).map(lambda name: name.decode("utf-8", "surrogateescape"))
LABELS = FILE_NAMES | st.text(min_size=1)
