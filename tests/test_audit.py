"""The audit of the installed packages, .ci/audit.py."""

import importlib.metadata
import json
import pathlib
import subprocess
import sys

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
NUMPY = importlib.metadata.version("numpy")


def audit(*arguments):
    """Run the audit; return its exit code and lines."""
    ended = subprocess.run([sys.executable, ROOT / ".ci" / "audit.py", *arguments], capture_output=True, text=True)
    assert not ended.stderr, ended.stderr
    return ended.returncode, ended.stdout.splitlines()


def advisory(folder, name, *, events=(), versions=(), **more):
    """Write an advisory about NumPy in the format of PyPA's database."""
    affected = {"package": {"name": "NumPy", "ecosystem": "PyPI"}, "versions": list(versions)}
    affected["ranges"] = [{"type": "ECOSYSTEM", "events": list(events)}] if events else []
    content = {"id": name, "published": "2024-01-02T00:00:00Z", "affected": [affected], **more}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


def test_advisories_of_the_installed_version_are_found(tmp_path):
    advisory(tmp_path, "OPEN", events=[{"introduced": "0"}])
    advisory(tmp_path, "AGAIN", events=[{"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "1.1"}])
    advisory(tmp_path, "LAST", events=[{"introduced": "0"}, {"last_affected": NUMPY}])
    advisory(tmp_path, "LISTED", versions=["1.0", NUMPY])
    advisory(tmp_path, "FIXED", events=[{"introduced": "0"}, {"fixed": NUMPY}])
    advisory(tmp_path, "LATER", events=[{"introduced": "9999"}])
    advisory(tmp_path, "OTHERS", versions=["1.0"])
    advisory(tmp_path, "WITHDRAWN", events=[{"introduced": "0"}], withdrawn="2024-01-03T00:00:00Z")
    code, lines = audit(f"--advisories={tmp_path}")
    assert code == 1
    assert lines[:-1] == [f"vulnerable: numpy {NUMPY}: {name}" for name in ("AGAIN", "LAST", "LISTED", "OPEN")]
    assert "packages against 8 advisories, the newest of 2024-01-02: 4 known" in lines[-1]


def test_an_audit_without_findings_reports_what_it_read(tmp_path):
    advisory(tmp_path, "FIXED", events=[{"introduced": "0"}, {"fixed": "1.0"}])
    code, lines = audit(f"--advisories={tmp_path}")
    assert code == 0 and lines[0].endswith("against 1 advisories, the newest of 2024-01-02: no known vulnerabilities")


def program(path, packages):
    """Write a program that writes a report as pip-audit does."""
    report = json.dumps({"dependencies": packages})
    write = f"import sys; open(sys.argv[-2].split('=', 1)[1], 'w').write({report!r})"
    path.write_text(f"#!{sys.executable}\n{write}\n")
    path.chmod(0o755)
    return f"--pip-audit={path}"


def test_packages_that_the_service_skips_are_named(tmp_path):
    skipped = {"name": "mine", "skip_reason": "Dependency not found on PyPI"}
    clean, hurt = ({"name": name, "version": "1", "vulns": vulns} for name, vulns in (("a", []), ("b", [{"id": "X"}])))
    code, lines = audit(program(tmp_path / "one", [skipped, clean]))
    assert (code, lines) == (
        0,
        ["audit: 1 of 2 packages through PyPI's service, without mine: no known vulnerabilities"],
    )
    code, lines = audit(program(tmp_path / "two", [clean, hurt]))
    assert (code, lines[0]) == (1, "vulnerable: b 1: X")


def test_packages_bundled_with_python_are_reported_but_do_not_fail(tmp_path):
    code, lines = audit(program(tmp_path / "one", [{"name": "pip", "version": "1", "vulns": [{"id": "X"}]}]))
    assert code == 0 and lines[0] == "vulnerable: pip 1: X, bundled with Python"


@pytest.mark.parametrize("case", ["no program", "no service", "no such package", "no advisories"])
def test_an_audit_that_could_not_run_reports_so(tmp_path, case):
    given = {
        "no program": "--pip-audit=/nowhere/pip-audit",
        "no service": f"--pip-audit={sys.executable}",  # which ends without a report
        "no such package": program(tmp_path / "none", [{"name": "mine", "skip_reason": "not found"}]),
        "no advisories": f"--advisories={tmp_path}",
    }[case]
    code, lines = audit(given)
    assert code == 0 and len(lines) == 1 and lines[0].startswith("audit: did not run: ")
