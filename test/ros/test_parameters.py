"""Declaring parameters over the one table: what is refused, at the start and later, and how."""

from __future__ import annotations

import re

import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter

from efm_bringup.parameter_page import NODES
from efm_episode_manager.node import EpisodeManagerNode
from efm_ros.parameters import ParameterError, ParameterSpec, declare

SPECS = (
    ParameterSpec("wait_s", 2.0, "longest wait", "s", 0.5, 60.0, writable=True),
    ParameterSpec("tries", 3, "how often", "", 1, 9),
    ParameterSpec("clock", "real", "which clock", choices=("real", "lockstep"), writable=True),
    ParameterSpec("names", (), "whom"),
    ParameterSpec("corner", (0.1, 0.2), "a place", "m"),
    ParameterSpec("path", "", "path of a file", required=True),
    ParameterSpec("even", 2, "an even number", writable=True, check=lambda v: _even(v)),
)


def _even(value: int) -> None:
    if value % 2:
        raise ValueError("it must be even")


@pytest.fixture
def make(context):
    made: list[Node] = []

    def start(**given) -> Node:
        overrides = [Parameter(k, value=v) for k, v in {"path": "a", **given}.items()]
        made.append(Node("tested", namespace="lab", context=context, parameter_overrides=overrides))
        return made[-1]

    yield start
    for node in made:
        node.destroy_node()


def test_values_and_descriptors(make):
    node = make(names=["a", ""], wait_s=3.0)
    values = declare(node, SPECS)
    assert values == {"wait_s": 3.0, "tries": 3, "clock": "real", "names": ("a",),
                      "corner": (0.1, 0.2), "path": "a", "even": 2}  # fmt: skip
    wait = node.describe_parameter("wait_s")
    assert wait.description == "longest wait [s]"
    assert not wait.read_only
    (limits,) = wait.floating_point_range
    assert (limits.from_value, limits.to_value) == (0.5, 60.0)
    assert node.describe_parameter("tries").read_only
    assert node.describe_parameter("clock").additional_constraints == "real or lockstep"
    assert list(node.get_parameter("names").value) == ["a", ""]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"wait_s": 0.1}, "parameter 'wait_s' is 0.1; give a number from 0.5 to 60.0 s"),
        ({"wait_s": 2}, "'wait_s' is 2; give a number from 0.5 to 60.0 s, of type double, "
                        "written as 2.0"),
        ({"wait_s": float("nan")}, "'wait_s' is nan; give a number from 0.5 to 60.0 s"),
        ({"tries": 10}, "parameter 'tries' is 10; give a number from 1 to 9"),
        ({"clock": "sun"}, "parameter 'clock' is 'sun'; use real or lockstep"),
        ({"path": ""}, "parameter 'path' is empty; give the path of a file: -p path:=..."),
        ({"even": 3}, "parameter 'even' is 3; it must be even"),
        ({"names": [1, 2]}, "of type string[], written as ['text']"),
        ({"wait_S": 2.0}, "there is no parameter 'wait_S'; write 'wait_s'"),
    ],
)  # fmt: skip
def test_what_is_no_good_is_refused_by_name_value_and_remedy(make, given, said):
    with pytest.raises(ParameterError, match=f"/lab/tested: .*{re.escape(said)}"):
        declare(make(**given), SPECS)


def test_other_nodes_parameters_in_a_common_file_are_none_of_ours(make):
    assert declare(make(use_sim_time=True, run_dir="x"), SPECS)["tries"] == 3


def test_a_change_takes_effect_only_when_it_is_good(make):
    changes = []

    def on_change(values):
        if values.get("wait_s") == 13.0:
            raise ValueError("13 s bring bad luck")
        changes.append(dict(values))

    node = make()
    declare(node, SPECS, on_change)

    def change(name, value):
        (result,) = node.set_parameters([Parameter(name, value=value)])
        return result

    assert change("wait_s", 5.0).successful
    assert changes == [{"wait_s": 5.0}]
    for name, value, said in (
        ("wait_s", 90.0, "wait_s"), ("wait_s", 5, "DOUBLE"), ("tries", 4, "read-only"),
        ("clock", "sun", "/lab/tested: parameter 'clock' is 'sun'; use real or lockstep"),
        ("even", 5, "it must be even"), ("wait_s", 13.0, "/lab/tested: 13 s bring bad luck"),
    ):  # fmt: skip
        result = change(name, value)
        assert not result.successful
        assert said in result.reason
    assert node.get_parameter("wait_s").value == 5.0
    assert node.get_parameter("clock").value == "real"
    assert changes == [{"wait_s": 5.0}]


def test_a_managers_patience_is_changed_while_it_runs(context, executor, spin_until, tmp_path,
                                                      space):  # fmt: skip
    given = {"data_dir": str(tmp_path), "action_space": space.model_dump_json(),
             "autostart": True, "operator_s": 900.0}  # fmt: skip
    node = EpisodeManagerNode(
        context=context, namespace="robot_1",
        parameter_overrides=[Parameter(k, value=v) for k, v in given.items()],
    )  # fmt: skip
    executor.add_node(node)
    spin_until(lambda: node.active)
    core = node.conductor.core
    assert core.settings.operator_s == 900.0
    values = [("operator_s", 1200.0), ("silence_s", 3.0), ("reserve_mb", 5.0)]
    results = node.set_parameters([Parameter(k, value=v) for k, v in values])
    assert all(result.successful for result in results)
    assert (core.settings.operator_s, core.settings.reserve_bytes) == (1200.0, 5_000_000)
    assert core.liveness.limit_s == 3.0
    (refused,) = node.set_parameters([Parameter("silence_s", value=0.0)])
    assert not refused.successful
    assert core.liveness.limit_s == 3.0


def test_the_page_names_every_node_once():
    assert len({node.name for node in NODES}) == len(NODES)
