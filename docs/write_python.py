"""Write docs/python.md from the docstrings of the public names: make docs."""

import inspect
import re
import textwrap
from typing import Annotated, Any, get_args, get_origin, is_typeddict

import imgsearch

INTRODUCTION = """\
# Python API

This page is made by `make docs` from the docstrings; a test holds the two to each other. What a command does, the
function of the same name does; `imgsearch query` is `Index.search`. Paths may be `str` or `os.PathLike`. Functions
print nothing; they raise the errors at the end of this page, and log to the logger `imgsearch`.

```python
from imgsearch import Index, build_index

build_index("catalog")
with Index.open(".imgsearch") as index:
    for hit in index.search("photo.jpg", k=5):
        print(f"{hit.rank} {hit.score:.3f} {hit.path}")
```

Threads share one open `Index`: each gets the answers that it would get alone, and they run side by side, but for the
Python between the calls of libraries ([figures](benchmarks.md#threads)). The index may be rebuilt meanwhile; open it
anew to see that. Processes do not share one: in a fork it raises `UsageError`, and once the parent has encoded an
image, a fork cannot encode any. Open the index after the fork, or start processes with the method `spawn`. While a file
is decoded, what any thread writes to standard error is lost: log to a file.
"""


def reference() -> str:
    """Describe every public name: functions, then classes, then errors."""
    things = [(name, getattr(imgsearch, name)) for name in imgsearch.__all__ if name != "__version__"]
    functions = [described(name, thing) for name, thing in things if inspect.isfunction(thing)]
    errors: list[tuple[str, Any]] = [
        (name, thing) for name, thing in things if inspect.isclass(thing) and issubclass(thing, Exception)
    ]
    classes = [
        described(name, thing) for name, thing in things if inspect.isclass(thing) and (name, thing) not in errors
    ]
    rows = "\n".join(f"| `{name}` | {thing.exit_code} | {first_line(thing)} |" for name, thing in errors)
    table = f"## Errors\n\n| error | exit code | raised when |\n|---|---|---|\n{rows}\n"
    return "\n".join([INTRODUCTION, *functions, *classes, table])


def described(name: str, thing: Any) -> str:
    """Describe a function, or a class with its methods."""
    text = f"## {name}\n\n{signature(name, thing)}{body(thing)}"
    if inspect.isclass(thing) and not is_typeddict(thing):
        for key, member in vars(thing).items():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if inspect.isfunction(function) and not key.startswith("_"):
                text += f"\n### {name}.{key}\n\n{signature(f'{name}.{key}', function)}{body(function)}"
    return text


def signature(name: str, thing: Any) -> str:
    """Write how something is called; list the fields of a TypedDict."""
    if is_typeddict(thing):
        return (
            "".join(wrapped(f"`{name}` (`{kind}`): {about}", "- ", "  ") + "\n" for name, kind, about in fields(thing))
            + "\n"
        )
    found = inspect.signature(thing)
    parameters = [value for key, value in found.parameters.items() if key not in ("self", "cls")]
    written = [plain(parameter.replace(annotation=bare(parameter.annotation))) for parameter in parameters]
    if any(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters):
        first = next(n for n, parameter in enumerate(parameters) if parameter.kind is parameter.KEYWORD_ONLY)
        written.insert(first, "*")
    line = f"{name}({', '.join(written)})"
    if len(line) > 100:
        line = f"{name}(\n" + "".join(f"    {each},\n" for each in written) + ")"
    return f"```python\n{line}\n```\n\n"


def fields(thing: Any) -> list[tuple[str, str, str]]:
    """List name, type and comment of the fields of a TypedDict, those of its bases first."""
    source = inspect.getsource(thing)
    (bases,) = re.findall(r"^class \w+\((.*?)(?:, )?(?:total=False)?\):", source)
    found = []
    for base in bases.split(", "):  # which Python 3.11 does not keep
        if base != "TypedDict":
            found += fields(getattr(inspect.getmodule(thing), base))
    return found + re.findall(r"^    (\w+): (.+?)  # (.*)$", source, re.MULTILINE)


def bare(annotation: Any) -> Any:
    """Take away what `Annotated` adds to a type."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def plain(thing: object) -> str:
    """Write an annotation or a parameter without the modules of its types."""
    text = thing.__name__ if isinstance(thing, type) else str(thing)
    text = re.sub(r"<function (\w+) at 0x[0-9a-f]+>", r"\1", text)
    text = re.sub(r" = (\w+)\(.*\)$", r" = \1(...)", text)  # a dataclass as a default
    return re.sub(r"\b(?:imgsearch|pathlib|collections|typing|os|numpy)\.(?:\w+\.)*", "", text)


def body(thing: object) -> str:
    """Turn a docstring of Google's style into Markdown."""
    text = inspect.getdoc(thing) or ""
    if text.startswith("dict("):  # of a TypedDict without a docstring of its own
        return ""
    lines = []
    for block in re.split(r"\n\n", text):
        head, _, rest = block.partition("\n")
        if re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields):", head):
            entries = re.split(r"\n(?=\S)", textwrap.dedent(rest))
            listed = [re.sub(r"^([\w*., ]+):", r"`\1`:", " ".join(entry.split())) for entry in entries]
            lines.append(f"{head[:-1]}:\n\n" + "\n".join(wrapped(entry, "- ", "  ") for entry in listed))
        else:
            lines.append(wrapped(" ".join(block.split()), "", ""))
    return "\n\n".join(lines) + "\n"


def wrapped(text: str, first: str, others: str) -> str:
    """Break a text into lines."""
    return textwrap.fill(text, 118, initial_indent=first, subsequent_indent=others, break_long_words=False)


def first_line(thing: object) -> str:
    """Take the first line of a docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


if __name__ == "__main__":
    print(reference(), end="")
