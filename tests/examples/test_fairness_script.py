"""The fairness demo's script: every key, and a message that says where and what for everything that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairness import DEFAULT_SCRIPT
from fairness_script import KEYS, Client, Data, ScriptError, load, parse

CLIENT = '[[clients]]\nname = "a"\nkind = "scan"\n'


def test_the_script_that_comes_with_the_demo_has_all_that_the_demo_is_about() -> None:
    script = load(DEFAULT_SCRIPT)
    assert {client.kind for client in script.clients} == {"scan", "read", "append"}
    assert any(client.pause for client in script.clients)
    assert any(client.dies for client in script.clients)
    assert max(client.count for client in script.clients) >= 100


def test_the_script_that_comes_with_the_demo_explains_every_key() -> None:
    text = DEFAULT_SCRIPT.read_text()
    missing = [key for keys in KEYS.values() for key in keys if f"#   {key} " not in text and f"\n{key} " not in text]
    assert not missing


def test_what_is_left_out_has_its_usual_value() -> None:
    script = parse(CLIENT)
    assert script.clients == (Client("a", "scan", 1, 1, 0, 0.0, (0.0, 0.0), 0.0, 0),)
    assert script.data == Data(4096, 8192)
    assert script.pages(script.clients[0]) == 4096


def test_a_time_to_think_is_a_number_or_two() -> None:
    assert parse(CLIENT + "think = 1").clients[0].think == (1.0, 1.0)
    assert parse(CLIENT + "think = [0.5, 2]").clients[0].think == (0.5, 2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = ", "script: Invalid value (at end of document)"),
        ("seed = 1", "script: there are no clients: add at least one [[clients]]"),
        ("seed = true\n" + CLIENT, "script, line 1: seed is True, but it must be a whole number from 0 to"),
        ("sead = 1\n" + CLIENT, "script, line 1: there is no key 'sead': did you mean 'seed'?"),
        ("zzz = 1\n" + CLIENT, "script, line 1: there is no key 'zzz': known are seed, data, server, clients"),
        ("[data]\npage_size = 500\n" + CLIENT, "script, line 2: page_size is 500, but it must be one of 512, 1024"),
        ("[data]\npage_size = 512.0\n" + CLIENT, "script, line 2: page_size is 512.0, but it must be one of"),
        (
            "[data]\npages = 1_000_000\n" + CLIENT,
            "script, line 2: the page file would have 8,192,000,000 bytes; the most",
        ),
        ("[server]\n\nchunk = 0\n" + CLIENT, "script, line 3: chunk is 0, but it must be a whole number from 1"),
        ("server = 3\n" + CLIENT, "script, line 1: server must be a table"),
        ("clients = 3", "script, line 1: there are no clients: add at least one [[clients]]"),
        ("clients = [3]", "script, line 1: clients must be a table"),
        ('[[clients]]\nkind = "scan"', "script, line 1: name is missing"),
        ('[[clients]]\nname = ""\nkind = "scan"', "script, line 2: name is '', but it must be a text of 1 to 40"),
        (
            CLIENT.replace("scan", "skan"),
            "script, line 3: kind is 'skan', but it must be one of 'scan', 'read', 'append'",
        ),
        (CLIENT + CLIENT.replace('"a"', '"b"') + "count = 0", "script, line 7: count is 0"),
        (
            CLIENT + CLIENT.replace('"a"', '"b"') + "cuont = 1",
            "script, line 7: there is no key 'cuont': did you mean 'count'",
        ),
        (CLIENT + CLIENT, "script, line 5: name 'a' is taken; use `count`"),
        (CLIENT + "count = true", "script, line 4: count is True"),
        (CLIENT + "start = nan", "script, line 4: start is nan, but it must be a number of seconds from 0 to 3600"),
        (CLIENT + "think = [2, 1]", "script, line 4: think is [2, 1], but it must be"),
        (CLIENT + "think = [1]", "script, line 4: think is [1], but it must be"),
        (CLIENT + "think = 'long'", "script, line 4: think is 'long', but it must be"),
        (CLIENT + "pages = 5000", "script, line 4: pages is 5,000, but the page file has 4,096"),
        (CLIENT + "pages = 5\ndies = 5", "script, line 5: dies is 5, but a request of this client ends after 5 pages"),
        (CLIENT.replace("scan", "append") + "dies = 1", "script, line 4: dies is for clients that read"),
        (CLIENT.replace("scan", "append") + "pause = 1", "script, line 4: pause is for clients that read"),
    ],
)
def test_an_error_says_where_it_is_and_what_would_be_right(text: str, message: str) -> None:
    with pytest.raises(ScriptError) as error:
        parse(text)
    assert str(error.value).startswith(message)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"absent\.toml cannot be read"):
        load(tmp_path / "absent.toml")
    (tmp_path / "latin").write_bytes(b"name = '\xe4'")
    with pytest.raises(ScriptError, match="latin cannot be read"):
        load(tmp_path / "latin")


values = st.sampled_from(
    ["true", "-1", "0", "1e400", '"x"', "[]", "[[1]]", "{}", "1979-05-27", "nan", "[1, 2]", "'''\n'''"]
)
keys = st.sampled_from([*KEYS["clients"], *KEYS["data"], "clients", "data", "server", "'odd key'"])


@given(st.lists(st.tuples(keys, values), max_size=4), st.sampled_from(["", "[data]\n", "[server]\n", CLIENT]))
def test_nothing_but_a_script_or_a_script_error_comes_out(pairs: list[tuple[str, str]], head: str) -> None:
    text = head + "\n".join(f"{key} = {value}" for key, value in pairs) + "\n" + CLIENT
    try:
        script = parse(text)
    except ScriptError:
        return
    assert script.clients
