"""What make installs is what the constraints pin, by its hashes, and nothing else."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import pytest
from docs import licences
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.sources import parsed

ROOT = Path(__file__).parent.parent
# Installed beside it: NVIDIA's, whose packages are made by its own index or its user's.
ELSEWHERE = {"tensorrt"}
LOCKS = ("constraints-pip.txt", "constraints.txt", "constraints-torch.txt")
# Of the site, which is built in an environment of its own.
SITE = "constraints-docs.txt"


def pins(names: Sequence[str] = LOCKS) -> dict[str, tuple[str, list[str]]]:
    """Return the version and the hashes of each package, by its name."""
    text = "".join((ROOT / name).read_text() for name in names).replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement, *hashes = line.split("--hash=")
            parsed = Requirement(requirement.strip())
            (pin,) = parsed.specifier
            assert pin.operator == "==", line
            found[canonicalize_name(parsed.name)] = (pin.version, [h.strip() for h in hashes])
    return found


def declared() -> list[Requirement]:
    """Return what pyproject.toml asks for, in all extras, and to build."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = document["project"]
    texts = [*project["dependencies"], *document["build-system"]["requires"]]
    texts += [text for extra in project["optional-dependencies"].values() for text in extra]
    return [found for found in map(Requirement, texts) if found.name != "onnxgraft"]


def test_every_package_is_pinned_by_sha256() -> None:
    for name, (_, hashes) in pins((*LOCKS, SITE)).items():
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), name


# tensorflow is there as its build for the CPU.
@pytest.mark.parametrize("requirement", declared(), ids=lambda found: found.name)
def test_what_is_asked_for_is_pinned_at_a_version_that_will_do(requirement: Requirement) -> None:
    if requirement.name in ELSEWHERE:
        pytest.skip("its maker's own index has it")
    known = pins()
    name = canonicalize_name(requirement.name)
    version, _ = known.get(name) or known[f"{name}-cpu"]
    assert version in requirement.specifier


def test_every_package_that_is_imported_is_asked_for() -> None:
    asked = {canonicalize_name(found.name) for found in declared()}
    asked |= {f"{name}-cpu" for name in asked}
    distributions = metadata.packages_distributions()
    missing = set()
    for _, tree in parsed("import"):
        for module in imported(tree):
            names = distributions.get(module.partition(".")[0], [])
            if module.startswith("google."):
                names = [module.split(".")[1]]
            if module.partition(".")[0] == "onnxgraft":
                continue
            if names and not asked & {canonicalize_name(name) for name in names}:
                missing.add(module)
    assert not missing


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the modules that a file imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_make_installs_by_hash_alone() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    installs = [line for line in lines if "pip install" in line]
    locked = [line for line in installs if any(name in line for name in (*LOCKS, SITE))]
    assert len(locked) == len(LOCKS) + 1
    assert all("--require-hashes --no-deps" in line for line in locked)
    (own,) = [line for line in installs if "--editable ." in line]
    assert "--no-index --no-deps --no-build-isolation" in own
    # The tools that only look at the supply chain are pinned, too.
    (tools,) = [line for line in installs if line not in (*locked, own)]
    assert "$(AUDIT)" in tools
    (audit,) = [line for line in lines if line.startswith("AUDIT =")]
    assert all("==" in word for word in audit.split()[2:])


def test_every_package_has_a_licence_that_is_known_and_listed() -> None:
    listed = licences.rows()
    assert sorted(listed) == sorted(pins((*LOCKS, SITE))), "run make licences"
    for name, licence in listed.items():
        assert licences.parts_of(licence) <= licences.ACCEPTED, f"{name}: {licence}"


def test_the_licences_that_are_listed_are_those_of_what_is_installed() -> None:
    listed, known = licences.rows(), pins()
    for name, (version, _) in known.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if installed.partition("+")[0] == version.partition("+")[0]:
            assert licences.licence_of(name) == listed[name], name
