"""The container is as careful as docs/service.md says; `make lint` reads its Containerfile with hadolint, too."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """The instructions of the Containerfile, each on one line: what it is, and with what."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Containerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line)]


@pytest.fixture(scope="module")
def final(instructions) -> dict[str, str]:
    """The instructions of the image that is run; of one that comes twice the last."""
    start = max(number for number, (name, _) in enumerate(instructions) if name == "FROM")
    return dict(instructions[start:])


@pytest.fixture(scope="module")
def service() -> dict[str, object]:
    (service,) = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    return service


def test_each_stage_starts_from_the_image_of_a_known_python_and_debian(instructions):
    images = [rest.partition(" ")[0] for name, rest in instructions if name == "FROM"]

    assert images == ["docker.io/library/python:3.11-bookworm", "docker.io/library/python:3.11-slim-bookworm"]


def test_it_runs_as_a_user_who_is_not_root(final):
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", final["USER"])


def test_nothing_is_fetched_but_packages_of_pinned_versions(instructions):
    text = "\n".join(rest for _, rest in instructions).replace("http://127.0.0.1:8000", "")

    assert "ADD" not in dict(instructions)
    assert "://" not in text
    assert all("--constraint constraints.txt" in rest for _, rest in instructions if "pip install" in rest)


def test_whatever_is_copied_is_there_and_not_ignored(instructions):
    ignored = (ROOT / ".containerignore").read_text().splitlines()
    copied = [rest.split()[:-1] for name, rest in instructions if name == "COPY" and not rest.startswith("--from")]
    sources = [source for each in copied for source in each]

    assert len(sources) >= 5
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert "*" in ignored
    assert [source for source in sources if f"!{source}" not in ignored] == []


def test_its_command_is_one_that_the_program_takes(final, imgsearch):
    command, options = json.loads(final["ENTRYPOINT"]), json.loads(final["CMD"])
    help_text = imgsearch(options[0], "--help").stdout

    assert command == ["imgsearch"]
    assert [option for option in options if option.startswith("--") and option not in help_text] == []
    assert options[options.index("--index") + 1] == final["VOLUME"]


def test_its_health_is_asked_for_without_a_token(final):
    options, _, command = final["HEALTHCHECK"].partition("CMD ")
    python, dash_c, code = json.loads(command)

    assert "--start-period" in options
    assert (python, dash_c) == ("python", "-c")
    assert f"http://127.0.0.1:{final['EXPOSE']}/healthz" in code
    compile(code, "HEALTHCHECK", "exec")


def test_the_service_may_write_only_its_index_and_memory(service, final):
    assert service["read_only"] is True
    writable = [volume for volume in service["volumes"] if not volume.endswith(":ro")]
    assert [volume.partition(":")[2] for volume in writable] == [final["VOLUME"]]
    assert [each.partition(":")[0] for each in service["tmpfs"]] == ["/tmp"]


def test_the_service_has_no_privileges_and_limits(service):
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert {"mem_limit", "pids_limit"} <= service.keys()
    assert service.keys().isdisjoint({"privileged", "cap_add", "network_mode", "user"})


def test_the_service_is_reached_from_its_own_machine_with_a_token_only(service, final):
    (port,), (secret,) = service["ports"], service["secrets"]

    assert re.fullmatch(rf"127\.0\.0\.1:\d+:{final['EXPOSE']}", port)
    assert f"/run/secrets/{secret['target']}" in json.loads(final["CMD"])
