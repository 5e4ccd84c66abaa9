"""Settings that Hydra cannot read as they were typed: the message shows the form to type."""

import re
import shlex
import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from gen2embed import UserError
from gen2embed.config import quoting, schema, values
from gen2embed.config.presets import compose_shipped

ODD = [
    "~/h/t.jsonl", "d/\u6570\u636e\xe9.jsonl", "my tasks (1)/t=1,x.jsonl", "a#b", "s=1/t", "it's \xe9", 'say "\xe9"',
    "C:\\\xe9\\", "a;b", "{x", "[x", '\\"\xe9', "\xe9, b", "x & y", "https://a.b/c?d=e", "'it's \xe9'",
]  # fmt: skip


@pytest.mark.parametrize("value", ODD)
def test_the_form_to_type_is_what_was_meant(value):
    """What the message shows, typed in a shell, is read as the value."""
    parser = OverridesParser.create()
    with pytest.raises(HydraException):
        parser.parse_override(f"data.path={value}")
    form = quoting.quoted(f"data.path={value}")
    assert quoting.unreadable(f"data.path={value}").endswith(form)
    typed = subprocess.run(["bash", "-c", f"printf %s {form}"], capture_output=True, text=True, check=True).stdout
    wanted = value[1:-1] if value.startswith("'") else value  # which had quotes, but not enough
    assert parser.parse_override(typed).value() == wanted
    if not set(value) & {",", "'"}:
        (typed,) = shlex.split(quoting.quoted(f"a=[x,{value},2014]"))
        assert parser.parse_override(typed).value() == ["x", value, "2014"]


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("output_dir=~/runs/x", """type 'output_dir="~/runs/x"'"""),
        ("benchmark.subsets=[\xe9,b c]", """type 'benchmark.subsets=["\xe9","b c"]'"""),
        ("output_dir=a,b", """type 'output_dir="a,b"' for one text"""),
        ("output_dir=" + "\xe9" * 9000, "cannot be read"),
        ("benchmark", "missing EQUAL"),
        ("model.max_length=${nothing}", "'model.max_length=${nothing}': Interpolation key 'nothing' not found; ${...}"),
    ],
    ids=lambda value: value[:24],
)
def test_a_setting_that_needs_quotes_is_shown_in_them(run_script, argument, shown):
    outcome = run_script("eval.py", argument)
    assert outcome.code == 1
    assert shown in " ".join(outcome.err.split())
    assert len(outcome.err) < 700
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("[2014]", "['2014']"), ("2014", "['2014']"), ("[true,1.5]", "['true','1.5']"), ("shape", "['shape']")],
)
def test_names_that_look_like_numbers_are_shown_in_quotes(value, wanted):
    values.register_resolvers()

    def check(form):
        overrides = ["benchmark=custom", "benchmark.annotations=a", f"benchmark.subsets={form}", "output_dir=x"]
        schema.check(compose_shipped("eval", overrides), "eval", overrides)

    with pytest.raises(UserError, match=re.escape(f'write "benchmark.subsets={wanted}"')):
        check(value)
    check(wanted)


def test_a_quoted_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    made = schema.make("train", ["data"], ["data=pairs", 'data.path="~/rows.jsonl"'])
    assert str(made["data"].path) == str(tmp_path / "rows.jsonl")
