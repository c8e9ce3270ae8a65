"""The report as JUnit XML: a test case for each stage, candidate and host."""

from __future__ import annotations

import os
import re
from xml.etree import ElementTree

from onnxgraft.files import write_bytes
from onnxgraft.stages.validate.report import Report

__all__ = ["write_junit"]

# What XML 1.0 has no place for: most control characters, and surrogates (bytes that are no UTF-8).
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def write_junit(report: Report, path: str | os.PathLike[str]) -> None:
    """Write ``report`` for a build server."""
    cases = [
        ("stage", row.stage, row.passed, f"{row.relative:.2e} of the range", row.seconds)
        for row in report.stages
    ]
    cases += [("candidate", row.name, row.passed, row.verdict, 0.0) for row in report.candidates]
    cases += [("goal", sentence, False, sentence, 0.0) for sentence in report.missed]
    cases += [("host", row.name, row.answered, row.error, 0.0) for row in report.hosts]
    warnings = {
        row.name: [f"WARNING: {text}" for text in row.warnings] for row in report.candidates
    }
    failures = sum(not passed for _, _, passed, _, _ in cases)
    suite = ElementTree.Element(
        "testsuite", name=report.title, tests=str(len(cases)), failures=str(failures)
    )
    for kind, name, passed, text, seconds in cases:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"onnxgraft.{kind}", name=name, time=f"{seconds:.3f}"
        )
        if not passed:
            ElementTree.SubElement(case, "failure", message=text)
        warned = warnings.get(name, []) if kind == "candidate" else []
        if warned:
            ElementTree.SubElement(case, "system-out").text = _NOT_XML.sub("?", "\n".join(warned))
    for element in suite.iter():
        for key, value in element.attrib.items():
            element.set(key, _NOT_XML.sub("?", value))
    write_bytes(path, ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))
