"""The language check of CI, .ci/language.py."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def language():
    spec = importlib.util.spec_from_file_location("language", ROOT / ".ci" / "language.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("The user is told so.", "told"),
        ("This is no checkpoint.", "is no checkpoint"),
        ("Two folders, of\nwhich one is empty.", "of which"),
        ("It begins anew.", "anew"),
        ("The same command goes on at the last step.", "goes on"),
        ("Tasks run beside each other.", "beside"),
        ("Four images a class.", "images a class"),
        ("The process waits for the others.", "the others"),
        ("Devices that are not here.", "that are not here"),
    ],
)
def test_banned_phrases_are_found_with_their_line(language, text, phrase):
    expected = 1 + text.split(phrase.split()[0])[0].count("\n")
    for path, content in (("a.md", text), ("a.j2", text), ("a.py", f'"""{text}"""\n')):
        [finding] = language.check(content, path)
        assert (finding.phrase, finding.line) == (phrase, expected)
    assert language.check(f"x = 1  # {text.partition(chr(10))[0]}\n", "a.py") or "\n" in text


@pytest.mark.parametrize(
    "text",
    [
        "There is no GPU, and the cache is no longer used.",
        "Besides, the class is goal-oriented.",
        "`settings.beside` was renamed.",
        "The hook goes onto the stack.",
        "```bash\necho told said anew\n```",
    ],
)
def test_other_text_has_no_findings(language, text):
    assert language.check(text, "a.md") == []


def test_identifiers_and_single_words_are_not_checked(language):
    assert language.check('said = {"beside": told}\n\n\ndef anew(): ...\n', "a.py") == []
    assert language.check("def test_the_user_is_told(): ...\n", "a.py")[0].phrase == "told"


@pytest.mark.parametrize("first", ["Returns the mean.", "What is measured.", "Which rows count."])
def test_docstrings_begin_with_an_imperative_or_a_noun_phrase(language, first):
    [finding] = language.check(f'def f():\n    """{first}"""\n', "a.py")
    assert finding.line == 2 and first.startswith(finding.phrase.removesuffix(" …"))
    assert language.check('def f():\n    """Return the mean."""\n', "a.py") == []


def test_every_text_file_of_the_project_is_checked(language):
    checked = {language.relative(path) for path in language.files(ROOT)}
    assert {
        "README.md",
        "CHANGELOG.md",
        "launch.py",
        "docs/guides/training.md",
        "adapt/report/report.html.j2",
    } <= checked
    assert not [path for path in checked if path.startswith((".venv", "runs/"))]
