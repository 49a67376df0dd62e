"""Gates as JUnit XML, which CI servers show as test results."""

from xml.etree import ElementTree as ET

from onnxq.evaluation.gates import Gate
from onnxq.evaluation.report import EvalReport
from onnxq.report.escaping import printable_report
from onnxq.report.quantization import QuantizeReport


def junit(report: QuantizeReport | EvalReport) -> bytes:
    """Write one test case per gate; without gates, one passed test case.

    XML admits no control characters, so they are escaped. The time of the command is shared equally by the
    cases, which one measurement serves.
    """
    report = printable_report(report)
    name = "onnxq eval" if isinstance(report, EvalReport) else "onnxq quantize"
    model = report.scores[0].model if isinstance(report, EvalReport) else report.output
    gates = report.gates or [Gate("done", model, 0.0, None, holds=True, line=f"{model}: done, no gates")]
    failed = sum(not gate.holds for gate in gates)
    root = ET.Element("testsuites")
    counts = {"tests": str(len(gates)), "failures": str(failed), "errors": "0", "skipped": "0"}
    seconds = sum(report.seconds.values())
    times = {"time": f"{seconds:.3f}"} if seconds else {}
    suite = ET.SubElement(root, "testsuite", {"name": name, **counts, **times})
    for gate in gates:
        case = ET.SubElement(
            suite,
            "testcase",
            {
                "classname": gate.model,
                "name": f"{gate.name} {gate.limit:g}".removesuffix(" 0") or gate.name,
                **({"time": f"{seconds / len(gates):.3f}"} if seconds else {}),
            },
        )
        if not gate.holds:
            ET.SubElement(case, "failure", message=gate.line, type="gate").text = gate.line
        else:
            ET.SubElement(case, "system-out").text = gate.line
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"
