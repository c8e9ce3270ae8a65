"""bench and validate on other machines: what they answer, and each way in which one does not."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import onnxgraft
from onnxgraft.commands import _hosts
from onnxgraft.commands._hosts import Host, find_hosts
from onnxgraft.errors import InputError
from onnxgraft.stages import engine
from onnxgraft.stages.engine.passport import passport_path
from tests.commands.hosts import ODD, PYTHON, sshd, stand_in
from tests.conftest import Cli, few, model_of, once, only_ci
from tests.running import Done

FAST = ("--batch", "1", "--rounds", "1", "--runs", "3")
On = Callable[..., Done]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a graph, its engine, one of another graph, and samples."""

    def make(folder: Path) -> None:
        for name, bias in (("net", 0.0), ("other", 0.5)):
            model = model_of(
                "net (float[N, 4] x) => (float[N, 4] y) { r = Relu(x)  y = Add(r, b) }",
                {"b": np.full(4, bias, np.float32)},
            )
            model.save(folder / f"{name}.onnx")
            engine.build(model, folder / f"{name}.engine", "onnxruntime")
        samples = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
        np.savez(folder / "data.npz", x=samples)

    return once(tmp_path_factory, "hosts", make)


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which hosts have a temporary folder each; ssh stands on the path."""
    folder = tmp_path / "hosts"
    (tmp_path / "bin").mkdir()
    folder.mkdir()
    stand_in(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("HOSTS", str(folder))
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{root / 'src'}:{root}")
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """Return an engine of one's own, with its passport."""
    for name in ("net.engine", "net.engine.json"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    return tmp_path / "net.engine"


@pytest.fixture
def validated(cli: Cli, made: Path, copy: Path, hosts: Path) -> On:
    """Return a function that validates an engine on hosts."""

    def run(listed: str, *more: object, file: Path = copy) -> Done:
        return cli(
            "validate", made / "net.onnx", file, "--data", made / "data.npz", "--hosts", listed,
            "--host-python", PYTHON, *more,
        )  # fmt: skip

    return run


def left(hosts: Path) -> list[str]:
    """Return what hosts still have of what they were given."""
    return [str(file) for folder in hosts.iterdir() if folder.is_dir() for file in folder.iterdir()]


# Names.


@pytest.mark.parametrize(
    ("text", "target", "port"),
    [
        ("pi", "pi", None), ("me@pi-3.local:2222", "me@pi-3.local", 2222),
        ("10.0.0.7", "10.0.0.7", None), ("a_b@[fe80::1%eth0]:22", "a_b@fe80::1%eth0", 22),
    ],
)  # fmt: skip
def test_a_host_is_named_as_for_ssh(text: str, target: str, port: int | None) -> None:
    assert Host.of(text) == Host(text, target, port)


@pytest.mark.parametrize(
    "text",
    [
        "-oProxyCommand=touch x", "-p", "me@-pi", "-me@pi", "a b", "pi;ls", "pi$(ls)", "pi`ls`",
        "pi:0", "pi:70000", "pi:22x", "pi:", "@pi", "me@", "pi/x", "pï", "pi\n", "a@b@c", "[]",
    ],
)  # fmt: skip
def test_what_could_be_an_option_or_a_command_is_no_host(text: str) -> None:
    with pytest.raises(InputError, match="is no host; write user@host:port"):
        find_hosts([text])


def test_hosts_stand_in_a_file_one_in_each_line(tmp_path: Path) -> None:
    (tmp_path / "lab").write_text("# of the lab\npi\n\nme@pi-2:2222  # the old one\n")
    assert [host.name for host in find_hosts(str(tmp_path / "lab"))] == ["pi", "me@pi-2:2222"]


@pytest.mark.parametrize(
    ("text", "told"), [("pi,pi", "pi is named twice"), (" , ", "names no host")]
)
def test_a_list_names_each_host_once(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        find_hosts(text)


@pytest.mark.parametrize("python", ["-c", "python3 -c", "python3;ls", "$(ls)", "", "a'b"])
def test_a_python_that_a_shell_would_read_otherwise_is_refused(
    python: str, made: Path, hosts: Path
) -> None:
    with pytest.raises(InputError, match=r"--host-python .* write a path such as"):
        onnxgraft.bench([made / "net.engine"], hosts="pi", host_python=python)
    assert not (hosts / "pi").exists()


# What is answered.


def test_engines_are_timed_on_every_host(cli: Cli, made: Path, hosts: Path) -> None:
    done = cli(
        "bench", made / "net.engine", made / "other.engine", "--hosts", "pi,noisy", *FAST,
        "--host-python", PYTHON, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(row["name"], row["runs"]) for row in found["latency"]] == [
        (f"{name}.engine on {host}", 3) for host in ("pi", "noisy") for name in ("net", "other")
    ]
    assert all(row["median_ms"] > 0 for row in found["latency"])
    assert [row["over_fp32"] for row in found["latency"]][::2] == [1.0, 1.0]  # on its own host
    for host in found["hosts"]:
        assert host["answered"] and host["cores"] == os.cpu_count()
        assert host["versions"]["numpy"] == np.__version__
    assert left(hosts) == []


@only_ci
def test_a_batch_that_a_host_refuses_is_a_note_of_that_host(tmp_path: Path, hosts: Path) -> None:
    model = model_of("net (float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }")
    engine.build(model, tmp_path / "fixed", "onnxruntime")
    found = onnxgraft.bench(
        [tmp_path / "fixed"], batch=[1, 2], rounds=1, runs=1, hosts=["pi"], host_python=PYTHON
    )
    assert [row.batch for row in found.rows] == [1]
    assert found.hosts[0].notes == [
        "batch 2: fixed on pi can't be timed: its inputs have a batch of 1"
    ]


def test_an_engine_is_held_on_hosts_as_it_is_here(validated: On, cli: Cli, made: Path) -> None:
    here = cli(
        "validate", made / "net.onnx", made / "other.engine", "--data", made / "data.npz", "--json"
    )
    there = validated("pi,noisy", "--json", file=made / "other.engine")
    assert here.returncode == there.returncode == 1
    mine, theirs = json.loads(here.stdout), json.loads(there.stdout)
    assert [row["name"] for row in theirs["candidates"][1:]] == [
        "onnxruntime fp32 on pi", "onnxruntime fp32 on noisy",
    ]  # fmt: skip
    for row in theirs["candidates"][1:]:
        assert {**row, "name": ""} == {**mine["candidates"][1], "name": ""}
    assert theirs["samples"] == 6


def test_a_right_engine_passes_on_hosts(validated: On, hosts: Path) -> None:
    done = validated("pi")
    assert done.returncode == 0, done.stderr
    assert "onnxruntime fp32 on pi  100.00 % top-1  pass" in done.stdout
    assert left(hosts) == []


@only_ci
def test_the_original_runs_once_whatever_hosts_there_are(
    made: Path, copy: Path, hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxgraft.run.session import OnnxRuntime

    asked: list[int] = []
    infer = OnnxRuntime.infer
    monkeypatch.setattr(OnnxRuntime, "infer", lambda s, f: asked.append(1) or infer(s, f))
    counts = []
    for listed in (["a"], ["a", "b", "c"]):
        asked.clear()
        onnxgraft.validate(
            made / "net.onnx", copy, made / "data.npz", hosts=listed, host_python=PYTHON,
            tolerance=1e-4,
        )  # fmt: skip
        counts.append(len(asked))
    assert counts == [6, 6]


def test_a_metric_decides_on_hosts_too(copy: Path, made: Path, hosts: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "l.npz", x=rng.normal(size=(6, 4)).astype(np.float32), labels=np.arange(6) % 4
    )
    report = onnxgraft.validate(
        made / "net.onnx", copy, tmp_path / "l.npz", metric="top1", hosts="a,b", host_python=PYTHON
    )
    names = [row.name for row in report.candidates]
    assert len(names) == 3
    assert report.candidates[1].metrics == report.candidates[2].metrics
    assert report.candidates[1].metrics == report.candidates[0].metrics != {}


def test_what_was_measured_on_a_processor_stands_in_the_passport(validated: On, copy: Path) -> None:
    assert validated("pi").returncode == 0
    passport = engine.read_passport(copy)
    assert passport.accuracy == {}
    assert [found["samples"] for found in passport.accuracy_on.values()] == [6.0]
    assert list(passport.accuracy_on) == [str(passport.cpu)]


def test_what_an_engine_is_warned_of_on_a_host_is_told(validated: On, copy: Path) -> None:
    passport = json.loads(passport_path(copy).read_text())
    passport["cpu"] = {"name": "Another chip", "features": ["x86"]}
    passport_path(copy).write_text(json.dumps(passport))
    found = json.loads(validated("pi", "--json").stdout)
    assert "was built for Another chip" in found["hosts"][0]["notes"][0]
    assert found["hosts"][0]["notes"][0].startswith("0/engine: ")  # and not where it lay there
    found = onnxgraft.bench(
        [copy], batch=[1], rounds=1, runs=1, hosts=["pi"], host_python=PYTHON
    ).to_json()
    assert "was built for Another chip" in found["hosts"][0]["notes"][0]


def test_a_report_of_hosts_is_a_page_a_json_and_junit(validated: On, tmp_path: Path) -> None:
    done = validated("pi,gone", "--report", tmp_path / "report")
    assert done.returncode == 4
    page = (tmp_path / "report/report.html").read_text()
    assert "gone did not answer: can&#39;t be reached" in page
    assert 'id="hosts-section"' in page
    assert [
        row["name"] for row in json.loads((tmp_path / "report/report.json").read_text())["hosts"]
    ] == ["pi", "gone"]
    assert 'classname="onnxgraft.host" name="gone"' in (tmp_path / "report/junit.xml").read_text()


@only_ci
def test_a_report_of_times_on_hosts(cli: Cli, made: Path, hosts: Path, tmp_path: Path) -> None:
    done = cli(
        "bench", made / "net.engine", "--hosts", "pi", *FAST, "--host-python", PYTHON, "--report",
        tmp_path / "report",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "net.engine on pi" in (tmp_path / "report/report.html").read_text()


# Hosts that do not answer.


@pytest.mark.parametrize(
    ("host", "told"),
    few([
        ("gone", "can't be reached (ssh: connect to host gone port 22: Connection refused); see"),
        ("unknown", "(Host key verification failed.); call ssh unknown once, to look at its key"),
        ("locked", "(me@locked: Permission denied (publickey).); let it accept one of your keys"),
        ("bare", "has no onnxgraft of this version there"),
        ("cursing", "onnxgraft there ended with status 1 (\\x1b[2J\\x1b]0;owned\\x07 a curse)"),
        ("endless", "says something else without end"),
        ("breaking", "the connection broke"),
    ], 3),
)  # fmt: skip
def test_a_host_that_does_not_answer_is_one_row(
    host: str, told: str, validated: On, hosts: Path
) -> None:
    done = validated(f"pi,{host}", "--json")
    assert done.returncode == 4
    found = json.loads(done.stdout)
    assert not found["passed"]
    pi, other = found["hosts"]
    assert pi["answered"] and not other["answered"]
    assert told in other["error"]
    assert [row["name"] for row in found["candidates"][1:]] == ["onnxruntime fp32 on pi"]
    assert left(hosts) == []


@pytest.mark.parametrize("kind", few(ODD, 3, 6))
def test_a_host_that_lies_is_one_row(
    kind: str, validated: On, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hosts, "_ANSWERS", 3.0)
    monkeypatch.setattr(_hosts, "_BEGINS", 3.0)
    done = validated(f"odd-{kind}", "--json")
    assert done.returncode == 4, done.stderr
    error = json.loads(done.stdout)["hosts"][0]["error"]
    assert error.isprintable() and 5 < len(error) < 600


def test_a_host_that_hangs_is_given_up(validated: On, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hosts, "_BEGINS", 0.5)
    done = validated("hanging", "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout)["hosts"][0]["error"].startswith("did not answer in time")


def test_another_version_of_the_runtime_is_told_with_its_cure(validated: On, copy: Path) -> None:
    passport = json.loads(passport_path(copy).read_text())
    passport["versions"]["onnxruntime"] = "1.0.0"
    passport_path(copy).write_text(json.dumps(passport))
    done = validated("pi", "--json")
    assert done.returncode == 4
    error = json.loads(done.stdout)["hosts"][0]["error"]
    assert "was built with onnxruntime 1.0.0" in error
    assert "pip install onnxruntime==1.0.0" in error


@only_ci
def test_a_failing_engine_and_a_missing_host_fail(validated: On, made: Path) -> None:
    assert validated("pi,gone", file=made / "other.engine").returncode == 1


@only_ci
def test_times_of_hosts_that_answer_are_there_when_one_does_not(
    cli: Cli, made: Path, hosts: Path
) -> None:
    done = cli(
        "bench", made / "net.engine", "--hosts", "pi,gone,breaking", *FAST, "--host-python", PYTHON
    )
    assert done.returncode == 4
    assert "net.engine on pi" in done.stdout
    assert "gone: NO ANSWER: can't be reached" in done.stdout
    assert "breaking: NO ANSWER: the connection broke" in done.stdout
    assert left(hosts) == []


def test_an_original_that_fails_is_an_error_and_no_row(
    validated: On, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxgraft.run.session import OnnxRuntime

    def fails(self: object, feeds: object) -> None:
        raise InputError("the original fails")

    monkeypatch.setattr(OnnxRuntime, "infer", fails)
    done = validated("pi", "--tolerance", "1e-4")
    assert done.returncode == 2
    assert "the original fails" in done.stderr


# Nothing stays.


def test_a_host_keeps_nothing_of_one_who_is_gone(made: Path, hosts: Path) -> None:
    words = ["bench", made / "net.engine", "--hosts", "pi", "--host-python", PYTHON]
    call = [PYTHON, "-P", "-m", "onnxgraft", *words, "--rounds", "1", "--runs", "1000000000"]
    desk = subprocess.Popen(
        list(map(str, call)), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        assert within(20, lambda: (hosts / "pi").exists() and left(hosts) != [])
        assert within(20, lambda: any(Path(hosts / "pi").glob("*/0/engine.json")))
    finally:
        desk.kill()  # a signal that is handled ends the stand-in's processes too, at once
        desk.wait()
    assert within(20, lambda: left(hosts) == [])


def within(seconds: float, true: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.05)
    return False


# A real server.


@only_ci
def test_a_real_server_is_asked_once_its_key_is_known(
    made: Path, copy: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    root = Path(__file__).parents[2]
    environment = {"TMPDIR": str(there), "PYTHONPATH": f"{root / 'src'}:{root}"}
    call = ["--host-python", PYTHON, "--json"]
    validate = ["validate", made / "net.onnx", copy, "--data", made / "data.npz"]
    (tmp_path / "ssh").mkdir()
    with sshd(tmp_path / "ssh", environment) as (host, known):
        monkeypatch.setenv("PATH", f"{tmp_path / 'ssh'}:{os.environ['PATH']}")
        done = cli(*validate, "--hosts", host, *call)
        assert done.returncode == 4
        error = json.loads(done.stdout)["hosts"][0]["error"]
        port = host.rpartition(":")[2]
        assert error.startswith("can't be reached (Host key verification failed.)")
        assert f"call ssh -p {port} 127.0.0.1 once" in error
        key = (tmp_path / "ssh/of_host.pub").read_text()
        known.write_text(f"[127.0.0.1]:{port} {key}")
        done = cli(*validate, "--hosts", host, *call)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["candidates"][1]["name"] == f"onnxruntime fp32 on {host}"
        done = cli("bench", copy, "--hosts", host, *FAST, *call)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["latency"][0]["runs"] == 3
        assert within(5, lambda: not list(there.iterdir()))
        (tmp_path / "ssh/of_user.pub").write_text("")
        done = cli("bench", copy, "--hosts", host, *FAST, *call)
        assert done.returncode == 4
        assert "Permission denied" in json.loads(done.stdout)["hosts"][0]["error"]


# What can't be asked for.


@pytest.mark.parametrize(
    "words",
    [
        ("bench", "E", "--record"), ("bench", "E", "--layers"), ("bench", "E", "--clients", "2"),
        ("bench", "E", "--p99", "20ms"), ("bench", "E", "--against", "G"),
        ("validate", "G", "E", "--data", "D", "--bisect"),
        ("validate", "G", "E", "--data", "D", "--workers", "2"),
        ("validate", "G", "E", "--data", "D", "--save-outputs", "o.json"),
    ],
    ids=lambda words: words[-1] if words[-1].startswith("--") else words[-2],
)  # fmt: skip
def test_what_is_of_this_machine_is_refused_with_hosts(
    words: tuple[str, ...], cli: Cli, made: Path, hosts: Path, tmp_path: Path
) -> None:
    places = {"E": made / "net.engine", "G": made / "net.onnx", "D": made / "data.npz"}
    done = cli(*[places.get(word, word) for word in words], "--hosts", "pi", cwd=tmp_path)
    assert done.returncode == 2
    assert "--hosts" in done.stderr
    assert not (hosts / "pi").exists()


def test_an_engine_without_a_passport_goes_nowhere(
    cli: Cli, copy: Path, made: Path, hosts: Path
) -> None:
    passport_path(copy).unlink()
    for words in (
        ["bench", copy],
        ["validate", made / "net.onnx", copy, "--data", made / "data.npz"],
    ):
        done = cli(*words, "--hosts", "pi", "--trust")
        assert done.returncode == 2
        assert "has no passport" in done.stderr
    assert not (hosts / "pi").exists()


def test_ssh_asks_nothing_and_its_checks_stay(validated: On, hosts: Path) -> None:
    assert validated("me@pi:2222", "--json").returncode == 0
    options = (hosts / "options").read_text().splitlines()
    assert {"BatchMode=yes", "-a", "-x", "2222"} <= {*options}
    assert not [option for option in options if "StrictHostKeyChecking" in option]


def test_a_report_of_times_is_of_hosts_alone(cli: Cli, made: Path, tmp_path: Path) -> None:
    done = cli("bench", made / "net.engine", "--report", tmp_path / "r")
    assert done.returncode == 2
    assert "--report is of --hosts" in done.stderr


def test_without_ssh_the_line_that_installs_it_is_told(
    made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(onnxgraft.MissingDependencyError, match="needs the program ssh"):
        onnxgraft.bench([made / "net.engine"], hosts="pi", host_python=sys.executable)
