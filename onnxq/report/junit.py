"""Gates as JUnit XML, which CI servers show as test results."""

from xml.etree import ElementTree as ET

from onnxq.evaluation.gates import Gate
from onnxq.evaluation.report import EvalReport
from onnxq.report.escaping import printable_report
from onnxq.report.quantization import QuantizeReport


def junit(report: QuantizeReport | EvalReport) -> bytes:
    """Write one test case per gate; without gates, one passed test case.

    XML admits no control characters, so they are escaped.
    """
    report = printable_report(report)
    name = "onnxq eval" if isinstance(report, EvalReport) else "onnxq quantize"
    model = report.scores[0].model if isinstance(report, EvalReport) else report.output
    gates = report.gates or [Gate("done", model, 0.0, None, holds=True, line=f"{model}: done, no gates")]
    failed = sum(not gate.holds for gate in gates)
    root = ET.Element("testsuites")
    suite = ET.SubElement(
        root, "testsuite", name=name, tests=str(len(gates)), failures=str(failed), errors="0", skipped="0"
    )
    for gate in gates:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=gate.model,
            name=f"{gate.name} {gate.limit:g}".removesuffix(" 0") or gate.name,
        )
        if not gate.holds:
            ET.SubElement(case, "failure", message=gate.line, type="gate").text = gate.line
        else:
            ET.SubElement(case, "system-out").text = gate.line
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"
