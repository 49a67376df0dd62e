"""The CI recipes run step by step, as they are written."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MODEL, SAMPLES = ROOT / "sample_models" / "digits_cnn.onnx", ROOT / "calib_data"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
INPUTS = {
    "model": str(MODEL),
    "calib": str(SAMPLES / "calib"),
    "data": str(SAMPLES / "eval"),
    "labels": str(SAMPLES / "eval" / "labels.csv"),
    "quantize-args": "--effort fast --method 'minmax'",
    "eval-args": "--max-drop 1 --samples 50",
}


def shell(command, folder, **variables):
    files = {name: str(folder / name.lower()) for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")}
    environment = os.environ | {"PATH": PATH} | files | variables
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )


def run_action(folder, inputs, *, skip=(), path=ROOT):
    """Run the steps of action.yml with its expressions filled in; return the result of the last one run."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    values = {name: each.get("default", "") for name, each in action["inputs"].items()} | inputs
    known = {f"inputs.{name}": value for name, value in values.items()} | {"github.action_path": str(path)}
    for step in action["runs"]["steps"]:
        if step["name"] in skip or "uses" in step:
            continue
        fill = {
            key: re.sub(r"\$\{\{ (.+?) \}\}", lambda found: known[found[1]], text)
            for key, text in step["env"].items()
        }
        assert "${{" not in step["run"]  # values from a pull request must not become code
        result = shell(step["run"], folder, **fill)
        if result.returncode:
            return result
    return result


def test_the_action_quantizes_compares_and_writes_its_summary(tmp_path):
    result = run_action(tmp_path, INPUTS, skip=("Install",))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "github_output").read_text() == "model=model.int8.onnx\npassed=true\n"
    assert "all gates passed" in (tmp_path / "github_step_summary").read_text()
    assert {path.name for path in (tmp_path / "onnxq-reports").iterdir()} == {
        "quantize.html",
        "report.html",
        "report.json",
        "junit.xml",
        "summary.md",
    }


def test_a_gate_that_does_not_hold_fails_the_action_and_is_in_its_summary(tmp_path):
    result = run_action(tmp_path, INPUTS | {"eval-args": "--min-sqnr 190 --samples 50"}, skip=("Install",))
    assert result.returncode == 1
    assert (tmp_path / "github_output").read_text() == "model=model.int8.onnx\npassed=false\n"
    assert "a gate failed" in (tmp_path / "github_step_summary").read_text()
    assert 'failures="1"' in (tmp_path / "onnxq-reports" / "junit.xml").read_text()


def test_a_baseline_is_used_where_there_is_one(tmp_path):
    inputs = INPUTS | {"baseline": "baseline/report.json"}
    assert run_action(tmp_path, inputs, skip=("Install",)).returncode == 0
    (tmp_path / "baseline").mkdir()
    (tmp_path / "onnxq-reports" / "report.json").rename(tmp_path / "baseline" / "report.json")
    assert run_action(tmp_path, inputs, skip=("Install",)).returncode == 0
    assert '"before": {\n        "bytes"' in (tmp_path / "onnxq-reports" / "report.json").read_text()


def test_outputs_of_the_action_come_from_its_steps():
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    named = {step["id"] for step in action["runs"]["steps"] if "id" in step}
    written = set(re.findall(r'"(\w+)=', "".join(step.get("run", "") for step in action["runs"]["steps"])))
    for output in action["outputs"].values():
        for step, name in re.findall(r"steps\.(\w+)\.outputs\.(\w+)", output["value"]):
            assert step in named
            assert name in written


def test_the_github_workflow_uses_inputs_and_outputs_of_the_action():
    text = (ROOT / "docs" / "ci" / "github.yml").read_text()
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    steps = yaml.safe_load(text)["jobs"]["quantize"]["steps"]
    (step,) = [step for step in steps if step.get("id") == "onnxq"]
    assert set(step["with"]) <= set(action["inputs"])
    assert set(re.findall(r"steps\.onnxq\.outputs\.(\w+)", text)) <= set(action["outputs"])


def test_the_comment_of_a_pull_request_is_made_once_and_then_edited(tmp_path):
    steps = yaml.safe_load((ROOT / "docs" / "ci" / "github.yml").read_text())["jobs"]["quantize"]["steps"]
    (step,) = [step for step in steps if step.get("name") == "Comment"]
    (tmp_path / "summary.md").write_text("all gates passed")
    program = tmp_path / "bin" / "gh"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\necho "$@" >> calls\ncase "$*" in *--jq*) cat known 2> /dev/null || true;; esac\n'
    )
    program.chmod(0o755)
    values = {
        "SUMMARY": "summary.md",
        "NUMBER": "7",
        "GITHUB_REPOSITORY": "a/b",
        "PATH": f"{program.parent}:{PATH}",
    }
    assert shell(step["run"], tmp_path, **values).returncode == 0
    assert (tmp_path / "comment.md").read_text() == "<!-- onnxq -->\nall gates passed"
    (tmp_path / "known").write_text("41\n42\n")
    assert shell(step["run"], tmp_path, **values).returncode == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[1] == "api repos/a/b/issues/7/comments -F body=@comment.md"
    assert calls[3] == "api -X PATCH repos/a/b/issues/comments/41 -F body=@comment.md"


def test_bad_input_of_the_action_is_no_failed_gate_and_reports_are_written_anew(tmp_path):
    (tmp_path / "onnxq-reports").mkdir()
    (tmp_path / "onnxq-reports" / "junit.xml").write_text("of an earlier run")
    assert run_action(tmp_path, INPUTS, skip=("Install",)).returncode == 0
    for name in ("quantize-args", "eval-args"):
        result = run_action(tmp_path, INPUTS | {name: "--unknown 'a b'"}, skip=("Install",))
        assert result.returncode == 2
        assert re.search("No such option:? '?--unknown", result.stderr)


@pytest.mark.slow
def test_the_workflow_of_this_repository_runs_the_action_in_a_fresh_clone(tmp_path):
    """In an environment of its own, with the inputs of the workflow."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    workflow = yaml.safe_load((clone / ".github" / "workflows" / "ci.yml").read_text())
    (step,) = [step for step in workflow["jobs"]["action"]["steps"] if step["uses"] == "./"]
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    fresh = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    global PATH
    PATH, before = fresh, PATH
    try:
        result = run_action(clone, step["with"], path=clone)
    finally:
        PATH = before
    assert result.returncode == 0, result.stderr
    assert "passed=true" in (clone / "github_output").read_text()


SCHEMAS = {
    "vendor.github-workflows": [
        ".github/workflows/ci.yml",
        ".github/workflows/publish.yml",
        "docs/ci/github.yml",
    ],
    "vendor.github-actions": ["action.yml"],
    "vendor.gitlab-ci": ["docs/ci/gitlab.yml"],
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_follow_the_schemas_of_their_services(schema):
    pytest.importorskip("check_jsonschema")
    files = [str(ROOT / name) for name in SCHEMAS[schema]]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files]
    result = subprocess.run(command, text=True, capture_output=True, check=False)
    assert result.returncode == 0, result.stdout


def publish_step(name):
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    (step,) = [step for step in steps if step.get("name") == name]
    return step["run"]


@pytest.mark.parametrize(
    ("tag", "heading", "code"),
    [("v1.2.3", "## 1.2.3 (2030-01-31)", 0), ("v1.2.4", "## 1.2.3 (2030-01-31)", 1), ("v1.2.3", "## 1.2.3 (unreleased)", 1)],
)  # fmt: skip
def test_only_a_tag_of_the_version_with_a_dated_changelog_is_published(tmp_path, tag, heading, code):
    (tmp_path / "onnxq").mkdir()
    (tmp_path / "onnxq" / "version.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
    script = publish_step("The tag, the version and the changelog agree")
    assert shell(script, tmp_path, GITHUB_REF_NAME=tag).returncode == code


def test_the_tag_of_the_major_version_moves(tmp_path):
    origin, clone = tmp_path / "origin.git", tmp_path / "clone"
    subprocess.run(["git", "init", "--quiet", "--bare", origin], check=True)
    subprocess.run(["git", "clone", "--quiet", origin, clone], check=True, capture_output=True)
    commit = "git -c user.name=a -c user.email=a@b commit --quiet --allow-empty -m x && git push --quiet origin HEAD"
    move = publish_step("Move the tag of the major version")
    for tag in ("v1.0.0", "v1.1.0"):
        assert shell(commit, clone).returncode == 0
        assert shell(move, clone, GITHUB_REF_NAME=tag).returncode == 0
    read = ["git", "--git-dir", origin, "rev-parse", "v1", "HEAD"]
    newest = subprocess.run(read, capture_output=True, text=True, check=True).stdout.split()
    assert newest[0] == newest[1]


def test_the_gitlab_job(tmp_path):
    job = yaml.safe_load((ROOT / "docs" / "ci" / "gitlab.yml").read_text())["quantize"]
    variables = job["variables"] | {
        "MODEL": str(MODEL),
        "CALIB": str(SAMPLES / "calib"),
        "DATA": str(SAMPLES / "eval"),
    }
    result = shell("\n".join(job["script"]), tmp_path, **variables)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / job["artifacts"]["reports"]["junit"]).is_file()


def test_the_pre_commit_hook(tmp_path):
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    arguments = f"{MODEL} {MODEL} --data {SAMPLES / 'eval'} --samples 5"
    assert re.search(hook["files"], "models/a.onnx")
    assert shell(f"{hook['entry']} {arguments} --min-agreement 1", tmp_path).returncode == 0
    assert shell(f"{hook['entry']} {arguments} --min-sqnr 201", tmp_path).returncode == 1


def test_the_image_gets_all_that_it_copies():
    text = (ROOT / "Dockerfile").read_text()
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.slow
def test_the_image_has_a_command_that_quantizes(tmp_path):
    """The instructions of the Dockerfile, in a folder and an environment of their own."""
    text = (ROOT / "Dockerfile").read_text()
    for names, target in re.findall(r"^COPY (.+) (\S+)$", text, re.MULTILINE):
        for name in names.split():
            to = tmp_path / target.strip("/") / ("" if (ROOT / name).is_file() else ".")
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, to)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    path = f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    (command,) = re.findall(r"^RUN (.+)$", text, re.MULTILINE)
    command = command.replace("--no-cache-dir ", "").replace("/src", str(tmp_path / "src"))
    installed = shell(command, tmp_path, PATH=path, PYTHONPATH="")
    assert installed.returncode == 0, installed.stderr
    (entry,) = json.loads(re.search(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)[1])
    run = f"{entry} quantize {MODEL} --calib {SAMPLES / 'calib'} --effort fast -o {tmp_path / 'int8.onnx'}"
    result = shell(run, tmp_path, PATH=path, PYTHONPATH="")
    assert result.returncode == 0, result.stderr


def test_the_workflow_uses_the_action_with_inputs_that_it_has():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    (step,) = [step for job in workflow["jobs"].values() for step in job["steps"] if step.get("uses") == "./"]
    assert set(step["with"]) <= set(action["inputs"])
