"""docs/cron.md: its lines are run as cron would, with no environment at all."""

import fcntl
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imgsearch import errors

pytestmark = pytest.mark.usefixtures("quick_builds")


PAGE = (Path(__file__).parents[2] / "docs" / "cron.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCKS if found == kind]


@pytest.fixture
def shop(catalog, imgsearch, tmp_path):
    """What the page calls /srv/shop and /opt/imgsearch; the index has been built once."""
    (tmp_path / "srv").mkdir()
    catalog.rename(tmp_path / "srv" / "catalog")
    (tmp_path / "bin").mkdir()
    for name, arguments in (("imgsearch", " -m imgsearch"), ("python", "")):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{arguments} "$@"\n')
        program.chmod(0o755)
    options = ("--backbone", "handcrafted", "--backend", "exact")
    assert imgsearch("build-index", "catalog", *options, cwd=tmp_path / "srv").returncode == 0
    return tmp_path / "srv"


@pytest.fixture
def here(shop):
    """Put the places of the test into a text of the page."""

    def replaced(text: str) -> str:
        return text.replace("/opt/imgsearch/bin", str(shop.parent / "bin")).replace("/srv/shop", str(shop))

    return replaced


def run(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd="/",
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def crontab_commands() -> list[str]:
    lines = "".join(blocks("crontab")).splitlines()
    return [re.fullmatch(r"(?:\S+ +){5}(.*)", line)[1] for line in lines if not re.match(r"\w+=", line)]


def test_each_crontab_line_works_with_nothing_but_a_shell(shop, here):
    build, *checks = map(here, crontab_commands())

    built = run(build)
    checked = [run(check) for check in checks]

    assert (built.returncode, built.stderr) == (0, "")
    assert built.stdout.startswith(".imgsearch: 24 images, generation 1, nothing changed")
    assert [(done.returncode, done.stdout, done.stderr) for done in checked] == 3 * [(0, "", "")]
    assert (shop / "neighbors.sqlite").stat().st_size
    assert "--deep" in checks[1]


def test_a_check_from_crontab_prints_what_is_damaged_so_that_cron_mails_it(shop, here):
    next(shop.rglob("vectors.npy")).write_bytes(b"")

    for check in map(here, crontab_commands()[1:]):
        done = run(check)

        assert done.returncode == 6
        assert "vectors.npy" in done.stdout + done.stderr


def test_crontab_lines_are_such_as_cron_understands():
    for command in crontab_commands():
        assert "%" not in command  # cron takes it for the end of the line
        assert re.match(r"cd /\S+ && /", command)


def test_the_service_runs_its_line_and_takes_no_overlap_for_a_failure(shop, here):
    service = here(blocks("ini")[0]).replace("/var/cache/imgsearch", str(shop.parent / "cache"))
    settings = dict(re.findall(r"^(\w+)=(.*)$", service, re.MULTILINE))
    name, _, value = settings["Environment"].partition("=")

    done = subprocess.run(
        shlex.split(settings["ExecStart"]),
        cwd=settings["WorkingDirectory"],
        env={name: value},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((shop / "report.json").read_text())["exit_code"] == 0
    assert settings["SuccessExitStatus"].split() == ["7", "143"]


def test_systemd_finds_no_fault_with_the_units(here, shop):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not here")
    service, timer = (re.match(r"# /etc/systemd/system/(\S+)\n", text) for text in blocks("ini"))
    for name, text in zip((service[1], timer[1]), blocks("ini"), strict=True):
        (shop.parent / name).write_text(here(text))

    done = subprocess.run(
        ["systemd-analyze", "verify", shop.parent / service[1], shop.parent / timer[1]],
        capture_output=True,
        text=True,
        check=False,
    )

    ours = [line for line in done.stderr.splitlines() if "imgsearch" in line and "imgsearch-failed" not in line]
    assert (done.returncode, ours) == (0, [])


def test_the_table_names_every_exit_code():
    rows = re.findall(r"^\| ([\d, ]+) \|.*\|.*\|$", PAGE, re.MULTILINE)
    named = [int(code) for row in rows for code in row.split(", ")]
    raised = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type)}

    assert sorted(named) == sorted({0, 3, 10, 129, 130, 143} | raised)


@pytest.fixture
def wrapper(shop, here):
    """Run the wrapper of the page with a program `mail` that keeps what it is given."""
    mail = shop.parent / "bin" / "mail"
    mail.write_text(f'#!/bin/sh\nprintf "%s\\n" "$2" "$3" >{shop.parent}/mail\ncat >>{shop.parent}/mail\n')
    mail.chmod(0o755)
    (script,) = (text for text in blocks("sh") if text.startswith("#!"))
    (shop.parent / "nightly").write_text(here(script))
    (shop.parent / "nightly").chmod(0o755)
    (shop.parent / "tmp").mkdir()

    def nightly() -> tuple[subprocess.CompletedProcess[str], str]:
        path = f"{shop.parent}/bin:/usr/bin:/bin"
        done = run(f"{shop.parent}/nightly", PATH=path, TMPDIR=f"{shop.parent}/tmp")
        received = shop.parent / "mail"
        text = received.read_text() if received.exists() else ""
        received.unlink(missing_ok=True)
        assert list((shop.parent / "tmp").iterdir()) == []
        return done, text

    return nightly


def test_the_wrapper_is_silent_to_people_when_all_is_well_and_passes_on_what_was_said(wrapper):
    done, mail = wrapper()

    assert (done.returncode, done.stderr, mail) == (0, "", "")
    assert "nothing changed" in done.stdout


def test_the_wrapper_alerts_once_when_files_are_newly_rejected(wrapper, shop):
    (shop / "catalog" / "caf\udce9.png").touch()

    done, mail = wrapper()
    next_night, no_mail = wrapper()

    subject, address, *lines = mail.splitlines()
    assert (done.returncode, subject) == (3, "imgsearch: new files cannot be used")
    assert address == "shop@example.org"
    assert r"imgsearch: rejected caf\xe9.png: empty (the file is empty)" in lines
    assert "\n".join(lines) == done.stdout.strip()
    assert (next_night.returncode, no_mail) == (0, "")


def test_the_wrapper_alerts_when_the_catalog_has_vanished(wrapper, shop):
    (shop / "catalog").rename(shop / "unmounted")
    (shop / "catalog").mkdir()

    done, mail = wrapper()

    assert done.returncode == 9
    assert mail.startswith("imgsearch: refused, is the disk mounted?\n")
    assert "the catalog has 0 usable images, the index has 24" in mail
    assert json.loads((shop / "report.json").read_text())["exit_code"] == 9


def test_the_wrapper_does_not_alert_when_the_night_before_is_still_at_it(wrapper, shop):
    with (shop / ".imgsearch" / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        done, mail = wrapper()

    assert (done.returncode, mail) == (7, "")


@pytest.mark.slow
def test_the_wrapper_alerts_of_every_other_failure_with_its_code(wrapper, shop):
    (shop / ".imgsearch" / "manifest.json").write_text("{")
    damaged = wrapper()
    shutil.rmtree(shop / "catalog")
    gone = wrapper()

    assert [(done.returncode, mail.splitlines()[0]) for done, mail in (damaged, gone)] == [
        (6, "imgsearch: failed with 6"),
        (2, "imgsearch: failed with 2"),
    ]


def monitoring_lines() -> dict[str, str]:
    (block,) = (text for text in blocks("sh") if "jq" in text)
    return {line.split()[0].rpartition("/")[2]: line for line in block.splitlines()}


@pytest.mark.slow
def test_the_monitoring_lines_tell_a_good_run_from_a_bad_one(wrapper, shop, here):
    lines = {name: here(line) for name, line in monitoring_lines().items()}
    if not shutil.which("jq"):
        del lines["jq"]
    wrapper()
    good = {name: run(line) for name, line in lines.items()}
    (shop / "catalog" / "empty.png").touch()
    wrapper()
    bad = {name: run(line) for name, line in lines.items()}
    shutil.rmtree(shop / "catalog")
    wrapper()
    failed = {name: run(line) for name, line in lines.items()}
    (shop / "report.json").unlink()

    assert [done.stderr for done in (*good.values(), *bad.values(), *failed.values())] == [""] * 3 * len(lines)
    assert [runs["python"].stdout for runs in (good, bad, failed)] == ["0\n", "3\n", "2\n"]
    assert {done.returncode for done in good.values()} == {0}
    assert bad["find"].returncode == 0
    if "jq" in lines:
        assert (bad["jq"].returncode, failed["jq"].returncode) == (1, 1)
    assert run(lines["find"]).returncode != 0


@pytest.mark.slow
def test_a_log_that_is_appended_to_may_be_rotated_under_it(shop, here):
    (target,) = re.findall(r"`(>>\S+ 2>&1)`", PAGE)
    log = shop.parent / "imgsearch.log"
    command = here(crontab_commands()[0]) + " " + target.replace("/var/log/imgsearch.log", str(log))

    run(command)
    log.rename(f"{log}.1")
    run(command)
    run(command)

    assert len(Path(f"{log}.1").read_text().splitlines()) == 1
    assert len(log.read_text().splitlines()) == 2


def test_logrotate_finds_no_fault_with_its_lines(shop, tmp_path):
    if not shutil.which("logrotate"):
        pytest.skip("logrotate is not here")
    (text,) = blocks("text")
    (tmp_path / "rotate").write_text(text)

    done = subprocess.run(["logrotate", "-d", tmp_path / "rotate"], capture_output=True, text=True, check=False)

    assert (done.returncode, "error" in done.stderr) == (0, False)


def test_after_a_bad_night_the_page_leads_back(shop, here):
    (back,) = (text for text in blocks("sh") if "rollback" in text)
    for image in sorted((shop / "catalog").rglob("*.png"))[:10]:
        image.unlink()
    run(here(crontab_commands()[0]))
    counts = []
    for _ in range(3):
        manifest = json.loads((shop / ".imgsearch" / "manifest.json").read_text())
        counts.append((manifest["generation"], manifest["count"]))
        assert run(here(back)).returncode == 0

    assert counts == [(2, 14), (3, 24), (4, 14)]
