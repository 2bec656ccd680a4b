"""What .ci/audit.py says of the packages that are installed here."""

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
    """Runs the audit; returns its exit code and its lines."""
    ended = subprocess.run([sys.executable, ROOT / ".ci" / "audit.py", *arguments], capture_output=True, text=True)
    assert not ended.stderr, ended.stderr
    return ended.returncode, ended.stdout.splitlines()


def advisory(folder, name, *, events=(), versions=(), **more):
    """Writes an advisory about NumPy as PyPA's database has them."""
    affected = {"package": {"name": "NumPy", "ecosystem": "PyPI"}, "versions": list(versions)}
    affected["ranges"] = [{"type": "ECOSYSTEM", "events": list(events)}] if events else []
    content = {"id": name, "published": "2024-01-02T00:00:00Z", "affected": [affected], **more}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


def test_advisories_of_the_installed_version_are_found_and_others_are_not(tmp_path):
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
    assert "packages by 8 advisories, the newest of 2024-01-02: 4 known" in lines[-1]


def test_an_audit_that_finds_nothing_says_what_it_looked_through(tmp_path):
    advisory(tmp_path, "FIXED", events=[{"introduced": "0"}, {"fixed": "1.0"}])
    code, lines = audit(f"--advisories={tmp_path}")
    assert code == 0 and lines[0].endswith("by 1 advisories, the newest of 2024-01-02: no known vulnerabilities")


def program(path, packages):
    """Writes a program that leaves a report as pip-audit does."""
    report = json.dumps({"dependencies": packages})
    write = f"import sys; open(sys.argv[-2].split('=', 1)[1], 'w').write({report!r})"
    path.write_text(f"#!{sys.executable}\n{write}\n")
    path.chmod(0o755)
    return f"--pip-audit={path}"


def test_packages_that_the_service_passes_over_are_named(tmp_path):
    skipped = {"name": "mine", "skip_reason": "Dependency not found on PyPI"}
    clean, hurt = ({"name": name, "version": "1", "vulns": vulns} for name, vulns in (("a", []), ("b", [{"id": "X"}])))
    code, lines = audit(program(tmp_path / "one", [skipped, clean]))
    assert (code, lines) == (0, ["audit: 1 of 2 packages by PyPI's service, without mine: no known vulnerabilities"])
    code, lines = audit(program(tmp_path / "two", [clean, hurt]))
    assert (code, lines[0]) == (1, "vulnerable: b 1: X")


def test_what_comes_with_python_is_told_and_is_no_failure(tmp_path):
    code, lines = audit(program(tmp_path / "one", [{"name": "pip", "version": "1", "vulns": [{"id": "X"}]}]))
    assert code == 0 and lines[0] == "vulnerable: pip 1: X, which comes with Python"


@pytest.mark.parametrize("case", ["no program", "no service", "no such package", "no advisories"])
def test_an_audit_that_did_not_run_says_so(tmp_path, case):
    given = {
        "no program": "--pip-audit=/nowhere/pip-audit",
        "no service": f"--pip-audit={sys.executable}",  # which ends without a report
        "no such package": program(tmp_path / "none", [{"name": "mine", "skip_reason": "not found"}]),
        "no advisories": f"--advisories={tmp_path}",
    }[case]
    code, lines = audit(given)
    assert code == 0 and len(lines) == 1 and lines[0].startswith("audit: did not run: ")
