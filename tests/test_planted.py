"""tests/planted.md lists every planted bug and the test that catches it, and nothing else.

A planted bug is a name in a module's `BUGS` or `…_BUGS` (a dict's key, or a class in a list) that a test whose name
says it catches is parametrised with. `python tests/test_planted.py` writes the list anew.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LIST = TESTS / "planted.md"
LEAST = 20
HEAD = """\
# Planted bugs and the tests that catch them

A statistical test proves itself here: each bug is planted on purpose, and the test beside it passes only if the
check of the law then fails. `python tests/test_planted.py` writes this list; the test of that name keeps it true.

| Bug | File | Test |
|---|---|---|
"""


def bugs_in(text):
    """(name of the bug, name of the test that catches it), read from the source of a test file."""
    body = ast.parse(text).body
    tables = {
        node.targets[0].id: [name_of(item) for item in items_of(node.value)]
        for node in body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith("BUGS")
    }
    found = []
    for function in body:
        if isinstance(function, ast.FunctionDef) and "catch" in function.name:
            decorators = [node for decorator in function.decorator_list for node in ast.walk(decorator)]
            used = {node.id for node in decorators if isinstance(node, ast.Name)}
            found += [(bug, function.name) for table in tables if table in used for bug in tables[table]]
    uncaught = {bug for bugs in tables.values() for bug in bugs} - {bug for bug, _ in found}
    assert not uncaught, f"no test catches {uncaught}"
    return found


def items_of(table):
    return table.keys if isinstance(table, ast.Dict) else table.elts


def name_of(item):
    return item.value if isinstance(item, ast.Constant) else item.id


def rows():
    """The rows that the list should have."""
    return [
        f"| {bug} | {path.relative_to(TESTS).as_posix()} | {test} |"
        for path in sorted(TESTS.rglob("test_*.py"))
        for bug, test in bugs_in(path.read_text(encoding="utf-8"))
    ]


def test_the_list_is_complete_and_true():
    assert LIST.read_text(encoding="utf-8") == HEAD + "".join(f"{row}\n" for row in rows())


def test_there_are_enough_of_them_and_each_is_listed_once():
    assert len(set(rows())) == len(rows()) >= LEAST


CAUGHT = 'A_BUGS = {"σ + 1 %": 1}\n@pytest.mark.parametrize("bug", A_BUGS)\ndef test_it_catches(bug): pass'


def test_a_bug_and_its_test_are_found():
    assert bugs_in(CAUGHT) == [("σ + 1 %", "test_it_catches")]


@pytest.mark.parametrize(
    "text", ['A_BUGS = {"a": 1}', CAUGHT.replace("catches", "passes"), CAUGHT + "\nB_BUGS = [Tail]"]
)
def test_a_bug_that_nothing_catches_is_found(text):
    with pytest.raises(AssertionError, match="no test catches"):
        bugs_in(text)


if __name__ == "__main__":
    LIST.write_text(HEAD + "".join(f"{row}\n" for row in rows()), encoding="utf-8")
