"""The YAML reader: what each scalar becomes, what is refused and where, and that dumps read back the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analogsim.config.yaml_tree import Tree, dump, parse_tree, parse_value, read_tree
from analogsim.errors import ConfigError

SCALARS = [
    ("1e-3", 1e-3),
    ("1.0e-3", 1e-3),
    ("-1E+3", -1e3),
    (".5", 0.5),
    ("1.", 1.0),
    ("+7", 7),
    ("0", 0),
    (".inf", float("inf")),
    ("-.inf", float("-inf")),
    ("true", True),
    ("False", False),
    ("null", None),
    ("~", None),
    ("", None),
    ("yes", "yes"),
    ("off", "off"),
    ("010", "010"),
    ("0x10", "0x10"),
    ("1_000", "1_000"),
    ("1:30", "1:30"),
    ("2024-01-01", "2024-01-01"),
    ("'1'", "1"),
    ("1e", "1e"),
    ("e3", "e3"),
    ("inf", "inf"),
    ("npz:/x/y.npz", "npz:/x/y.npz"),
    ("{a: 1, b: [1, 2]}", {"a": 1, "b": [1, 2]}),
]

# A text, and the problems of its form that leave a tree to go on with.
FORM = [
    ("a: 1\na: 2", "f:2:1: a: given twice; keep one"),
    ("a: {b: 1, 'b': 2}", "f:1:11: a.b: given twice; keep one"),
    ("a: &x 1", "f:1:4: a: the anchor &x is not allowed; write values out where they are needed"),
    ("a: [0, *x]", "f:1:8: a.1: the alias *x is not allowed; write the value out"),
    ("*x : 1", "f:1:1: *x: the alias *x is not allowed; write the value out"),
    ("&x a: 1", "f:1:1: a: the anchor &x is not allowed; write values out where they are needed"),
    ("a: !!int 3", "f:1:4: a: the tag !!int is not allowed; leave it out"),
    ("a: !law {b: 1}", "f:1:4: a: the tag !law is not allowed; leave it out"),
    ("a: !!python/name:os.system x", "f:1:4: a: the tag !!python/name:os.system is not allowed; leave it out"),
    ("!!map {a: 1}", "f:1:1: the tag !!map is not allowed; leave it out"),
    ("<<: {a: 1}", "f:1:1: <<: the merge key << is not allowed; write the keys out"),
    ("a:\n  ? [1, 2]\n  : 3", "f:2:5: a: a key must be text, not a list or a mapping"),
    ("{a: 1}: 2", "f:1:1: a key must be text, not a list or a mapping"),
]

# A text that is no mapping in YAML at all, and the one thing said about it.
BROKEN = [
    ("", "f:1:1: is empty; allowed: a mapping of keys to values"),
    ("# nothing\n", "f:1:1: is empty; allowed: a mapping of keys to values"),
    ("---\n", "f:2:1: null is not allowed; allowed: a mapping of keys to values"),
    ("# a list\n- 1\n", "f:2:1: [1] is not allowed; allowed: a mapping of keys to values"),
    ("digits", 'f:1:1: "digits" is not allowed; allowed: a mapping of keys to values'),
    ("a:\n\tb: 1", "f:2:1: a tab; indent with spaces"),
    (
        "a: [1, 2",
        "f:1:9: not valid YAML: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence from 1:4)",
    ),
    ("a: b: c", "f:1:5: not valid YAML: mapping values are not allowed here"),
    (
        "a: 1\n---\nb: 2",
        "f:2:1: not valid YAML: but found another document (expected a single document in the stream from 1:1)",
    ),
    ("a: 1\nb: \x00", "f:2:4: not UTF-8 text, or a control character"),
    ("[" * 100_000, "f:1:33: not valid YAML: nested more than 32 deep"),
    ("a: &x [*x]\n" + "{" * 40, None),
]

trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text().filter(lambda key: key != "<<"), inner, max_size=3)
    ),
    max_leaves=8,
)
PIECES = "data chip variants law 1 1e-3 .nan yes null : - ? [ ] { } , &a *a ! !t !!int << ' \" | > # % --- ... @ \\x"
pieces = st.sampled_from([*PIECES.split(), *"\n\n\t\r\x85\u2028  ", "\n ", ": "])


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars(text, value):
    read = parse_tree(f"a: {text}", "f").value["a"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("key", ["on", "no", "1", "1e-3", "null", "~", "2024-01-01", "a.b", "x y"])
def test_keys_stay_text_as_written(key):
    assert parse_tree(f"{key}: 1", "f").value == {key: 1}


@pytest.mark.parametrize(("text", "message"), FORM)
def test_form_is_refused_and_the_rest_still_read(text, message):
    assert [str(problem) for problem in parse_tree(text, "f").problems] == [message]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_no_mapping(text, message):
    with pytest.raises(ConfigError) as error:
        parse_tree(text, "f")
    assert message is None or str(error.value) == message


def test_many_problems_come_in_file_order():
    tree = parse_tree("b: !t 1\na: &x {c: 1, c: 2}\nb: *x\n", "f")
    assert [problem.where for problem in tree.problems] == ["f:1:4", "f:2:4", "f:2:14", "f:3:1"]


def test_places():
    tree = parse_tree("# top\na:\n  b: 1\n  c: [2,\n    {d: 3}]\n", "f")
    assert {path: place[:2] for path, place in tree.where.items()} == {
        (): ("f:2:1", "f:2:1"),
        ("a",): ("f:2:1", "f:3:3"),
        ("a", "b"): ("f:3:3", "f:3:6"),
        ("a", "c"): ("f:4:3", "f:4:6"),
        ("a", "c", 0): ("f:4:7", "f:4:7"),
        ("a", "c", 1): ("f:5:5", "f:5:5"),
        ("a", "c", 1, "d"): ("f:5:6", "f:5:9"),
    }


@pytest.mark.parametrize("text", ["\ufeffa: 1", "a: 1\r\n", "%YAML 1.2\n---\na: 1\n..."])
def test_byte_order_mark_and_line_ends_are_no_matter(tmp_path, text):
    (tmp_path / "f.yaml").write_bytes(text.encode())
    assert read_tree(tmp_path / "f.yaml", "f").value == {"a": 1}


@pytest.mark.parametrize(
    ("data", "place"), [(b"\xff\xfea\x00", "f:1:1"), (b"a: 1\nb: \xe9", "f:2:4"), (b"\x89PNG\r\n", "f:1:1")]
)
def test_no_text(tmp_path, data, place):
    (tmp_path / "f.yaml").write_bytes(data)
    with pytest.raises(ConfigError) as error:
        read_tree(tmp_path / "f.yaml", "f")
    assert str(error.value) == f"{place}: not UTF-8 text, or a control character"


def test_grafts_keep_the_places_of_what_they_put_in():
    tree = parse_tree("a: {b: 1}\n", "f")
    tree.graft(("a", "b"), parse_tree("x: {y: 2}", "g").at(("x",)))
    tree.graft(("c", "d"), Tree.said(3, "--set c.d=3", "c.d"))
    assert tree.value == {"a": {"b": {"y": 2}}, "c": {"d": 3}}
    assert str(tree.problem(("a", "b", "y"), 2, "bad")) == "g:1:8: x.y: bad"
    assert str(tree.problem(("c", "e"), None, "is missing")) == "--set c.d=3: c.e: is missing"


def test_a_graft_does_not_pass_through_a_value():
    tree = parse_tree("a: 1\nb: [1, 2]\nc: []\n", "f")
    for key in ("a.x", "b.2", "b.0.x", "c.0"):
        tree.graft(tuple(key.split(".")), Tree.said(3, f"--set {key}=3", key))
    assert tree.value == {"a": 1, "b": [1, 2], "c": []}
    assert [str(problem) for problem in tree.problems] == [
        "--set a.x=3: a.x: a is 1, which has no keys to set",
        "--set b.2=3: b.2: b has no item 2; allowed: 0 to 1",
        "--set b.0.x=3: b.0.x: b.0 is 1, which has no keys to set",
        "--set c.0=3: c.0: c is [], which has no items to set",
    ]


def test_a_graft_steps_into_lists():
    tree = parse_tree("a: [1, {b: 2}, ]\n", "f")
    tree.graft(("a", "0"), Tree.said(3, "--set a.0=3", "a.0"))
    tree.graft(("a", "1", "c", "d"), Tree.said(4, "--set a.1.c.d=4", "a.1.c.d"))
    assert tree.value == {"a": [3, {"b": 2, "c": {"d": 4}}]}
    assert tree.problems == []
    assert str(tree.problem(("a", 0), 3, "bad")) == "--set a.0=3: a.0: bad"
    assert str(tree.problem(("a", 1, "b"), 2, "bad")) == "f:1:12: a.1.b: bad"
    assert str(tree.problem(("a", 1, "c", "e"), None, "is missing")) == "--set a.1.c.d=4: a.1.c.e: is missing"


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text().filter(lambda key: key != "<<"), trees, max_size=4))
def test_a_dump_reads_back_the_same(tree):
    read = parse_tree(dump(tree), "f")
    assert not read.problems
    assert repr(read.value) == repr(tree)  # repr tells 1 from 1.0 and 0.0 from -0.0


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=25).map("".join))
def test_any_text_is_a_mapping_or_a_config_error(text):
    try:
        tree, problems = parse_tree(text, "f"), ()
    except ConfigError as error:
        tree, problems = Tree({}, {}, "f"), error.problems
    assert isinstance(tree.value, dict)
    assert all(problem.where.startswith("f:") for problem in [*tree.problems, *problems])


@settings(max_examples=200, deadline=None)
@given(st.lists(pieces, max_size=8).map("".join))
def test_any_option_is_a_value_or_a_config_error(text):
    try:
        parse_value(text, "--set a=", "a")
        problems = ()
    except ConfigError as error:
        problems = error.problems
    assert len(problems) <= 1
