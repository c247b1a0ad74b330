"""The simulated robot over real DDS: it looks and behaves like a robot."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("pybullet", reason="NOT VERIFIED: no PyBullet in this environment")
pytest.importorskip("rclpy", reason="NOT VERIFIED: no ROS 2 in this environment")

from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from std_srvs.srv import Trigger

from efm_core import messages, topics
from efm_core.actions import ActionDim, ActionSpace
from efm_sim.node import SimulatedRobotNode
from efm_sim.turn import Turn
from efm_sim.world import World, WorldConfig

SPACE = ActionSpace(
    dims=tuple(ActionDim(name=n, unit="m", low=-0.02, high=0.02) for n in ("x", "y"))
)
FRONT, COMMAND = topics.camera("front"), topics.twist_command("arm")
WORLD = {"image_width": 32, "image_height": 32}
SHOWN = (FRONT, topics.JOINT_STATES, topics.EE_POSE, topics.TRUTH_STATE, topics.TRUTH_SUCCESS,
         topics.RESET_STATUS)  # fmt: skip
PERIOD = 100_000_000


class Bench:
    """The robot under test, and a probe that plays guard and manager."""

    def __init__(self, context, executor, probe, spin_until, **parameters):
        values = {"world": json.dumps(WORLD), **parameters}
        self.robot = SimulatedRobotNode(
            context=context, namespace="/robot_1",
            parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
        )  # fmt: skip
        executor.add_node(self.robot)
        self.probe, self.spin_until = probe, spin_until
        probe.hear(*SHOWN)
        self.parameters = AsyncParameterClient(probe, "/robot_1/robot")
        self.reset_client = probe.create_client(Trigger, "reset")
        inputs = [COMMAND]
        self.lockstep = values.get("clock") != "real"
        if self.lockstep:
            inputs += [topics.GUARD_STATE, topics.EPISODE_TICK]
        spin_until(lambda: all(probe.sender(topic).subscribers for topic in inputs))
        spin_until(lambda: probe.heard[topics.RESET_STATUS.name])
        spin_until(lambda: self.reset_client.service_is_ready())
        spin_until(lambda: self.parameters.services_are_ready())

    def call(self, future):
        self.spin_until(future.done)
        return future.result()

    def reset(self, **scene):
        """Reset and return the first stamp once its picture is there."""
        scene = {"request": f"r{scene.get('seed', 0)}", **scene}
        values = [Parameter("scene", value=json.dumps(scene))]
        result = self.call(self.parameters.set_parameters(values)).results[0]
        assert result.successful, result.reason
        assert self.call(self.reset_client.call_async(Trigger.Request())).success
        wanted = {"state": "done", "request": scene["request"]}
        status = self.spin_status(wanted)
        start = int(status["stamp_ns"])
        if self.lockstep:
            self.see(start)
        return start

    def spin_status(self, wanted):
        def there():
            status = self.probe.status(topics.RESET_STATUS)
            return {k: status.get(k) for k in wanted} == wanted

        self.spin_until(there)
        return self.probe.status(topics.RESET_STATUS)

    def see(self, stamp):
        self.spin_until(lambda: stamp in self.probe.stamps(FRONT))

    def picture(self, stamp):
        (found,) = {
            messages.read_image(m).tobytes()
            for m in self.probe.heard[FRONT.name]
            if messages.stamp_of(m) == stamp
        }
        return found

    def command(self, stamp, velocity):
        self.probe.send(COMMAND, messages.twist(stamp, "base", (*velocity, 0.0)))

    def guard(self, stamp, source=1):
        state = messages.guard_state(stamp, [0, 0], SPACE, source, False, 0, 0.0, 0)
        self.probe.send(topics.GUARD_STATE, state)

    def tick(self, stamp, k, still=False):
        scalars = {"tick": float(k), "still": float(still)}
        self.probe.send(topics.EPISODE_TICK, messages.named_scalars(stamp, "", scalars))


@pytest.fixture
def bench(context, executor, probe, spin_until):
    return Bench(context, executor, probe, spin_until)


def stamp_at(start: int, tick: int) -> int:
    return start + tick * PERIOD


def test_reset_shows_the_world_of_the_scene(bench):
    start = bench.reset(seed=5)
    world = World(WorldConfig(**WORLD))
    world.reset(5)
    status = bench.probe.status(topics.RESET_STATUS)
    assert status["instruction"] == world.instruction
    assert (status["scene_hash"], status["scene_seed"]) == (world.scene_hash, "5")
    assert bench.picture(start) == world.render().tobytes()
    assert bench.probe.scalars(topics.JOINT_STATES, start) == pytest.approx(world.joint_positions)
    assert bench.probe.scalars(topics.TRUTH_STATE, start) == pytest.approx(world.truth())
    world.close()


def test_it_moves_once_all_three_answers_are_there_like_the_world_without_ros(bench):
    start = bench.reset(seed=6)
    world = World(WorldConfig(**WORLD))
    world.reset(6)
    velocity = (0.1, -0.05)
    for k in range(5):
        stamp = stamp_at(start, k)
        senders = [
            lambda s=stamp: bench.command(s, velocity),
            lambda s=stamp: bench.guard(s),
            lambda s=stamp, k=k: bench.tick(s, k),
        ]
        for index in range(3):  # another order every time
            senders[(index + k) % 3]()
        bench.see(stamp_at(start, k + 1))
        world.step(velocity)
        assert bench.picture(stamp_at(start, k + 1)) == world.render().tobytes()
    world.close()


def test_other_stamps_and_missing_answers_do_not_advance_it(bench):
    start = bench.reset(seed=7)
    bench.command(start + 1, (0.1, 0.0))
    bench.guard(start + 1)
    bench.tick(start, 0)
    bench.guard(start)
    seen = len(bench.probe.stamps(FRONT))
    bench.spin_until(lambda: len(bench.probe.stamps(FRONT)) > seen)  # it asks again
    assert max(bench.probe.stamps(FRONT)) == start
    bench.command(start, (0.0, 0.0))
    bench.see(stamp_at(start, 1))


def test_a_lost_answer_is_asked_for_again_with_the_same_picture(bench):
    start = bench.reset(seed=8)
    bench.spin_until(lambda: bench.probe.stamps(FRONT).count(start) >= 2)
    assert len(bench.picture(start)) == 32 * 32 * 3
    assert bench.probe.stamps(topics.TRUTH_STATE).count(start) >= 2


def test_a_still_tick_waits_for_the_guards_hold(bench):
    start = bench.reset(seed=9)
    world = World(WorldConfig(**WORLD))
    world.reset(9)
    bench.command(start, (0.1, 0.0))  # the policy's answer, given before the end was known
    bench.guard(start, source=1)
    bench.tick(start, 0, still=True)
    bench.command(start, (0.0, 0.0))
    bench.guard(start, source=0)
    bench.see(stamp_at(start, 1))
    world.step((0.0, 0.0))
    assert bench.picture(stamp_at(start, 1)) == world.render().tobytes()
    world.close()


def test_stamps_never_go_back(bench):
    first = bench.reset(seed=1)
    later = first + 3600 * 10**9
    assert bench.reset(seed=2, not_before_ns=later) == later
    assert bench.reset(seed=3) > later


def test_a_saved_state_is_restored(bench):
    world = World(WorldConfig(**WORLD))
    world.reset(11)
    for _ in range(4):
        world.step((0.05, 0.1))
    start = bench.reset(state=world.save_state())
    assert bench.picture(start) == world.render().tobytes()
    world.close()


def test_bad_scenes_are_refused_with_the_field(bench):
    def reason(text):
        future = bench.parameters.set_parameters([Parameter("scene", value=text)])
        result = bench.call(future).results[0]
        assert not result.successful
        return result.reason

    assert "seed" in reason('{"seed": "many"}')
    assert "colour" in reason('{"colour": 3}')
    assert "scene" in reason("{cut")
    values = [Parameter("scene", value='{"seed": 1, "instruction": "fly away"}')]
    assert bench.call(bench.parameters.set_parameters(values)).results[0].successful
    assert bench.call(bench.reset_client.call_async(Trigger.Request())).success
    status = bench.spin_status({"state": "failed"})
    assert "fly away" in status["reason"]


def test_bad_parameters_name_the_field(context):
    for name, value in (("world", '{"physics_hz": 7}'), ("clock", "sundial")):
        with pytest.raises(ValueError, match=name):
            SimulatedRobotNode(
                context=context, parameter_overrides=[Parameter(name, value=value)]
            )


def test_real_time_moves_with_the_clock_and_stops_without_commands(
    context, executor, probe, spin_until
):
    bench = Bench(
        context, executor, probe, spin_until, clock="real",
        world=json.dumps({**WORLD, "control_hz": 50, "physics_hz": 100}),
    )  # fmt: skip
    start = bench.reset(seed=3)

    def x():
        stamps = probe.stamps(topics.EE_POSE)
        return messages.read_position(probe.heard[topics.EE_POSE.name][-1])[0], stamps[-1]

    before, _ = x()
    bench.command(start, (-0.1 if before > 0.4 else 0.1, 0.0))
    spin_until(lambda: abs(x()[0] - before) > 0.01)
    # One command stands for 0.25 s: 13 periods of 2 mm at most (and one that was under way).
    count = len(probe.stamps(FRONT))
    spin_until(lambda: len(probe.stamps(FRONT)) > count + 20)
    at_rest, _ = x()
    assert abs(at_rest - before) < 0.031
    count = len(probe.stamps(FRONT))
    spin_until(lambda: len(probe.stamps(FRONT)) > count + 3)
    assert x()[0] == pytest.approx(at_rest, abs=1e-4)
    gaps = np.diff([s for s in probe.stamps(FRONT) if s > start]) / 1e9
    assert np.median(gaps) == pytest.approx(0.02, rel=0.5)


def test_turn_wants_command_guard_and_tick_of_its_stamp():
    turn = Turn()
    turn.begin(100)
    turn.hear_command(100, (0.1, 0.0))
    turn.hear_guard(100, 1)
    turn.hear_tick(99, False)
    assert turn.due() is None
    turn.hear_tick(100, False)
    assert turn.due() == (0.1, 0.0)
    turn.begin(200)
    assert turn.due() is None


def test_turn_settles_for_the_guards_word_after_a_long_silence():
    turn = Turn()
    turn.begin(100)
    turn.hear_command(100, (0.1, 0.0))
    turn.hear_guard(100, 1)
    turn.hear_tick(100, True)
    assert turn.due() is None
    turn.settle()
    assert turn.due() == (0.1, 0.0)
